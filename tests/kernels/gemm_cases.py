"""Launches of the matmul for compile_worker.py: real shapes, tensors that are never touched."""

from __future__ import annotations

import torch

from kernels.activations import activation_backward
from kernels.gemm import matmul, matmul_dw, matmul_dx
from kernels.launch import GemmLaunch, GemmTile
from kernels.lookup import lookup, lookup_dw
from kernels.sums import column_sum


def forward(m: int, n: int, k: int, dtype: str, precision: str = "ieee", rows: bool = False) -> None:
    """The hoisted product of a layer: features, a weight [n, k], bias, activation, added to a range of
    columns.
    """
    kind = getattr(torch, dtype)
    wide = torch.empty(m, n + 64, dtype=kind)
    index = torch.empty(m, dtype=torch.int64) if rows else None
    weight = torch.empty(n, k, dtype=kind)
    bias = torch.empty(n)
    matmul(torch.empty(m, k, dtype=kind), weight.T, bias, "tanh", index, wide[:, :n], True, precision)


def backward(m: int, n: int, k: int, dtype: str, precision: str = "ieee") -> None:
    """Its gradients: of the features, then of the weight."""
    kind = getattr(torch, dtype)
    a, dy, weight = (
        torch.empty(m, k, dtype=kind),
        torch.empty(m, n, dtype=kind),
        torch.empty(n, k, dtype=kind),
    )
    matmul_dx(dy, weight.T, precision=precision)
    matmul_dw(a, dy, out=torch.empty(n, k).T, accumulate=True, precision=precision)


def rest(m: int, n: int, dtype: str) -> None:
    """The kernels around the product: slope of the activation, gradient of the bias."""
    y = torch.empty(m, n, dtype=getattr(torch, dtype))
    column_sum(activation_backward(torch.empty_like(y), y, "tanh"))


def too_large_tile() -> None:
    """Sums that one warp cannot hold in registers: the bench must see that they spill."""
    a, b = torch.empty(1024, 1024).half(), torch.empty(1024, 1024).half()
    matmul(a, b, launch=GemmLaunch(GemmTile(64, 128, 16, warps=1, stages=2), splits=1, programs=8))


def too_much_shared_memory() -> None:
    """Four blocks in flight that do not fit a chip with 99 KB."""
    a, b = torch.empty(1024, 1024).half(), torch.empty(1024, 1024).half()
    matmul(a, b, launch=GemmLaunch(GemmTile(128, 128, 64, warps=8, stages=5), splits=1, programs=8))


def table(m: int, n: int, vocab: int, dtype: str) -> None:
    """Index inputs: rows of a weight [n, vocab] picked, and its gradient."""
    kind = getattr(torch, dtype)
    index = torch.zeros(m, dtype=torch.int64)
    lookup(torch.empty(n, vocab, dtype=kind).T, index, torch.empty(n))
    lookup_dw(index, torch.empty(m, n, dtype=kind), torch.empty(n, vocab).T)
