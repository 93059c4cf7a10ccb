"""Sums over many rows in a fixed order: the parts of a split product, and the columns of a gradient (for a
bias).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.activations import find_activation

ROWS_PER_PART = 256  # rows that one program of column_sum adds up


@triton.jit
def finish(
    b_sum,
    p_out,
    p_bias,
    o_m,
    o_n,
    M,
    N,
    stride_om,
    stride_on,
    ACTIVATION: tl.constexpr,
    ACCUMULATE: tl.constexpr,
):
    """Store activation(sum + bias (+ what is in out)) in the dtype of out; b_sum is float32 at rows o_m,
    columns o_n.
    """
    m_n = o_n < N
    m_out = (o_m < M)[:, None] & m_n[None, :]
    o_out = o_m[:, None] * stride_om + o_n[None, :] * stride_on
    if p_bias is not None:
        b_sum += tl.load(p_bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
    if ACCUMULATE:
        b_sum += tl.load(p_out + o_out, mask=m_out, other=0.0).to(tl.float32)
    if ACTIVATION is not None:
        b_sum = ACTIVATION(b_sum)
    tl.store(p_out + o_out, b_sum.to(p_out.dtype.element_ty), mask=m_out)


@triton.jit(do_not_specialize=["M", "parts"])
def add_parts_kernel(
    p_parts,
    p_out,
    p_bias,
    M,
    N,
    parts,
    stride_om,
    stride_on,
    ACTIVATION: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """out[m, n] = parts[0, m, n] + parts[1, m, n] + ..., in this order; p_parts is float32, packed."""
    o_m = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    o_n = (tl.program_id(1) * BN + tl.arange(0, BN)).to(tl.int64)
    m_out = (o_m < M)[:, None] & (o_n < N)[None, :]
    o_part = o_m[:, None] * N + o_n[None, :]
    b_sum = tl.zeros((BM, BN), tl.float32)  # [BM, BN]
    for i_part in tl.range(parts):
        p_part = p_parts + tl.cast(i_part, tl.int64) * M * N
        b_sum += tl.load(p_part + o_part, mask=m_out, other=0.0)
    finish(b_sum, p_out, p_bias, o_m, o_n, M, N, stride_om, stride_on, ACTIVATION, ACCUMULATE)


@triton.jit(do_not_specialize=["M"])
def column_sum_kernel(
    p_x, p_parts, M, N, stride_xm, stride_xn, ROWS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """parts[i, n] = sum of x[m, n] over the i-th ROWS rows."""
    i_part = tl.program_id(0)
    o_n = (tl.program_id(1) * BN + tl.arange(0, BN)).to(tl.int64)
    b_sum = tl.zeros((BM, BN), tl.float32)  # [BM, BN]
    for i_block in tl.static_range(ROWS // BM):
        o_m = (i_part * ROWS + i_block * BM + tl.arange(0, BM)).to(tl.int64)
        m_x = (o_m < M)[:, None] & (o_n < N)[None, :]
        p_block = p_x + o_m[:, None] * stride_xm + o_n[None, :] * stride_xn
        b_sum += tl.load(p_block, mask=m_x, other=0.0).to(tl.float32)
    tl.store(p_parts + i_part.to(tl.int64) * N + o_n, tl.sum(b_sum, axis=0), mask=o_n < N)


def add_parts(
    parts: Tensor,
    out: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    accumulate: bool = False,
) -> None:
    """out [M, N] = activation(sum of parts [S, M, N], first to last, + bias [N] (+ out)); parts packed
    float32.
    """
    m, n = out.shape
    bm, bn = (1, 256) if m < 4 else (4, 128)
    add_parts_kernel[(triton.cdiv(m, bm), triton.cdiv(n, bn))](
        parts,
        out,
        bias,
        m,
        n,
        parts.shape[0],
        *out.stride(),
        ACTIVATION=None if activation is None else find_activation(activation).apply,
        ACCUMULATE=accumulate,
        BM=bm,
        BN=bn,
        num_warps=4,
        enable_fp_fusion=True,
    )


def column_sum(x: Tensor, out: Tensor | None = None, accumulate: bool = False) -> Tensor:
    """Sum of x [M, N] over its rows in float32 and a fixed order -> out [N] (new: float32): the gradient of a
    bias.
    """
    m, n = x.shape
    if out is None:
        out = torch.empty(n, dtype=torch.float32, device=x.device)
    if out.shape != (n,):
        raise ValueError(
            f"column_sum: out is {tuple(out.shape)}, x has {n} columns. Pass out of shape ({n},)."
        )
    if n == 0:
        return out
    count = triton.cdiv(m, ROWS_PER_PART)  # no rows: no parts, and add_parts writes zeros
    parts = torch.empty(count, 1, n, dtype=torch.float32, device=x.device)
    bn = 64
    if count:
        column_sum_kernel[(count, triton.cdiv(n, bn))](
            x,
            parts,
            m,
            n,
            *x.stride(),
            ROWS=ROWS_PER_PART,
            BM=16,
            BN=bn,
            num_warps=4,
            enable_fp_fusion=True,
        )
    add_parts(parts, out[None, :], accumulate=accumulate)
    return out
