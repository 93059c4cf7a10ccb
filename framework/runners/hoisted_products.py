"""The products outside the loops, forward and backward, by torch or by our Triton kernels.

Which of the two is decided here and nowhere else, product by product; `framework.products` prints it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from framework.errors import ConfigError
from framework.products import By
from framework.runners import functions
from framework.runners.place import tf32_allowed
from framework.runners.products import add_times_t, outer, times, times_t

if TYPE_CHECKING:
    from kernels.gemm import Precision
    from kernels.launch import GemmLaunch


class TorchProducts:
    """By torch, or on a CPU by oneDNN. x [M, K], w [N, K], g and out [M, N], where M = T*B."""

    def whole(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """X w^T (+ bias [N]) as a new tensor [M, N]."""
        return times_t(x, w, bias)

    def add(self, out: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, coef: float, fresh: bool) -> None:
        """Out += coef * x w^T + bias; `fresh`: nothing stands in out yet."""
        add_times_t(out, x, w, bias, coef, fresh)

    def add_rows(self, out: Tensor, index: Tensor, table: Tensor, coef: float, fresh: bool) -> None:
        """Out += coef * table[index]; index [M] of rows of [V, N], -1 is a row of zeros."""
        add_values(out, functions.gather(index, table), coef, fresh)

    def dx(self, g: Tensor, w: Tensor) -> Tensor:
        """G w: the gradient of x, [M, K]."""
        return times(g, w)

    def dw(self, g: Tensor, x: Tensor) -> Tensor:
        """g^T x: the gradient of w, [N, K]."""
        return outer(g, x)

    def dbias(self, g: Tensor) -> Tensor:
        """The sum of g over its rows, [N]."""
        return g.sum(0)

    def dtable(self, index: Tensor, g: Tensor, rows: int) -> Tensor:
        """The gradient [rows, N] of a table."""
        # One row more takes what comes from before the first step (index -1).
        out = g.new_zeros(rows + 1, g.shape[1])
        return out.index_add_(0, torch.where(index < 0, rows, index), g)[:-1]


class KernelProducts(TorchProducts):
    """By the kernels: all of them (`forced`), or those for which the launch table names triton.

    Index inputs always: torch's gradient of a table adds in any order on a GPU, ours in one.
    """

    def __init__(self, forced: bool):
        self.forced = forced

    def _launch(self, a: Tensor, b: Tensor, precision: Precision) -> GemmLaunch | None:
        """How to launch a @ b; None: leave it to torch."""
        from dataclasses import replace

        from kernels.gemm import launch_of
        from kernels.launch import hoisted_backend

        launch = launch_of(a, b, precision=precision)
        if hoisted_backend(launch, self.forced) == "torch":
            return None
        return replace(launch, backend="triton")

    def whole(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """See TorchProducts."""
        from kernels.gemm import matmul

        precision = precision_of(x)
        launch = self._launch(x, w.t(), precision)
        if launch is None:
            return super().whole(x, w, bias)
        return matmul(x, w.t(), bias, precision=precision, launch=launch)

    def add(self, out: Tensor, x: Tensor, w: Tensor, bias: Tensor | None, coef: float, fresh: bool) -> None:
        """See TorchProducts."""
        from kernels.gemm import matmul

        precision = precision_of(x)
        launch = self._launch(x, w.t(), precision)
        if launch is None:
            super().add(out, x, w, bias, coef, fresh)
        elif coef == 1.0:
            matmul(x, w.t(), bias, out=out, accumulate=not fresh, precision=precision, launch=launch)
        else:  # rare: by way of float32, so that it is rounded once
            sums = torch.empty(out.shape, dtype=torch.float32, device=out.device)
            matmul(x, w.t(), out=sums, precision=precision, launch=launch)
            sums.mul_(coef)
            if bias is not None:
                sums.add_(bias)
            add_values(out, sums, 1.0, fresh)

    def add_rows(self, out: Tensor, index: Tensor, table: Tensor, coef: float, fresh: bool) -> None:
        """See TorchProducts."""
        from kernels.lookup import lookup

        if coef == 1.0:
            lookup(table, index, out=out, accumulate=not fresh, blank=True)
        else:
            add_values(out, lookup(table, index, blank=True), coef, fresh)

    def dx(self, g: Tensor, w: Tensor) -> Tensor:
        """See TorchProducts."""
        from kernels.gemm import matmul_dx

        precision = precision_of(g)
        launch = self._launch(g, w, precision)
        return super().dx(g, w) if launch is None else matmul_dx(g, w.t(), precision=precision, launch=launch)

    def dw(self, g: Tensor, x: Tensor) -> Tensor:
        """See TorchProducts."""
        from kernels.gemm import matmul_dw

        precision = precision_of(g)
        launch = self._launch(g.t(), x, precision)
        return super().dw(g, x) if launch is None else matmul_dw(g, x, precision=precision, launch=launch)

    def dbias(self, g: Tensor) -> Tensor:
        """See TorchProducts; with the products, so that a network forced to one library uses one."""
        from kernels.sums import column_sum

        if not self.forced:
            return super().dbias(g)
        return column_sum(g, out=g.new_empty(g.shape[1]))

    def dtable(self, index: Tensor, g: Tensor, rows: int) -> Tensor:
        """See TorchProducts."""
        from kernels.lookup import lookup_dw

        return lookup_dw(index, g, g.new_empty(rows, g.shape[1]))


def add_values(out: Tensor, value: Tensor, coef: float, fresh: bool) -> None:
    """Out += coef * value, which has the shape of out or one that broadcasts to it."""
    if not fresh:
        out.add_(value, alpha=coef)
    elif coef != 1.0 and value.shape == out.shape:
        torch.mul(value, coef, out=out)
    else:
        out.copy_(value)
        if coef != 1.0:
            out.mul_(coef)


def precision_of(x: Tensor) -> Precision:
    """How float32 is multiplied: as torch is set to."""
    return "tf32" if x.dtype == torch.float32 and tf32_allowed() else "ieee"


_BY: dict[By, TorchProducts] = {
    "torch": TorchProducts(),
    "table": KernelProducts(forced=False),
    "triton": KernelProducts(forced=True),
}


def products_by(by: By, device: torch.device) -> TorchProducts:
    """Who multiplies on a device. Raises ConfigError for kernels on a CPU, unless Triton interprets."""
    if by != "torch" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        cause = "'triton' multiplies on GPUs, the network is on a CPU"
        raise ConfigError("products", cause, "Move it to a GPU, or take products=auto.")
    return _BY[by]
