"""Functions of generated cells that are ours: as exact as torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from kernels.activations import relu, sigmoid, tanh
from tests.kernels.closeness import assert_as_exact_as

TORCH: dict[str, Callable[..., torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
}
OURS: dict[str, Any] = {"sigmoid": sigmoid, "tanh": tanh, "relu": relu}


@triton.jit
def each(p_x, p_y, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    """y = FUNCTION(x)."""
    o_at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.load(p_x + o_at, mask=o_at < n, other=0.0)  # [BLOCK]
    tl.store(p_y + o_at, FUNCTION(b_x), mask=o_at < n)


def run(name: str, x: torch.Tensor) -> torch.Tensor:
    y = torch.full_like(x, float("nan"))
    each[(triton.cdiv(len(x), 4096),)](x, y, len(x), FUNCTION=OURS[name], BLOCK=4096)
    return y


# Bounds of |x|: a tanh of small numbers must be as exact as one near 1.
RANGES = [(0.0, 1e-3), (1e-3, 0.1), (0.1, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 9.0), (9.0, 80.0)]


@pytest.mark.parametrize(("lo", "hi"), RANGES)
@pytest.mark.parametrize("name", OURS)
def test_float32(name: str, lo: float, hi: float):
    """Evenly spaced numbers of both signs: the largest error of 40,000, and their mean square."""
    x = torch.linspace(lo, hi, 20_001, dtype=torch.float64)[1:].float()
    for signed in (x, -x):
        want, reference, found = TORCH[name](signed.double()), TORCH[name](signed), run(name, signed)
        assert_as_exact_as(found, reference, want)
        squares = [(y.double() - want).square().mean() for y in (found, reference)]
        assert squares[0] <= 4 * squares[1]


def test_float64():
    x = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    for name, bound in (("sigmoid", 4e-16), ("tanh", 2e-10), ("relu", 0.0)):
        assert (run(name, x) - TORCH[name](x)).abs().max() <= bound


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_ends(kind: torch.dtype):
    """Infinities have limits, 0 stays 0, and a NaN is not hidden."""
    x = torch.tensor([float("-inf"), -1e30, 0.0, 1e30, float("inf"), float("nan")], dtype=kind)
    for name in OURS:
        torch.testing.assert_close(run(name, x), TORCH[name](x), rtol=0, atol=0, equal_nan=True)
