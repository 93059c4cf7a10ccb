"""Products with index inputs: a one-hot row times a table is a row of the table; its gradient is a sum by
index.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.activations import find_activation
from kernels.sums import finish


@triton.jit(do_not_specialize=["M"])
def lookup_kernel(
    p_table,
    p_rows,
    p_out,
    p_bias,
    M,
    N,
    table_rows,
    stride_tm,
    stride_tn,
    stride_om,
    stride_on,
    ACTIVATION: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BLANK: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """out[m, n] = table[rows[m], n]; an index outside [0, table_rows) gives a row of NaN (BLANK: -1 of 0)."""
    o_m = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    o_n = (tl.program_id(1) * BN + tl.arange(0, BN)).to(tl.int64)
    o_t = tl.load(p_rows + o_m, mask=o_m < M, other=0).to(tl.int64)
    m_t = (o_t >= 0) & (o_t < table_rows)
    p_t = p_table + o_t[:, None] * stride_tm + o_n[None, :] * stride_tn
    b_out = tl.load(p_t, mask=m_t[:, None] & (o_n < N)[None, :], other=0.0).to(tl.float32)  # [BM, BN]
    if BLANK:
        m_t |= o_t == -1
    b_out = tl.where(m_t[:, None], b_out, float("nan"))
    finish(b_out, p_out, p_bias, o_m, o_n, M, N, stride_om, stride_on, ACTIVATION, ACCUMULATE)


@triton.jit
def sum_by_index_kernel(
    p_dy,
    p_order,
    p_starts,
    p_out,
    N,
    table_rows,
    stride_dm,
    stride_dn,
    stride_om,
    stride_on,
    ACCUMULATE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """out[v, n] = sum of dy[order[i], n] over starts[v] <= i < starts[v + 1], always in the same order."""
    i_v = tl.program_id(0).to(tl.int64)
    o_n = (tl.program_id(1) * BN + tl.arange(0, BN)).to(tl.int64)
    m_n = o_n < N
    first = tl.load(p_starts + i_v)
    last = tl.load(p_starts + i_v + 1)
    b_sum = tl.zeros((BM, BN), tl.float32)  # [BM, BN]
    for i in tl.range(first, last, BM):
        o_i = i + tl.arange(0, BM)
        m_i = o_i < last
        o_m = tl.load(p_order + o_i, mask=m_i, other=0)
        p_m = p_dy + o_m[:, None] * stride_dm + o_n[None, :] * stride_dn
        b_sum += tl.load(p_m, mask=m_i[:, None] & m_n[None, :], other=0.0).to(tl.float32)
    b_row = tl.sum(b_sum, axis=0)[None, :]  # [1, BN]
    o_v = i_v + tl.zeros((1,), tl.int64)
    finish(b_row, p_out, None, o_v, o_n, table_rows, N, stride_om, stride_on, None, ACCUMULATE)


def lookup(
    table: Tensor,
    rows: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    out: Tensor | None = None,
    accumulate: bool = False,
    blank: bool = False,
) -> Tensor:
    """activation(table[rows] + bias), or with `accumulate` activation(out + table[rows] + bias); returns out.

    table [V, N] of any strides (a weight [N, V]: pass its `.T`); rows [M] int32 or int64, packed: an index
    outside of the table gives a row of NaN (with `blank` -1 gives one of 0); bias [N]; out [M, N], by default
    new in the dtype of table. Raises ValueError.
    """
    _check_rows(rows)
    shape = (rows.shape[0], table.shape[1])
    if out is None:
        if accumulate:
            raise ValueError("lookup: accumulate needs `out` to add to. Pass out=..., or accumulate=False.")
        out = torch.empty(shape, dtype=table.dtype, device=table.device)
    elif out.shape != shape:
        raise ValueError(f"lookup: out is {list(out.shape)}. Pass {list(shape)}.")
    apply = None if activation is None else find_activation(activation).apply
    bm, bn = 16, 64
    if out.numel():
        lookup_kernel[(triton.cdiv(shape[0], bm), triton.cdiv(shape[1], bn))](
            table,
            rows,
            out,
            bias,
            *shape,
            table.shape[0],
            *table.stride(),
            *out.stride(),
            ACTIVATION=apply,
            ACCUMULATE=accumulate,
            BLANK=blank,
            BM=bm,
            BN=bn,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out


def lookup_dw(rows: Tensor, dy: Tensor, out: Tensor, accumulate: bool = False) -> Tensor:
    """Gradient of the table of `lookup`: out [V, N] = sum of dy [M, N] by index, deterministic; returns out.

    Fill the gradient of a weight [N, V] in place with `out=gradient.T`. Indices outside [0, V) add nothing.
    """
    _check_rows(rows)
    if dy.ndim != 2 or dy.shape[0] != rows.shape[0] or out.ndim != 2 or out.shape[1] != dy.shape[1]:
        shapes = f"rows {list(rows.shape)}, dy {list(dy.shape)}, out {list(out.shape)}"
        raise ValueError(f"lookup_dw: {shapes} do not fit. Pass [M], [M, N] and [V, N].")
    in_order, order = torch.sort(rows, stable=True)
    indices = torch.arange(out.shape[0] + 1, dtype=rows.dtype, device=rows.device)
    starts = torch.searchsorted(in_order, indices)  # [V + 1]
    bm, bn = 16, 64
    if out.numel():
        sum_by_index_kernel[(out.shape[0], triton.cdiv(out.shape[1], bn))](
            dy,
            order,
            starts,
            out,
            out.shape[1],
            out.shape[0],
            *dy.stride(),
            *out.stride(),
            ACCUMULATE=accumulate,
            BM=bm,
            BN=bn,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out


def _check_rows(rows: Tensor) -> None:
    if rows.ndim != 1 or rows.dtype not in (torch.int32, torch.int64) or not rows.is_contiguous():
        raise ValueError(
            f"lookup: rows is {list(rows.shape)} of {rows.dtype}. Pass packed int32 or int64 [M]."
        )
