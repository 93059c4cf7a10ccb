"""Linear loops without exchange as a parallel prefix over time (Blelloch 1990, Prefix sums and their
applications).

A step is h -> a * h + b, and steps compose: (a0, b0) and then (a1, b1) is (a0 * a1,
                                                                            a1 * b0 + b1). Time is cut
into parts of BT steps. The first launch composes the steps of each part, all parts at once; `carry_kernel`
walks over the parts; the third launch knows what each part starts from, finds the state before each of its
steps, and computes the step itself as the loop would: CELL forward, its derivative backward, where the steps
are those of adjoints.

Blocks are [BT, BN]: steps down, pairs of (lane, unit) across. What differs from cell to cell is generated:
`elementwise_source.py`, and SLOPE(pre, ext, par), the a of a step.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.elementwise_kernel import (
    load_columns,
    load_keep,
    load_rows,
    load_shifted,
    load_vectors,
    store_packed,
)


@triton.jit
def after(a0, b0, a1, b1):
    """The step (a0, b0) and then (a1, b1)."""
    return a0 * a1, a1 * b0 + b1


@triton.jit
def row_at(s, T, FORWARD: tl.constexpr):
    """Steps of a block s [BT, 1] in the order of time or against it; those outside are the nearest one."""
    s = tl.minimum(tl.maximum(s, 0), T - 1)
    if FORWARD:
        t = s
    else:
        t = T - 1 - s
    return t.to(tl.int64)


@triton.jit
def forward_inputs(
    p_pre, p_ext, p_keep, s_pre, s_ext, t, B, o_lane, o_unit, m_block, seed, keys,
    MASKS: tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """(pre, ext, keep) of the steps t [BT, 1]."""
    pre = load_columns(p_pre, s_pre, t, B, o_lane, o_unit, m_block, COLUMNS, COMPUTE)
    ext = load_rows(p_ext, s_ext, t, B, o_lane, o_unit, m_block, UNITS, COMPUTE)
    if len(keys) > 0:
        ext += MASKS(seed, keys, t * B + o_lane, o_unit, COMPUTE)
    return pre, ext, load_keep(p_keep, t, B, o_lane, m_block)


@triton.jit
def forward_steps(
    p_pre, p_ext, p_keep, s_pre, s_ext, par, init, s, T, B, o_lane, o_unit, m_pair, seed, keys,
    MASKS: tl.constexpr, CELL: tl.constexpr, SLOPE: tl.constexpr, FORWARD: tl.constexpr, ROOT: tl.constexpr,
    COLUMNS: tl.constexpr, UNITS: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """(a, b) [BT, BN] of the steps s [BT, 1]; outside of the chunk: of a step that changes nothing."""
    m_block = (s >= 0) & (s < T) & m_pair  # [BT, BN]
    t = row_at(s, T, FORWARD)
    pre, ext, keep = forward_inputs(p_pre, p_ext, p_keep, s_pre, s_ext, t, B, o_lane, o_unit, m_block, seed,
                                    keys, MASKS, COLUMNS, UNITS, COMPUTE)  # fmt: skip
    b_zero = tl.zeros(m_block.shape, COMPUTE)  # [BT, BN]
    b_a = b_zero + SLOPE(pre, ext, par)[0]
    b_b = CELL(pre, ext, par, (b_zero,))[ROOT]
    if len(p_keep) > 0:
        b_b = tl.where(keep[0], b_b, b_a * init[0] + b_b)
        b_a = tl.where(keep[0], b_a, 0.0)
    return tl.where(m_block, b_a, 1.0), tl.where(m_block, b_b, 0.0)


@triton.jit
def store_last(p_a, p_b, i_part, pairs, o_pair, m_pair, b_a, b_b, i_row, BT: tl.constexpr):
    """The composition of all rows, into row i_part of [parts, B * H]."""
    b_a, b_b = tl.associative_scan((b_a, b_b), 0, after)
    o_at = i_part.to(tl.int64) * pairs + o_pair
    tl.store(p_a + o_at, tl.sum(tl.where(i_row == BT - 1, b_a, 0.0), 0, keep_dims=True), mask=m_pair)
    tl.store(p_b + o_at, tl.sum(tl.where(i_row == BT - 1, b_b, 0.0), 0, keep_dims=True), mask=m_pair)


@triton.jit
def before(p_start, i_part, pairs, o_pair, m_pair, b_a, b_b, i_row):
    """The state before each row, from what the part starts from and the (a, b) of the rows before each."""
    b_start = tl.load(p_start + i_part.to(tl.int64) * pairs + o_pair, mask=m_pair, other=0.0)  # [1, BN]
    b_a = tl.where(i_row == 0, 1.0, b_a)
    b_b = tl.where(i_row == 0, 0.0, b_b)
    b_a, b_b = tl.associative_scan((b_a, b_b), 0, after)
    return b_a * b_start + b_b


@triton.jit(do_not_specialize=["PARTS", "B"])
def carry_kernel(p_a, p_b, p_start, PARTS, B, H, BN: tl.constexpr):
    """p_start [PARTS + 1, B * H]: row 0 is given; row i + 1 is what part i ends with."""
    pairs = tl.cast(B, tl.int64) * H
    o_pair = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    m_pair = o_pair < pairs
    b_state = tl.load(p_start + o_pair, mask=m_pair, other=0.0)  # [BN]
    for i in tl.range(0, PARTS):
        o_at = tl.cast(i, tl.int64) * pairs + o_pair
        b_a = tl.load(p_a + o_at, mask=m_pair, other=0.0)
        b_state = b_a * b_state + tl.load(p_b + o_at, mask=m_pair, other=0.0)
        tl.store(p_start + o_at + pairs, b_state, mask=m_pair)


@triton.jit(do_not_specialize=["T", "B", "seed", "keys"])
def forward_kernel(
    p_pre, p_ext, p_par, p_keep, p_init, p_nodes, p_a, p_b, p_start, s_pre, s_ext, T, B, H, seed, keys,
    MASKS: tl.constexpr, CELL: tl.constexpr, SLOPE: tl.constexpr, FORWARD: tl.constexpr, FRONT: tl.constexpr,
    ROOT: tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr,
    LAST: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """LAST False: the composition of each part's steps into p_a, p_b. True: the nodes of every step."""
    pairs = tl.cast(B, tl.int64) * H
    o_pair = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)[None, :]  # [1, BN]
    m_pair = o_pair < pairs
    o_lane = o_pair // H
    o_unit = o_pair % H
    i_part = tl.program_id(1)
    i_row = tl.arange(0, BT)[:, None]  # [BT, 1]
    par = load_vectors(p_par, o_unit, m_pair, COMPUTE)
    init = load_vectors(p_init, o_unit, m_pair, COMPUTE)
    s = i_part * BT + i_row
    if LAST:
        b_a, b_b = forward_steps(p_pre, p_ext, p_keep, s_pre, s_ext, par, init, s - 1, T, B, o_lane, o_unit,
                                 m_pair, seed, keys, MASKS, CELL, SLOPE, FORWARD, ROOT, COLUMNS, UNITS,
                                 COMPUTE)  # fmt: skip
        b_past = before(p_start, i_part, pairs, o_pair, m_pair, b_a, b_b, i_row)  # [BT, BN]
        m_block = (s < T) & m_pair
        t = row_at(s, T, FORWARD)
        pre, ext, keep = forward_inputs(p_pre, p_ext, p_keep, s_pre, s_ext, t, B, o_lane, o_unit, m_block,
                                        seed, keys, MASKS, COLUMNS, UNITS, COMPUTE)  # fmt: skip
        if len(p_keep) > 0:
            b_past = tl.where(keep[0], b_past, init[0])
        store_packed(p_nodes, FRONT + t, pairs, o_pair, m_block, CELL(pre, ext, par, (b_past,)))
    else:
        b_a, b_b = forward_steps(p_pre, p_ext, p_keep, s_pre, s_ext, par, init, s, T, B, o_lane, o_unit,
                                 m_pair, seed, keys, MASKS, CELL, SLOPE, FORWARD, ROOT, COLUMNS, UNITS,
                                 COMPUTE)  # fmt: skip
        store_last(p_a, p_b, i_part, pairs, o_pair, m_pair, b_a, b_b, i_row, BT)


@triton.jit
def backward_inputs(
    p_pre, p_ext, p_keep, p_nodes, p_grad, s_pre, s_ext, s_grad, init, t, B, pairs, o_pair, o_lane, o_unit,
    m_block, seed, keys,
    MASKS: tl.constexpr, PAST: tl.constexpr, FRONT: tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr,
    GRAD_UNITS: tl.constexpr, PAST_NODE: tl.constexpr, PAST_SHIFT: tl.constexpr, NOW_NODE: tl.constexpr,
    NOW_SHIFT: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """(pre, ext, keep, past, now, grad) of the steps t [BT, 1]."""
    pre, ext, keep = forward_inputs(p_pre, p_ext, p_keep, s_pre, s_ext, t, B, o_lane, o_unit, m_block, seed,
                                    keys, MASKS, COLUMNS, UNITS, COMPUTE)  # fmt: skip
    grad = load_rows(p_grad, s_grad, t, B, o_lane, o_unit, m_block, GRAD_UNITS, COMPUTE)
    past = load_shifted(p_nodes, FRONT + t, pairs, o_pair, m_block, PAST_NODE, PAST_SHIFT, COMPUTE)
    now = load_shifted(p_nodes, FRONT + t, pairs, o_pair, m_block, NOW_NODE, NOW_SHIFT, COMPUTE)
    if len(p_keep) > 0:
        past = PAST(past, keep, init)
    else:
        past = PAST(past)
    return pre, ext, keep, past, now, grad


@triton.jit(do_not_specialize=["T", "B", "seed", "keys"])
def backward_kernel(
    p_pre, p_ext, p_par, p_keep, p_init, p_nodes, p_grad, p_d_pre, p_d_ext, p_d_par, p_lost, p_a, p_b,
    p_start,
    s_pre, s_ext, s_grad, s_d_pre, T, B, H, seed, keys,
    MASKS: tl.constexpr, PAST: tl.constexpr, CELL: tl.constexpr, SLOPE: tl.constexpr, FORWARD: tl.constexpr,
    FRONT: tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr, GRAD_UNITS: tl.constexpr,
    PAST_NODE: tl.constexpr, PAST_SHIFT: tl.constexpr, NOW_NODE: tl.constexpr, NOW_SHIFT: tl.constexpr,
    D_COLUMNS: tl.constexpr, LAST: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """As `forward_kernel`, against its direction: the state is what a step sends to the one before it.

    p_d_par, p_lost [parts, B, H]: sums over each part.
    """
    pairs = tl.cast(B, tl.int64) * H
    o_pair = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)[None, :]  # [1, BN]
    m_pair = o_pair < pairs
    o_lane = o_pair // H
    o_unit = o_pair % H
    i_part = tl.program_id(1)
    i_row = tl.arange(0, BT)[:, None]  # [BT, 1]
    par = load_vectors(p_par, o_unit, m_pair, COMPUTE)
    init = load_vectors(p_init, o_unit, m_pair, COMPUTE)
    s = i_part * BT + i_row
    s_coefs = s - 1 if LAST else s
    m_coefs = (s_coefs >= 0) & (s_coefs < T) & m_pair  # [BT, BN]
    t = row_at(s_coefs, T, not FORWARD)
    pre, ext, keep, past, now, grad = backward_inputs(
        p_pre, p_ext, p_keep, p_nodes, p_grad, s_pre, s_ext, s_grad, init, t, B, pairs, o_pair, o_lane,
        o_unit, m_coefs, seed, keys, MASKS, PAST, FRONT, COLUMNS, UNITS, GRAD_UNITS, PAST_NODE, PAST_SHIFT,
        NOW_NODE, NOW_SHIFT, COMPUTE,
    )  # fmt: skip
    b_zero = tl.zeros(m_coefs.shape, COMPUTE)  # [BT, BN]
    _, _, _, adjoints = CELL(pre, ext, par, past, now, grad, (b_zero,))
    b_a = b_zero + SLOPE(pre, ext, par)[0]
    b_b = adjoints[0]
    if len(p_keep) > 0:
        b_a = tl.where(keep[0], b_a, 0.0)
        b_b = tl.where(keep[0], b_b, 0.0)
    b_a = tl.where(m_coefs, b_a, 1.0)
    b_b = tl.where(m_coefs, b_b, 0.0)
    if LAST:
        b_back = before(p_start, i_part, pairs, o_pair, m_pair, b_a, b_b, i_row)  # [BT, BN]
        m_block = (s < T) & m_pair
        t = row_at(s, T, not FORWARD)
        pre, ext, keep, past, now, grad = backward_inputs(
            p_pre, p_ext, p_keep, p_nodes, p_grad, s_pre, s_ext, s_grad, init, t, B, pairs, o_pair, o_lane,
            o_unit, m_block, seed, keys, MASKS, PAST, FRONT, COLUMNS, UNITS, GRAD_UNITS, PAST_NODE,
            PAST_SHIFT, NOW_NODE, NOW_SHIFT, COMPUTE,
        )  # fmt: skip
        d_pre, d_ext, d_par, adjoints = CELL(pre, ext, par, past, now, grad, (b_back,))
        for k in tl.static_range(len(D_COLUMNS)):
            p_row = p_d_pre + (t * B + o_lane) * s_d_pre + D_COLUMNS[k] + o_unit
            tl.store(p_row, d_pre[k].to(p_d_pre.dtype.element_ty), mask=m_block)
        store_packed(p_d_ext, t, pairs, o_pair, m_block, d_ext)
        o_part = i_part.to(tl.int64) * pairs + o_pair
        for k in tl.static_range(len(p_d_par)):
            b_sum = tl.sum(tl.where(m_block, d_par[k], 0.0), 0, keep_dims=True)  # [1, BN]
            tl.store(p_d_par[k] + o_part, b_sum, mask=m_pair)
        for k in tl.static_range(len(p_lost)):
            b_lost = tl.where(m_block & (keep[0] == 0), adjoints[0], 0.0)
            tl.store(p_lost[k] + o_part, tl.sum(b_lost, 0, keep_dims=True), mask=m_pair)
    else:
        store_last(p_a, p_b, i_part, pairs, o_pair, m_pair, b_a, b_b, i_row, BT)
