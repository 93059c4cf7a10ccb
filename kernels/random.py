"""Random masks made where they are used: the same bit at a place in every kernel, forward and backward.

Philox-4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011), word 0 of the block.
The counter of a number in a mask [T, B, H] is (t * B + lane) * H + unit: nothing is stored, and nothing
depends on which program asks.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def random_bits(seed, key, counter):
    """32 bits as uint32 for each `counter` (int64 block). seed, key: the low 32 bits of integers."""
    c0 = (counter & 0xFFFFFFFF).to(tl.uint32)
    c1 = ((counter >> 32) & 0xFFFFFFFF).to(tl.uint32)
    k0 = tl.cast(seed, tl.uint32)
    k1 = tl.cast(key, tl.uint32)
    none = tl.zeros_like(c0)
    bits, _, _, _ = tl.philox_impl(c0, c1, none, none, k0, k1, 10)
    return bits


@triton.jit
def drop_mask(bits, THRESHOLD: tl.constexpr, SCALE: tl.constexpr, COMPUTE: tl.constexpr):
    """Dropout: 0 with probability THRESHOLD / 2**32, else SCALE."""
    return tl.where(bits < THRESHOLD, 0, 1).to(COMPUTE) * SCALE


@triton.jit
def zoneout_mask(bits, THRESHOLD: tl.constexpr, COMPUTE: tl.constexpr):
    """Zoneout: 1, the old value stays, with probability THRESHOLD / 2**32, else 0."""
    return tl.where(bits < THRESHOLD, 1, 0).to(COMPUTE)


@triton.jit
def renewal_mask(bits, THRESHOLD: tl.constexpr, COMPUTE: tl.constexpr):
    """1 - zoneout_mask: 1 where the new value comes."""
    return tl.where(bits < THRESHOLD, 0, 1).to(COMPUTE)
