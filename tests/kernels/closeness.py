"""Tolerances from arithmetic: a kernel may err at most twice as much as torch does in the same dtype."""

from __future__ import annotations

import torch
from torch import Tensor

NAN = float("nan")


def assert_as_exact_as(result: Tensor, reference: Tensor, exact: Tensor) -> None:
    """The largest error of `result` is at most twice that of `reference` (torch, same dtype) against float64.

    Where torch happens to be exact, half a unit in the last place of the largest value is granted, the error
    that rounding the exact result would make.
    """
    assert result.shape == exact.shape == reference.shape
    assert exact.dtype == torch.float64 and result.dtype == reference.dtype
    if exact.numel() == 0:
        return
    rounding = torch.finfo(result.dtype).eps / 2 * exact.abs().max()
    allowed = 2 * torch.maximum((reference.double() - exact).abs().max(), rounding)
    error = (result.double() - exact).abs().max()  # NaN, too, fails below
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    """A buffer full of NaN: what is not written, or is read first, shows."""
    return torch.full(shape, NAN, dtype=dtype)
