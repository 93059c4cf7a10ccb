"""Products as operators of torch: torch's own checks, derivatives, torch.compile without a break."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import custom_ops as ops
from tests.kernels.closeness import assert_as_exact_as


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=g).to(dtype).requires_grad_()

    rows = torch.tensor([3, 0, 3, 1, 2, 3, 0])
    return {"a": draw(7, 5), "table": draw(4, 5), "weight": draw(6, 5), "bias": draw(6), "rows": rows,
            "dy": draw(7, 6).detach()}  # fmt: skip


def product(t: dict[str, Tensor]) -> Tensor:
    return ops.matmul(t["a"], t["weight"].T, t["bias"], "tanh")


def plain_product(t: dict[str, Tensor]) -> Tensor:
    return torch.tanh(t["a"] @ t["weight"].T + t["bias"])


def gathered(t: dict[str, Tensor]) -> Tensor:
    return ops.matmul(t["table"], t["weight"].T, None, None, t["rows"])


def plain_gathered(t: dict[str, Tensor]) -> Tensor:
    return t["table"][t["rows"]] @ t["weight"].T


def looked_up(t: dict[str, Tensor]) -> Tensor:
    return ops.lookup(t["weight"], t["rows"], t["bias"][:5], "sigmoid")


def plain_looked_up(t: dict[str, Tensor]) -> Tensor:
    return torch.sigmoid(t["weight"][t["rows"]] + t["bias"][:5])


CASES = [(product, plain_product), (gathered, plain_gathered), (looked_up, plain_looked_up)]


def results(run: Any, t: dict[str, Tensor]) -> dict[str, Tensor]:
    for x in t.values():
        x.grad = None
    y = run(t)
    y.backward(t["dy"][:, : y.shape[1]])
    return {"y": y.detach()} | {n: x.grad for n, x in t.items() if x.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("ours", "plain"), CASES, ids=["matmul", "rows", "lookup"])
def test_values_and_derivatives(ours: Any, plain: Any, dtype: torch.dtype):
    t = tensors(dtype)
    double = {n: x.detach().double() if x.is_floating_point() else x for n, x in t.items()}
    exact = results(plain, {n: x.requires_grad_(x.is_floating_point()) for n, x in double.items()})
    exact.pop("dy", None)
    got, reference = results(ours, t), results(plain, t)
    assert got.keys() == reference.keys() == exact.keys()
    for name in exact:
        assert_as_exact_as(got[name], reference[name], exact[name])


@pytest.mark.parametrize(("ours", "plain"), CASES, ids=["matmul", "rows", "lookup"])
def test_compiled_in_one_graph(ours: Any, plain: Any):
    torch._dynamo.reset()
    t = tensors()
    got = results(torch.compile(ours, fullgraph=True, backend="aot_eager"), t)
    for name, want in results(ours, t).items():
        torch.testing.assert_close(got[name], want)
    torch._dynamo.reset()


def test_rules_of_torch():
    t = tensors()
    g = torch.randn(7, 6)
    y = torch.tanh(torch.randn(7, 6))
    turned = t["weight"].T.detach().requires_grad_()
    samples: list[tuple[Any, tuple[Any, ...]]] = [
        (ops.matmul, (t["a"], turned, t["bias"], "tanh")),
        (ops.matmul, (t["table"], turned, None, None, t["rows"])),
        (ops.matmul_dw, (t["a"].detach(), g)),
        (ops.lookup, (t["weight"], t["rows"], None, "relu")),
        (ops.lookup_dw, (t["rows"], g, 4)),
        (ops.activation_backward, (g, y, "tanh")),
        (ops.column_sum, (g,)),
    ]
    for op, args in samples:
        torch.library.opcheck(op, args)


def test_second_derivatives_are_refused():
    t = tensors()
    (da,) = torch.autograd.grad(product(t).square().sum(), t["a"], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        da.sum().backward()


def test_an_unknown_precision_is_an_error():
    t = tensors()
    with pytest.raises(ValueError, match="precision 'fp8' is unknown"):
        ops.matmul(t["a"], t["weight"].T, precision="fp8")
