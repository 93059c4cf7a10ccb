"""The tests of products on a GPU as functions of the device and the sizes, see bodies.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.gpu.cases import relative


def product(m: int, n: int, k: int, kind: torch.dtype, device: str) -> None:
    """matmul and its gradients into poisoned buffers: error at most twice torch's own at that dtype."""
    from kernels import matmul, matmul_dw, matmul_dx

    g = torch.Generator().manual_seed(m)
    a, b, dy = (torch.randn(*s, generator=g).to(device, kind) for s in ((m, k), (k, n), (m, n)))

    def check(name: str, ours: Callable[..., Tensor], left: Tensor, right: Tensor, *given: Tensor) -> None:
        out = torch.full((left.shape[0], right.shape[1]), float("nan"), device=device, dtype=kind)
        ours(*given, out=out)
        exact = left.double().cpu() @ right.double().cpu()
        own, error = relative(left @ right, exact), relative(out, exact)
        assert error <= 2 * max(own, torch.finfo(kind).eps), f"{name}: {error:.2e}, torch's own {own:.2e}"
        again = torch.empty_like(out)
        ours(*given, out=again)
        assert torch.equal(out, again), f"{name} differs when repeated"

    check("product", matmul, a, b, a, b)
    check("dx", matmul_dx, dy, b.T, dy, b)
    check("dw", matmul_dw, a.T, dy, a, dy)


def table(rows: int, size: int, vocab: int, kind: torch.dtype, device: str) -> None:
    """Rows of a table by index are exact; their gradient is a sum in float32."""
    from kernels.lookup import lookup, lookup_dw

    g = torch.Generator().manual_seed(rows)
    weight = torch.randn(size, vocab, generator=g).to(device, kind)
    index = torch.randint(vocab, (rows,), generator=g).to(device)
    assert torch.equal(lookup(weight.T, index), weight.T[index])
    dy = torch.randn(rows, size, generator=g).to(device, kind)
    out = torch.full((size, vocab), float("nan"), device=device)
    lookup_dw(index, dy, out.T)
    exact = torch.zeros(vocab, size, dtype=torch.float64).index_add_(0, index.cpu(), dy.double().cpu()).T
    terms = torch.zeros(vocab).index_add_(0, index.cpu(), torch.ones(rows)).max().sqrt().item()
    assert relative(out, exact) <= terms * torch.finfo(torch.float32).eps


def bias(rows: int, size: int, kind: torch.dtype, device: str) -> None:
    """The sum of columns, in float32 whatever the dtype."""
    from kernels import column_sum

    x = torch.randn(rows, size, generator=torch.Generator().manual_seed(rows)).to(device, kind)
    got = column_sum(x)
    assert relative(got, x.double().cpu().sum(0)) <= rows**0.5 * torch.finfo(torch.float32).eps
    assert torch.equal(got, column_sum(x))
