"""Statistics over the units of a block [units, lanes], of which only those where m_unit count."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_sum(b_x, m_unit):
    """Sum over the units, [1, lanes]."""
    return tl.sum(tl.where(m_unit, b_x, 0.0), axis=0, keep_dims=True)


@triton.jit
def moments(b_x, m_unit, SIZE: tl.constexpr):
    """Mean over SIZE units and 1 / sqrt(variance + 1e-5), both [1, lanes]: as torch's layer_norm (Ba, Kiros,
    Hinton 2016).
    """
    b_mean = row_sum(b_x, m_unit) / SIZE
    b_away = tl.where(m_unit, b_x - b_mean, 0.0)
    return b_mean, 1.0 / tl.sqrt(tl.sum(b_away * b_away, axis=0, keep_dims=True) / SIZE + 1e-5)


@triton.jit
def exponents(b_x, m_unit):
    """Of a softmax: the largest x, which is taken off so that nothing overflows, and 1 / the sum of
    exponents, both [1, lanes].
    """
    return row_max(b_x, m_unit), 1.0 / row_exp(b_x, m_unit)


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


@triton.jit
def row_exp(b_x, m_unit):
    """Sum of exp(x - the largest x), [1, lanes]; without any unit 0."""
    return tl.sum(tl.where(m_unit, tl.exp(b_x - row_max(b_x, m_unit)), 0.0), axis=0, keep_dims=True)


@triton.jit
def whole_exponents(b_max, b_exp):
    """`exponents` from the parts of all programs, [programs, lanes]: the largest x and `row_exp` of each."""
    b_most = tl.max(b_max, axis=0, keep_dims=True)
    return b_most, 1.0 / tl.sum(b_exp * tl.exp(b_max - b_most), axis=0, keep_dims=True)


@triton.jit
def part_mean(b_x, m_unit, count):
    """Mean of the `count` units of one program, [1, lanes]; 0 without any."""
    return row_sum(b_x, m_unit) / tl.maximum(count, 1)


@triton.jit
def part_moment(b_x, m_unit, count):
    """Sum of squared distances from their mean, [1, lanes]."""
    b_away = tl.where(m_unit, b_x - part_mean(b_x, m_unit, count), 0.0)
    return tl.sum(b_away * b_away, axis=0, keep_dims=True)


@triton.jit
def whole_moments(b_mean, b_moment, i_parts, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and 1 / sqrt(variance + 1e-5) of SIZE units from those of programs with up to BLOCK each
    (Chan, Golub, LeVeque 1979).
    """
    b_count = tl.minimum(tl.maximum(SIZE - i_parts * BLOCK, 0), BLOCK)
    b_all = tl.sum(b_mean * b_count, axis=0, keep_dims=True) / SIZE
    b_away = b_mean - b_all
    b_var = tl.sum(b_moment + b_count * b_away * b_away, axis=0, keep_dims=True) / SIZE
    return b_all, 1.0 / tl.sqrt(b_var + 1e-5)


@triton.jit
def spread(b_x):
    """The same block; each number of it in one thread.

    A sum over the first dimension of products is in all warps, each thread having numbers for as many; and
    what is computed with it then is, too (lstm_norm over many programs: 8 registers for each value). A gather
    has a layout of its own.
    """
    return tl.gather(b_x, tl.broadcast_to(tl.arange(0, b_x.shape[1])[None, :], b_x.shape), 1)


@triton.jit
def gates_2(b_x, UNITS: tl.constexpr, LANES: tl.constexpr):
    """Blocks of two gates from one [UNITS * 2, LANES], the gates of a unit below each other."""
    return tl.split(tl.permute(tl.reshape(b_x, (UNITS, 2, LANES)), (0, 2, 1)))


@triton.jit
def gates_4(b_x, UNITS: tl.constexpr, LANES: tl.constexpr):
    """Blocks of four gates."""
    b_even, b_odd = tl.split(tl.permute(tl.reshape(b_x, (UNITS, 2, 2, LANES)), (0, 3, 1, 2)))
    b_0, b_2 = tl.split(b_even)
    b_1, b_3 = tl.split(b_odd)
    return b_0, b_1, b_2, b_3


@triton.jit
def gates_8(b_x, UNITS: tl.constexpr, LANES: tl.constexpr):
    """Blocks of eight gates."""
    b_even, b_odd = tl.split(tl.permute(tl.reshape(b_x, (UNITS, 2, 2, 2, LANES)), (0, 4, 1, 2, 3)))
    b_04, b_26 = tl.split(b_even)
    b_15, b_37 = tl.split(b_odd)
    b_0, b_4 = tl.split(b_04)
    b_2, b_6 = tl.split(b_26)
    b_1, b_5 = tl.split(b_15)
    b_3, b_7 = tl.split(b_37)
    return b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7
