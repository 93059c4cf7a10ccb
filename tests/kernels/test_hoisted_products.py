"""Products outside the loops by our kernels: who does which, and into what, against torch and float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.machine import machine
from framework.products import ROWS, product_text
from framework.runners import hoisted_products
from framework.runners.hoisted_products import KernelProducts, TorchProducts, products_by
from kernels import launch
from kernels.gemm import launch_of
from tests.kernels.closeness import assert_as_exact_as, poisoned

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coef", [1.0, -0.7])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_products_into_columns(dtype, coef, fresh, with_bias):
    """Both ways to do a product agree, whatever stands in the columns, and touch nothing else."""
    torch.manual_seed(1)
    x, w = torch.randn(37, 9).to(dtype), torch.randn(21, 9).to(dtype)
    bias = torch.randn(21).to(dtype) if with_bias else None
    before = poisoned(37, 21, dtype=dtype) if fresh else torch.randn(37, 21).to(dtype)
    exact = coef * (x.double() @ w.double().t()) + (0 if fresh else before.double())
    exact += 0 if bias is None else bias.double()
    results = []
    for products in (KernelProducts(forced=True), TorchProducts()):
        wide = poisoned(37, 40, dtype=dtype)
        wide[:, 8:29] = before
        products.add(wide[:, 8:29], x, w, bias, coef, fresh)
        assert wide[:, :8].isnan().all() and wide[:, 29:].isnan().all()
        results.append(wide[:, 8:29])
    assert_as_exact_as(results[0], results[1], exact)


def test_the_table_decides_product_by_product(monkeypatch):
    """Rows that are not measured go to torch; a measured one to whom it names, for its shapes only."""
    asked: list[tuple[int, ...]] = []
    real = TorchProducts.whole

    def spy(self: Any, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        asked.append((*x.shape, w.shape[0]))
        return real(self, x, w, bias)

    monkeypatch.setattr(TorchProducts, "whole", spy)
    by = products_by("table", torch.device("cpu"))
    small, large, w = torch.randn(4, 8), torch.randn(20, 8), torch.randn(6, 8)
    by.whole(small, w, None)
    by.whole(large, w, None)
    assert asked == [(4, 8, 6), (20, 8, 6)]
    asked.clear()
    first = replace(launch.GEMM_TABLE[-1], max_m=16, measured=True)
    assert first.chip == "interpreter" and first.kind == "ieee"
    monkeypatch.setattr(launch, "GEMM_TABLE", (first, *launch.GEMM_TABLE))
    torch.testing.assert_close(by.whole(small, w, None), small @ w.t())
    assert asked == []
    by.whole(large, w, None)
    assert asked == [(20, 8, 6)]
    asked.clear()
    monkeypatch.setattr(launch, "GEMM_TABLE", (replace(first, backend="torch"), *launch.GEMM_TABLE[1:]))
    by.whole(small, w, None)
    assert asked == [(4, 8, 6)]
    asked.clear()
    monkeypatch.setattr(launch, "UNMEASURED", "triton")
    by.whole(large, w, None)
    assert asked == []


def test_tf32_follows_torch(monkeypatch):
    x = torch.zeros(2, 2)
    assert hoisted_products.precision_of(x) == "ieee"
    monkeypatch.setattr(hoisted_products, "tf32_allowed", lambda: True)
    assert hoisted_products.precision_of(x) == "tf32"
    assert hoisted_products.precision_of(x.half()) == "ieee"


@pytest.mark.parametrize("chip", ["sm_80", "sm_90", "gfx9"])
def test_the_plan_prints_what_is_launched(chip, monkeypatch):
    """For the shapes, strides and addresses that a network has."""
    where = machine("cuda", chip, "bf16")
    monkeypatch.setattr("kernels.gemm.current_chip", lambda device: launch.Chip(chip, where.units))
    for n, k, width, lo in ((512, 80, 512, 0), (61, 128, 61, 0), (64, 40, 128, 64), (64, 256, 72, 4)):
        x, w = torch.empty(ROWS, k).bfloat16(), torch.empty(n, k).bfloat16()
        g = torch.empty(ROWS, width).bfloat16()[:, lo : lo + n]
        there = [launch_of(x, w.t()), launch_of(g, w), launch_of(g.t(), x)]
        forward, dx, dw = (f"by triton {launch.blocks_of(some.tile)}" for some in there)
        assert product_text(where, "triton", n, k, width, lo) == (
            forward,
            f"gradients: of the input {dx}; of the weights {dw}",
        )
