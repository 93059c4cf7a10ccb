"""The functions of the op table as machine code, against torch's in float64."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from torch import Tensor

from framework.ops import TABLE
from framework.runners import compiled_native as native
from framework.runners.compiled_function import SIGNATURE
from framework.runners.compiled_math import POINT
from framework.runners.compiled_text import Code

pytest.importorskip("llvmlite")
REALS = {torch.float32: "float", torch.float64: "double"}


def values_of(kinds: list[str], x: Tensor) -> dict[str, Tensor]:
    """Each function of x (with x reversed as the second argument), by one piece of code."""
    v = native.vectors(REALS[x.dtype])
    assert x.numel() % v.width == 0
    c = Code(v)
    given = [c.get(f"load ptr, ptr {c.at('%p', i, 'ptr')}") for i in range(2)]
    out = {kind: c.get(f"load ptr, ptr {c.at('%p', i + 2, 'ptr')}") for i, kind in enumerate(kinds)}
    with c.loop(0, "%T", v.width) as i:
        args = [c.load(c.at(p, i)) for p in given]
        for kind, p in out.items():
            c.store(POINT[kind](c, *args[: TABLE[kind].arity]), c.at(p, i))
    run = native.function("\n".join([*sorted(c.declared), c.function(SIGNATURE)]))
    other = x.flip(0).contiguous()
    results = {kind: torch.empty_like(x) for kind in kinds}
    addresses = [y.data_ptr() for y in (x, other, *results.values())]
    run((ctypes.c_void_p * len(addresses))(*addresses), x.numel(), *[0] * 7, None)
    return results


def by_torch(kind: str, x: Tensor) -> Tensor:
    form = TABLE[kind].torch.format("x", "other")
    return eval(form, {"torch": torch, "x": x, "other": x.flip(0)})


POSITIVE = ("log", "sqrt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_functions_are_exact_to_a_few_units_in_the_last_place(dtype: torch.dtype):
    """Of the result, or of 1 where it is less than that (gelu far below 0 is a difference of equals)."""
    eps = torch.finfo(dtype).eps
    parts = [torch.linspace(-12, 12, 4096), torch.logspace(-30, 1.9, 2048), -torch.logspace(-30, 1.9, 2048)]
    x = torch.cat([p.double() for p in parts]).to(dtype)
    positive = [*POSITIVE, "log1p"]
    for kinds, given in (([k for k in POINT if k not in positive], x), (positive, x.abs())):
        for kind, y in values_of(kinds, given).items():
            exact = by_torch(kind, given.double())
            error = (y.double() - exact).abs() / exact.abs().clamp(min=1.0 if kind == "gelu" else 1e-30)
            limit = 4.0 if kind != "hard_sigmoid" else 256.0  # a difference of equals near -3
            assert error.max() <= limit * eps, f"{kind}: {error.max() / eps:.1f} at {given[error.argmax()]}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_edges(dtype: torch.dtype):
    """Infinities, not a number, zeros and large arguments give what torch gives; tiny results may be 0."""
    edges = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e30, -1e30, 100.0, -100.0, 800.0, -800.0, 20.5, -20.5]
    x = torch.tensor([*edges, 1.0, -1.0, 2.5], dtype=dtype)
    smooth = [
        "sigmoid",
        "tanh",
        "relu",
        "softplus",
        "exp",
        "log",
        "log1p",
        "abs",
        "sqrt",
        "reciprocal",
        "sign",
    ]
    smooth += ["hard_tanh", "hard_sigmoid", "elu", "square"]
    for kind, y in values_of(smooth, x).items():
        want = by_torch(kind, x)
        same = torch.isclose(y, want, rtol=1e-5, atol=1e-30, equal_nan=True)
        if kind == "sign":  # what the sign of no number is decides nothing
            same |= x.isnan()
        assert same.all(), (
            f"{kind}({x[~same].tolist()}): {y[~same].tolist()}, torch has {want[~same].tolist()}"
        )
