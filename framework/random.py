"""Counter-based random masks: the same (seed, key, position) gives the same bit in every runner and backward.

Philox-4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011), the generator behind
`tl.rand`, written over int64 tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framework.cell import Op
from framework.masks import key_of, mean
from framework.runners.functions import number_in_graphs

_LOW = 0xFFFFFFFF
_ROUND_A, _ROUND_B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85
_number_of = number_in_graphs(key_of)


def _mul_hi_lo(constant: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of constant * x; split in halves so that int64 does not overflow."""
    low = constant * (x & 0xFFFF)
    high = constant * (x >> 16)
    total = (high & 0xFFFF) * 65536 + low
    return ((high >> 16) + (total >> 32)) & _LOW, total & _LOW


def philox(seed: int, counter: Tensor) -> Tensor:
    """32 random bits (as int64) for each counter (int64); `seed` up to 64 bits. Word 0 of the block."""
    return _bits(seed & _LOW, (seed >> 32) & _LOW, counter)


def _bits(k0: int | Tensor, k1: int, counter: Tensor) -> Tensor:
    """`philox` of a seed in halves; the low one may be a tensor []."""
    c0, c1 = counter & _LOW, (counter >> 32) & _LOW
    c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0)
    for _ in range(10):
        hi_b, lo_b = _mul_hi_lo(_ROUND_B, c2)
        hi_a, lo_a = _mul_hi_lo(_ROUND_A, c0)
        c0, c1, c2, c3 = hi_b ^ c1 ^ k0, lo_b, hi_a ^ c3 ^ k1, lo_a
        k0, k1 = (k0 + _KEY_A) & _LOW, (k1 + _KEY_B) & _LOW
    return c0


def mask(
    seed: int | Tensor,
    key: str,
    steps: int,
    lanes: int,
    size: int,
    p: float,
    device: torch.device | str = "cpu",
    first: int = 0,
) -> Tensor:
    """Bool [T, B, size], True with probability p, from the run's seed and the term's name `key`.

    `first`: steps of the same mask that stand before these.

    A seed that is a tensor [] (int64) is not looked at: graphs of torch.compile draw another in each call.
    """
    row = lanes * size
    counter = torch.arange(first * row, (first + steps) * row, dtype=torch.int64, device=device)
    return (_bits(seed & _LOW, _number_of(key), counter) < int(p * 2**32)).view(steps, lanes, size)


def mask_values(
    op: Op, seed: int | Tensor | None, steps: int, lanes: int, like: Tensor, first: int = 0
) -> Tensor:
    """Numbers [T, B, size] of a mask of a cell (`component.mask_of`); without a seed their mean.

    Dropout: 0 or 1/(1-p); zoneout: 1 where the old value stays, or (lo = 2) where the new one comes.
    """
    if seed is None:
        return like.new_full((1,), mean(op)).expand(steps, lanes, op.size)
    hit = mask(seed, op.name, steps, lanes, op.size, op.value, like.device, first).to(like.dtype)
    if op.lo == 1:
        return hit
    return (1.0 - hit) / (1.0 - op.value) if op.lo == 0 else 1.0 - hit
