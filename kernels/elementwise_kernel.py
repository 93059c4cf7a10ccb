"""Loops without exchange: all steps in one launch, a program for every BLOCK pairs of (lane, unit).

Units go fastest, so that neighbouring threads read neighbouring numbers. The inputs of the next STEPS steps
are on their way while the present ones are computed: nothing that is loaded depends on the loop, but reads
further back than the ring in registers. What differs from cell to cell is generated: `elementwise_source.py`
names the functions PAST, CELL, PUSH, BACK, SENT and their tuples.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(p_tensors, strides, t, B, o_lane, o_unit, m_pair, UNITS: tl.constexpr, COMPUTE: tl.constexpr):
    """Row t of each tensor [T, B, H]; strides: of a lane; UNITS: 0 where one number is for all units."""
    out = ()
    for i in tl.static_range(len(p_tensors)):
        o_row = (t * B + o_lane) * strides[i] + o_unit * UNITS[i]
        out += (tl.load(p_tensors[i] + o_row, mask=m_pair, other=0.0).to(COMPUTE),)
    return out


@triton.jit
def load_columns(p_pre, stride, t, B, o_lane, o_unit, m_pair, COLUMNS: tl.constexpr, COMPUTE: tl.constexpr):
    """Row t of p_pre [T, B, width], once from each of the COLUMNS."""
    out = ()
    for i in tl.static_range(len(COLUMNS)):
        o_row = (t * B + o_lane) * stride + COLUMNS[i] + o_unit
        out += (tl.load(p_pre + o_row, mask=m_pair, other=0.0).to(COMPUTE),)
    return out


@triton.jit
def load_keep(p_keep, t, B, o_lane, m_pair):
    """Row t of each bool tensor [T, B]: whether a read of that distance stays in its sequence."""
    out = ()
    for i in tl.static_range(len(p_keep)):
        out += (tl.load(p_keep[i] + t * B + o_lane, mask=m_pair, other=0) != 0,)
    return out


@triton.jit
def load_vectors(p_tensors, o_unit, m_pair, COMPUTE: tl.constexpr):
    """Vectors [H], one number for each unit."""
    out = ()
    for i in tl.static_range(len(p_tensors)):
        out += (tl.load(p_tensors[i] + o_unit, mask=m_pair, other=0.0).to(COMPUTE),)
    return out


@triton.jit
def load_shifted(
    p_tensors, row, pairs, o_pair, m_pair, WHICH: tl.constexpr, SHIFT: tl.constexpr, COMPUTE: tl.constexpr
):
    """Row `row` + SHIFT[i] of tensor WHICH[i], packed [rows, B, H]."""
    out = ()
    for i in tl.static_range(len(WHICH)):
        p_row = p_tensors[WHICH[i]] + (row + SHIFT[i]) * pairs
        out += (tl.load(p_row + o_pair, mask=m_pair, other=0.0).to(COMPUTE),)
    return out


@triton.jit
def store_packed(p_tensors, row, pairs, o_pair, m_store, values):
    """values[i] into row `row` of tensor i, packed [rows, B, H]."""
    for i in tl.static_range(len(p_tensors)):
        p_row = p_tensors[i] + row * pairs
        tl.store(p_row + o_pair, values[i].to(p_tensors[i].dtype.element_ty), mask=m_store)


@triton.jit
def zeros(COUNT: tl.constexpr, BLOCK: tl.constexpr, COMPUTE: tl.constexpr):
    """Blocks of zeros."""
    out = ()
    for _ in tl.static_range(COUNT):
        out += (tl.zeros((BLOCK,), COMPUTE),)
    return out


@triton.jit
def select(m_new, new, old):
    """new where m_new, else old."""
    out = ()
    for i in tl.static_range(len(new)):
        out += (tl.where(m_new, new[i], old[i]),)
    return out


@triton.jit
def add(sums, rests, values, m_add):
    """Sums with what rounding took from them (Kahan 1965): thousands of steps are added up."""
    new_sums = ()
    new_rests = ()
    for i in tl.static_range(len(sums)):
        b_value = tl.where(m_add, values[i], 0.0) - rests[i]
        b_sum = sums[i] + b_value
        new_rests += ((b_sum - sums[i]) - b_value,)
        new_sums += (b_sum,)
    return new_sums, new_rests


@triton.jit
def step_at(s, T, FORWARD: tl.constexpr):
    """The s-th step in the order of time, or against it; those past the end are the last one again."""
    s = tl.minimum(s, T - 1)
    if FORWARD:
        t = s
    else:
        t = T - 1 - s
    return tl.cast(t, tl.int64)


@triton.jit
def forward_inputs(
    p_pre, p_ext, p_keep, s_pre, s_ext, s, T, B, o_lane, o_unit, m_pair,
    FORWARD: tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr, STEPS: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """What steps s to s + STEPS - 1 take from outside: (pre, ext, keep) of each."""
    out = ()
    for i in tl.static_range(STEPS):
        t = step_at(s + i, T, FORWARD)
        pre = load_columns(p_pre, s_pre, t, B, o_lane, o_unit, m_pair, COLUMNS, COMPUTE)
        ext = load_rows(p_ext, s_ext, t, B, o_lane, o_unit, m_pair, UNITS, COMPUTE)
        out += ((pre, ext, load_keep(p_keep, t, B, o_lane, m_pair)),)
    return out


@triton.jit(do_not_specialize=["T", "B", "seed", "keys"])
def forward_kernel(
    p_pre, p_ext, p_par, p_keep, p_init, p_nodes, s_pre, s_ext, T, B, H, seed, keys,
    PAST: tl.constexpr, MASKS: tl.constexpr, CELL: tl.constexpr, PUSH: tl.constexpr, FORWARD: tl.constexpr,
    FRONT: tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr, RING_NODE: tl.constexpr,
    RING_BACK: tl.constexpr, FAR_NODE: tl.constexpr, FAR_SHIFT: tl.constexpr,
    STEPS: tl.constexpr, BLOCK: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """p_nodes: packed [FRONT + T + back, B, H], with boundary steps in place; all others are read. seed,
    keys: of the random masks that stand behind ext (see `random.py`).
    """
    pairs = tl.cast(B, tl.int64) * H
    o_pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_pair = o_pair < pairs
    o_lane = o_pair // H
    o_unit = o_pair % H
    par = load_vectors(p_par, o_unit, m_pair, COMPUTE)
    init = load_vectors(p_init, o_unit, m_pair, COMPUTE)
    first = FRONT + step_at(0, T, FORWARD)
    ring = ()
    for i in tl.static_range(len(RING_NODE)):
        row = first - RING_BACK[i] if FORWARD else first + RING_BACK[i]
        p_row = p_nodes[RING_NODE[i]] + row * pairs
        ring += (tl.load(p_row + o_pair, mask=m_pair, other=0.0).to(COMPUTE),)
    now = forward_inputs(p_pre, p_ext, p_keep, s_pre, s_ext, 0, T, B, o_lane, o_unit, m_pair,
                         FORWARD, COLUMNS, UNITS, STEPS, COMPUTE)  # fmt: skip
    for s in tl.range(0, T, STEPS, num_stages=1):
        ahead = forward_inputs(p_pre, p_ext, p_keep, s_pre, s_ext, s + STEPS, T, B, o_lane, o_unit, m_pair,
                               FORWARD, COLUMNS, UNITS, STEPS, COMPUTE)  # fmt: skip
        for i in tl.static_range(STEPS):
            t = step_at(s + i, T, FORWARD)
            row = FRONT + t
            far = load_shifted(p_nodes, row, pairs, o_pair, m_pair, FAR_NODE, FAR_SHIFT, COMPUTE)
            pre, ext, keep = now[i]
            if len(p_keep) > 0:
                past = PAST(ring, far, keep, init)
            else:
                past = PAST(ring, far)
            if len(keys) > 0:
                ext += MASKS(seed, keys, t * B + o_lane, o_unit, COMPUTE)
            nodes = CELL(pre, ext, par, past)
            # Steps past the end compute the last one again, and nobody sees it.
            m_store = o_pair < tl.where(s + i < T, pairs, 0)
            store_packed(p_nodes, row, pairs, o_pair, m_store, nodes)
            if len(FAR_NODE) > 0:
                tl.debug_barrier()  # these rows are read again, some steps later
            ring = PUSH(ring, nodes)
        now = ahead


@triton.jit
def backward_inputs(
    p_pre, p_ext, p_keep, p_nodes, p_grad, s_pre, s_ext, s_grad, s, T, B, pairs, o_pair, o_lane,
    o_unit,
    m_pair, FORWARD: tl.constexpr, FRONT: tl.constexpr, COLUMNS: tl.constexpr,
    UNITS: tl.constexpr, GRAD_UNITS: tl.constexpr, PAST_NODE: tl.constexpr, PAST_SHIFT: tl.constexpr,
    NOW_NODE: tl.constexpr, NOW_SHIFT: tl.constexpr, STEPS: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """What the derivative takes from outside at STEPS steps: (pre, ext, keep, past, now, grad) of each."""
    out = ()
    for i in tl.static_range(STEPS):
        t = step_at(s + i, T, not FORWARD)
        pre = load_columns(p_pre, s_pre, t, B, o_lane, o_unit, m_pair, COLUMNS, COMPUTE)
        ext = load_rows(p_ext, s_ext, t, B, o_lane, o_unit, m_pair, UNITS, COMPUTE)
        grad = load_rows(p_grad, s_grad, t, B, o_lane, o_unit, m_pair, GRAD_UNITS, COMPUTE)
        keep = load_keep(p_keep, t, B, o_lane, m_pair)
        past = load_shifted(p_nodes, FRONT + t, pairs, o_pair, m_pair, PAST_NODE, PAST_SHIFT, COMPUTE)
        now = load_shifted(p_nodes, FRONT + t, pairs, o_pair, m_pair, NOW_NODE, NOW_SHIFT, COMPUTE)
        out += ((pre, ext, keep, past, now, grad),)
    return out


@triton.jit(do_not_specialize=["T", "B", "seed", "keys"])
def backward_kernel(
    p_pre, p_ext, p_par, p_keep, p_init, p_nodes, p_grad, p_d_pre, p_d_ext, p_d_par, p_edge, p_far, p_lost,
    s_pre, s_ext, s_grad, s_d_pre, T, B, H, seed, keys,
    PAST: tl.constexpr, MASKS: tl.constexpr, BACK: tl.constexpr, CELL: tl.constexpr, SENT: tl.constexpr,
    PUSH: tl.constexpr, FORWARD: tl.constexpr, FRONT: tl.constexpr,
    COLUMNS: tl.constexpr, UNITS: tl.constexpr, GRAD_UNITS: tl.constexpr, PAST_NODE: tl.constexpr,
    PAST_SHIFT: tl.constexpr, NOW_NODE: tl.constexpr, NOW_SHIFT: tl.constexpr, D_COLUMNS: tl.constexpr,
    RING: tl.constexpr, FAR_SENT: tl.constexpr, FAR_WHICH: tl.constexpr, FAR_SHIFT: tl.constexpr,
    STEPS: tl.constexpr, BLOCK: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Writes gradients of every step, of vector weights p_d_par [B, H] (to be summed over lanes), what reads
    send over the edge p_edge [1, B, H] each, first step first, and to initial values p_lost [B, H] (keep).

    p_far: packed [T, B, H], adjoints for steps further away than the ring.
    """
    pairs = tl.cast(B, tl.int64) * H
    o_pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_pair = o_pair < pairs
    o_lane = o_pair // H
    o_unit = o_pair % H
    par = load_vectors(p_par, o_unit, m_pair, COMPUTE)
    init = load_vectors(p_init, o_unit, m_pair, COMPUTE)
    ring = zeros(RING, BLOCK, COMPUTE)
    sums = zeros(len(p_d_par), BLOCK, COMPUTE)
    rests = zeros(len(p_d_par), BLOCK, COMPUTE)
    lost = zeros(len(p_lost), BLOCK, COMPUTE)
    lost_rests = zeros(len(p_lost), BLOCK, COMPUTE)
    inputs = backward_inputs(
        p_pre, p_ext, p_keep, p_nodes, p_grad, s_pre, s_ext, s_grad, 0, T, B, pairs, o_pair, o_lane,
        o_unit, m_pair, FORWARD, FRONT, COLUMNS, UNITS, GRAD_UNITS, PAST_NODE, PAST_SHIFT, NOW_NODE,
        NOW_SHIFT, STEPS, COMPUTE,
    )  # fmt: skip
    for s in tl.range(0, T, STEPS, num_stages=1):
        ahead = backward_inputs(
            p_pre, p_ext, p_keep, p_nodes, p_grad, s_pre, s_ext, s_grad, s + STEPS, T, B, pairs,
            o_pair, o_lane, o_unit, m_pair, FORWARD, FRONT, COLUMNS, UNITS, GRAD_UNITS, PAST_NODE, PAST_SHIFT,
            NOW_NODE, NOW_SHIFT, STEPS, COMPUTE,
        )  # fmt: skip
        for i in tl.static_range(STEPS):
            t = step_at(s + i, T, not FORWARD)
            m_step = o_pair < tl.where(s + i < T, pairs, 0)
            far = ()
            for k in tl.static_range(len(FAR_WHICH)):
                row = t + FAR_SHIFT[k]  # outside of the chunk nothing was sent
                m_far = o_pair < tl.where((row >= 0) & (row < T), pairs, 0)
                p_row = p_far[FAR_WHICH[k]] + row * pairs
                far += (tl.load(p_row + o_pair, mask=m_far, other=0.0).to(COMPUTE),)
            pre, ext, keep, loaded, now, grad = inputs[i]
            if len(p_keep) > 0:
                past = PAST(loaded, keep, init)
            else:
                past = PAST(loaded)
            if len(keys) > 0:
                ext += MASKS(seed, keys, t * B + o_lane, o_unit, COMPUTE)
            d_pre, d_ext, d_par, adjoints = CELL(pre, ext, par, past, now, grad, BACK(ring, far))
            if len(p_keep) > 0:
                sent = SENT(adjoints, keep)
            else:
                sent = SENT(adjoints)
            for k in tl.static_range(len(D_COLUMNS)):
                p_row = p_d_pre + (t * B + o_lane) * s_d_pre + D_COLUMNS[k] + o_unit
                tl.store(p_row, d_pre[k].to(p_d_pre.dtype.element_ty), mask=m_step)
            store_packed(p_d_ext, t, pairs, o_pair, m_step, d_ext)
            for k in tl.static_range(len(p_far)):
                tl.store(p_far[k] + t * pairs + o_pair, sent[FAR_SENT[k]], mask=m_step)
            if len(p_far) > 0:
                tl.debug_barrier()  # these rows are read again, some steps later
            sums, rests = add(sums, rests, d_par, m_step)
            if len(p_lost) > 0:
                cut = ()
                for k in tl.static_range(len(sent)):
                    cut += (adjoints[k] - sent[k],)
                lost, lost_rests = add(lost, lost_rests, cut, m_step)
            ring = select(m_step, PUSH(ring, sent), ring)
        inputs = ahead
    store_packed(p_d_par, tl.cast(0, tl.int64), pairs, o_pair, m_pair, sums)
    store_packed(p_edge, tl.cast(0, tl.int64), pairs, o_pair, m_pair, ring)
    store_packed(p_lost, tl.cast(0, tl.int64), pairs, o_pair, m_pair, lost)
