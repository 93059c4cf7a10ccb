"""Tolerances from arithmetic: a kernel may err at most twice as much as torch does in the same dtype."""

from __future__ import annotations

import torch
from torch import Tensor

NAN = float("nan")


def assert_as_exact_as(result: Tensor, reference: Tensor, exact: Tensor, terms: Tensor | None = None) -> None:
    """The largest error of `result` is at most twice that of `reference` (torch, same dtype) against float64.

    Where torch happens to be nearly exact, one rounding is granted: of the largest result in its dtype, or of
    the largest sum of the absolute `terms` in float32, in which sums are kept.
    """
    assert result.shape == exact.shape == reference.shape
    assert exact.dtype == torch.float64 and result.dtype == reference.dtype
    if exact.numel() == 0:
        return
    rounding = torch.finfo(result.dtype).eps / 2 * exact.abs().max()
    if terms is not None:
        rounding = torch.maximum(rounding, torch.finfo(torch.float32).eps / 2 * terms.double().max())
    allowed = 2 * torch.maximum((reference.double() - exact).abs().max(), rounding)
    error = (result.double() - exact).abs().max()  # NaN, too, fails below
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    """A buffer full of NaN: what is not written, or is read first, shows."""
    return torch.full(shape, NAN, dtype=dtype)
