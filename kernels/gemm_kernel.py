"""The matmul kernel. Host side and meaning: gemm.py."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sums import finish


@triton.jit
def tile_of(i_tile, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Row and column of a tile: GROUP rows down, then the next column, so that b's block stays in L2."""
    per_group = GROUP * tiles_n
    first = (i_tile // per_group) * GROUP
    rows = tl.minimum(tiles_m - first, GROUP)
    inside = i_tile % per_group
    return first + inside % rows, inside // rows


@triton.jit
def halves(b_sum, BM: tl.constexpr, BN: tl.constexpr):
    """Left and right half of a block [BM, BN]."""
    return tl.split(tl.permute(tl.reshape(b_sum, (BM, 2, BN // 2)), (0, 2, 1)))


@triton.jit
def finish_halves(
    b_sum,
    p_out,
    p_bias,
    o_m,
    first,
    M,
    N,
    stride_om,
    stride_on,
    ACTIVATION: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """`finish` a block [BM, BN] whose columns begin at `first`, one half after the other: registers do not
    hold 256 columns, nor 128 beside a tanh, together with their pointers and old values.
    """
    b_left, b_right = halves(b_sum, BM, BN)
    o_n = (first + tl.arange(0, BN // 2)).to(tl.int64)
    finish(b_left, p_out, p_bias, o_m, o_n, M, N, stride_om, stride_on, ACTIVATION, ACCUMULATE)
    o_n += BN // 2
    finish(b_right, p_out, p_bias, o_m, o_n, M, N, stride_om, stride_on, ACTIVATION, ACCUMULATE)


@triton.jit
def load_tile(descriptor, first, second, TURNED: tl.constexpr):
    """Block at (first, second) of a matrix, zeros past its end; TURNED: of the transpose of `descriptor`."""
    if TURNED:
        b_tile = tl.trans(descriptor.load([second, first]))
    else:
        b_tile = descriptor.load([first, second])
    return b_tile


def _matmul(
    p_a,
    p_b,
    p_out,
    p_bias,
    p_rows,
    M,
    N,
    K,
    parts,
    k_per_part,
    table_rows,
    stride_am,
    stride_ak,
    stride_bk,
    stride_bn,
    stride_om,
    stride_on,
    ACTIVATION: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr,
    IN_PARTS: tl.constexpr,
    TMA: tl.constexpr,
    A_TURNED: tl.constexpr,
    B_TURNED: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """out[m, n] = sum over k of a[rows[m], k] * b[k, n].

    IN_PARTS: out[i, m, n], packed float32, is the i-th part of the sum. Programs loop over tiles (a
    persistent grid). A row index outside [0, table_rows) gives a row of NaN. With TMA, p_a and p_b are tensor
    descriptors (of the transposes, where TURNED), copied by hardware without masks.
    """
    tiles_m = tl.cdiv(M, BM)
    tiles_n = tl.cdiv(N, BN)
    tiles = tiles_m * tiles_n
    for i_work in tl.range(tl.program_id(0), tiles * parts, tl.num_programs(0)):
        i_part = i_work // tiles
        i_m, i_n = tile_of(i_work % tiles, tiles_m, tiles_n, GROUP)
        o_m = (i_m * BM + tl.arange(0, BM)).to(tl.int64)
        o_n = (i_n * BN + tl.arange(0, BN)).to(tl.int64)
        m_m = o_m < M
        m_n = o_n < N
        if p_rows is not None:
            o_a = tl.load(p_rows + o_m, mask=m_m, other=0).to(tl.int64)
            m_row = (o_a >= 0) & (o_a < table_rows)
            m_a = m_m & m_row
        else:
            o_a = o_m
            m_a = m_m
        k_begin = i_part * k_per_part
        k_end = tl.minimum(k_begin + k_per_part, K)
        b_sum = tl.zeros((BM, BN), tl.float32)  # [BM, BN]
        for k in tl.range(k_begin, k_end, BK):
            if TMA:
                b_a = load_tile(p_a, i_m * BM, k, A_TURNED)  # [BM, BK]
                b_b = load_tile(p_b, k, i_n * BN, B_TURNED)  # [BK, BN]
            else:
                o_k = (k + tl.arange(0, BK)).to(tl.int64)
                p_ak = p_a + o_a[:, None] * stride_am + o_k[None, :] * stride_ak
                p_bk = p_b + o_k[:, None] * stride_bk + o_n[None, :] * stride_bn
                if EVEN_K:
                    b_a = tl.load(p_ak, mask=m_a[:, None], other=0.0)  # [BM, BK]
                    b_b = tl.load(p_bk, mask=m_n[None, :], other=0.0)  # [BK, BN]
                else:
                    m_k = o_k < k_end
                    b_a = tl.load(p_ak, mask=m_a[:, None] & m_k[None, :], other=0.0)  # [BM, BK]
                    b_b = tl.load(p_bk, mask=m_k[:, None] & m_n[None, :], other=0.0)  # [BK, BN]
            b_sum = tl.dot(b_a, b_b, b_sum, input_precision=PRECISION)
        if p_rows is not None:
            b_sum = tl.where(m_row[:, None], b_sum, float("nan"))
        if IN_PARTS:
            o_out = tl.cast(i_part, tl.int64) * M * N + o_m[:, None] * stride_om + o_n[None, :] * stride_on
            tl.store(p_out + o_out, b_sum, mask=m_m[:, None] & m_n[None, :])
        else:
            o_n = i_n * BN
            if BN > 128:
                b_left, b_right = halves(b_sum, BM, BN)
                finish_halves(
                    b_left, p_out, p_bias, o_m, o_n, M, N, stride_om, stride_on,
                    ACTIVATION, ACCUMULATE, BM, BN // 2,
                )  # fmt: skip
                finish_halves(
                    b_right, p_out, p_bias, o_m, o_n + BN // 2, M, N, stride_om, stride_on,
                    ACTIVATION, ACCUMULATE, BM, BN // 2,
                )  # fmt: skip
            else:
                finish_halves(
                    b_sum, p_out, p_bias, o_m, o_n, M, N, stride_om, stride_on,
                    ACTIVATION, ACCUMULATE, BM, BN,
                )  # fmt: skip


# What varies from chunk to chunk (T*B) must not be compiled in: it is the M of a product, and the K of a
# weight gradient. The other sizes belong to the model; that they divide by 16 lets loads be wide.
matmul_kernel = triton.jit(_matmul, do_not_specialize=["M", "parts", "table_rows"])
matmul_dw_kernel = triton.jit(_matmul, do_not_specialize=["K", "parts", "table_rows"])
