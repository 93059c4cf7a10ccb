"""Products over a whole chunk: [T*B, K] x [K, N] with bias, activation and row gather, and their gradients.

One kernel does all of them: a weight gradient is the same product of a transposed view, with a long reduction
that is cut into parts. Sums are float32 and in a fixed order: equal calls give equal bits. Nothing here waits
for the device or looks at values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.activations import find_activation
from kernels.launch import GemmLaunch, Kind, current_chip, gemm_launch
from kernels.sums import add_parts, finish

Precision = Literal["ieee", "tf32"]
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


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
    GROUP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """out[m, n] = sum over k of a[rows[m], k] * b[k, n]; IN_PARTS: out[i, m, n], packed, for each part of the
    sum.

    Programs loop over tiles (a persistent grid). A row index outside [0, table_rows) gives a row of NaN.
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
            # In two halves: a whole tile with its pointers, and the old values, is more than the registers
            # hold.
            b_left, b_right = halves(b_sum, BM, BN)
            o_n = (i_n * BN + tl.arange(0, BN // 2)).to(tl.int64)
            finish(b_left, p_out, p_bias, o_m, o_n, M, N, stride_om, stride_on, ACTIVATION, ACCUMULATE)
            o_n += BN // 2
            finish(b_right, p_out, p_bias, o_m, o_n, M, N, stride_om, stride_on, ACTIVATION, ACCUMULATE)


# What varies from chunk to chunk (T*B) must not be compiled in: it is the M of a product, and the K of a
# weight gradient. The other sizes belong to the model; that they divide by 16 lets loads be wide.
matmul_kernel = triton.jit(_matmul, do_not_specialize=["M", "parts", "table_rows"])
matmul_dw_kernel = triton.jit(_matmul, do_not_specialize=["K", "parts", "table_rows"])


@dataclass(frozen=True)
class _Epilogue:
    """What happens to the sum before it is stored."""

    bias: Tensor | None = None
    activation: str | None = None
    accumulate: bool = False


def matmul(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    rows: Tensor | None = None,
    out: Tensor | None = None,
    accumulate: bool = False,
    precision: Precision = "ieee",
    launch: GemmLaunch | None = None,
) -> Tensor:
    """activation(a[rows] @ b + bias), or with `accumulate` activation(out + a[rows] @ b + bias); returns out.

    a [M, K], b [K, N]: float32, bfloat16 or float16, of one dtype, any strides (a weight [N, K]: pass its
    `.T`). bias [N]; rows [M] int32 or int64 (a row outside of a gives NaN); out [M, N] of any of these dtypes
    and any strides, e.g. a range of columns of a wider buffer; by default new, in the dtype of a. `precision`
    is for float32 operands: "ieee" or "tf32". `launch` overrides the table. Raises ValueError on what does
    not fit.
    """
    return _product(
        a, b, rows, out, _Epilogue(bias, activation, accumulate), precision, launch, matmul_kernel
    )


def matmul_dx(
    dy: Tensor,
    b: Tensor,
    out: Tensor | None = None,
    accumulate: bool = False,
    precision: Precision = "ieee",
    launch: GemmLaunch | None = None,
) -> Tensor:
    """Gradient of a in `a @ b`: dy [M, N] @ b.T -> [M, K]. The rest: see matmul."""
    return matmul(dy, b.T, out=out, accumulate=accumulate, precision=precision, launch=launch)


def matmul_dw(
    a: Tensor,
    dy: Tensor,
    out: Tensor | None = None,
    accumulate: bool = False,
    precision: Precision = "ieee",
    launch: GemmLaunch | None = None,
) -> Tensor:
    """Gradient of b in `a @ b`: a.T @ dy, from [M, K] and [M, N] -> [K, N], deterministic. The rest: see
    matmul.

    Fill the gradient of a weight [N, K] in place with `out=gradient.T`.
    """
    return _product(a.T, dy, None, out, _Epilogue(accumulate=accumulate), precision, launch, matmul_dw_kernel)


def _product(
    a: Tensor,
    b: Tensor,
    rows: Tensor | None,
    out: Tensor | None,
    epilogue: _Epilogue,
    precision: Precision,
    launch: GemmLaunch | None,
    kernel: triton.JITFunction,
) -> Tensor:
    _check(a, b, epilogue.bias, rows, precision)
    shape = (a.shape[0] if rows is None else rows.shape[0], b.shape[1])
    if out is None:
        if epilogue.accumulate:
            raise ValueError("matmul: accumulate needs `out` to add to. Pass out=..., or accumulate=False.")
        out = torch.empty(shape, dtype=a.dtype, device=a.device)
    elif out.shape != shape or out.dtype not in FLOATS:
        raise ValueError(f"matmul: out is {_form(out)}. Pass {list(shape)} of float32, bfloat16 or float16.")
    if out.numel() == 0:
        return out
    kind: Kind = "half" if a.dtype != torch.float32 else precision
    launch = launch or gemm_launch(current_chip(a.device), kind, *shape, b.shape[0])
    if launch.backend == "torch":
        _torch_product(a, b, rows, out, epilogue)
    else:
        _launch(a, b, rows, out, epilogue, precision, launch, kernel)
    return out


def _launch(
    a: Tensor,
    b: Tensor,
    rows: Tensor | None,
    out: Tensor,
    epilogue: _Epilogue,
    precision: Precision,
    launch: GemmLaunch,
    kernel: triton.JITFunction,
) -> None:
    (m, n), k, tile = out.shape, b.shape[0], launch.tile
    in_parts = launch.splits > 1
    target = torch.empty(launch.splits, m, n, dtype=torch.float32, device=out.device) if in_parts else out
    stored = _Epilogue() if in_parts else epilogue
    apply = None if stored.activation is None else find_activation(stored.activation).apply
    kernel[(launch.programs,)](
        a,
        b,
        target,
        stored.bias,
        rows,
        m,
        n,
        k,
        launch.splits,
        triton.cdiv(triton.cdiv(k, tile.bk), launch.splits) * tile.bk,
        a.shape[0],
        *a.stride(),
        *b.stride(),
        *target.stride()[-2:],
        ACTIVATION=apply,
        ACCUMULATE=stored.accumulate,
        PRECISION=precision,
        EVEN_K=kernel is matmul_kernel and k % tile.bk == 0,
        IN_PARTS=in_parts,
        GROUP=tile.group,
        BM=tile.bm,
        BN=tile.bn,
        BK=tile.bk,
        num_warps=tile.warps,
        num_stages=tile.stages,
        enable_fp_fusion=True,
    )
    if in_parts:
        add_parts(target, out, epilogue.bias, epilogue.activation, epilogue.accumulate)


def _torch_product(a: Tensor, b: Tensor, rows: Tensor | None, out: Tensor, epilogue: _Epilogue) -> None:
    """The same by torch, where a table names it; torch's own settings decide about tf32."""
    result = ((a if rows is None else a[rows]) @ b).float()
    if epilogue.bias is not None:
        result += epilogue.bias
    if epilogue.accumulate:
        result += out
    if epilogue.activation is not None:
        find_activation(epilogue.activation)
        result = getattr(torch, epilogue.activation)(result)
    out.copy_(result)


def _form(x: Tensor) -> str:
    return f"{list(x.shape)} of {str(x.dtype).removeprefix('torch.')}"


def _check(a: Tensor, b: Tensor, bias: Tensor | None, rows: Tensor | None, precision: str) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"matmul: a is {_form(a)}, b is {_form(b)}. Pass [M, K] and [K, N].")
    if a.dtype not in FLOATS or a.dtype != b.dtype:
        raise ValueError(
            f"matmul: a is {_form(a)}, b is {_form(b)}. Both must be float32, bfloat16 or float16."
        )
    if bias is not None and (bias.shape != (b.shape[1],) or bias.dtype not in FLOATS or bias.stride(0) != 1):
        raise ValueError(f"matmul: bias is {_form(bias)}. Pass [{b.shape[1]}], packed, of a float dtype.")
    if rows is not None and (rows.ndim != 1 or rows.dtype not in (torch.int32, torch.int64)):
        raise ValueError(f"matmul: rows is {_form(rows)}. Pass one-dimensional int32 or int64.")
    if rows is not None and not rows.is_contiguous():
        raise ValueError("matmul: rows is not packed. Pass rows.contiguous().")
    if precision not in ("ieee", "tf32"):
        raise ValueError(f"matmul: precision {precision!r} is unknown. Use 'ieee' or 'tf32'.")
