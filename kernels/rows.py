"""Statistics over the units of a block [units, lanes], of which only those where m_unit count."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_sum(b_x, m_unit):
    """Sum over the units, [1, lanes]."""
    return tl.sum(tl.where(m_unit, b_x, 0.0), axis=0, keep_dims=True)


@triton.jit
def centred(b_x, m_unit, SIZE: tl.constexpr):
    """x less its mean over SIZE units; 0 where there is no unit."""
    return tl.where(m_unit, b_x - row_sum(b_x, m_unit) / SIZE, 0.0)


@triton.jit
def rstd(b_x, m_unit, SIZE: tl.constexpr):
    """1 / sqrt(variance + 1e-5), [1, lanes]: as torch's layer_norm."""
    b_centred = centred(b_x, m_unit, SIZE)
    return 1.0 / tl.sqrt(tl.sum(b_centred * b_centred, axis=0, keep_dims=True) / SIZE + 1e-5)


@triton.jit
def normalize(b_x, m_unit, SIZE: tl.constexpr):
    """Layer norm without gain and bias (Ba, Kiros, Hinton 2016)."""
    b_centred = centred(b_x, m_unit, SIZE)
    b_var = tl.sum(b_centred * b_centred, axis=0, keep_dims=True) / SIZE
    return b_centred / tl.sqrt(b_var + 1e-5)


@triton.jit
def softmax(b_x, m_unit):
    """exp(x) over its sum; the largest x is taken off first, so nothing overflows."""
    b_exp = tl.where(m_unit, tl.exp(b_x - row_max(b_x, m_unit)), 0.0)
    return b_exp / tl.sum(b_exp, axis=0, keep_dims=True)


@triton.jit
def row_max(b_x, m_unit):
    """Largest x, [1, lanes]."""
    return tl.max(tl.where(m_unit, b_x, float("-inf")), axis=0, keep_dims=True)


@triton.jit
def add_exactly(b_sum, b_rest, b_value):
    """A sum with what rounding took from it (Kahan 1965): thousands of steps are added up."""
    b_value = b_value - b_rest
    b_new = b_sum + b_value
    return b_new, (b_new - b_sum) - b_value
