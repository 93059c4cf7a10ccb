"""The products of a network as it launches them, for compiling: called by compile_worker.py."""

from __future__ import annotations

import torch

from framework.runners.hoisted_products import KernelProducts


def layer(steps: int, lanes: int, inputs: int, units: int, dtype: str) -> None:
    """Four gates from an input and from symbols, in a wider buffer; then all gradients."""
    kind = getattr(torch, dtype)
    by, rows, gates = KernelProducts(forced=True), steps * lanes, 4 * units

    def empty(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=kind)

    x, w, bias, table = empty(rows, inputs), empty(gates, inputs), empty(gates), empty(96, gates)
    index = torch.zeros(rows, dtype=torch.int64)
    by.whole(x, w, bias)
    columns = empty(rows, 2 * gates)[:, gates:]
    by.add(columns, x, w, bias, 1.0, fresh=True)
    by.add_rows(columns, index, table, 1.0, fresh=False)
    by.dx(columns, w)
    by.dw(columns, x)
    by.dbias(columns)
    by.dtable(index, columns, 96)
