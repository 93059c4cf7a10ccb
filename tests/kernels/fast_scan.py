"""A prefix in the interpreter by whole rows: its own goes number by number, a thousand times slower."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from triton.runtime import interpreter


def _scan(self: Any, inputs: Any) -> list[Any]:
    """As `ScanOps.generic_scan`: each row but the first is combine(the result before it, the row)."""
    moved = [np.moveaxis(x.handle.data, self.axis, 0) for x in inputs]
    rows: list[list[Any]] = [[] for _ in inputs]
    total: tuple[Any, ...] = ()
    for i in range(moved[0].shape[0]):
        row = tuple(
            self.to_tensor(np.ascontiguousarray(x[i]), y.dtype) for x, y in zip(moved, inputs, strict=True)
        )
        total = self.combine_fn.fn(*total, *row) if i else row
        for out, value in zip(rows, total, strict=True):
            out.append(value.handle.data)
    whole = [np.ascontiguousarray(np.moveaxis(np.stack(out), 0, self.axis)) for out in rows]
    return [self.to_tensor(x, y.dtype) for x, y in zip(whole, inputs, strict=True)]


def install(patch: pytest.MonkeyPatch) -> None:
    """Use it until the patch is undone."""
    patch.setattr(interpreter.ScanOps, "generic_scan", _scan)
