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
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.activations import find_activation
from kernels.gemm_kernel import matmul_dw_kernel, matmul_kernel
from kernels.launch import GemmLaunch, Kind, Operands, current_chip, gemm_launch
from kernels.sums import add_parts

Precision = Literal["ieee", "tf32"]
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


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
    """Gradient of b in `a @ b`: a.T @ dy, from [M, K] and [M, N] -> [K, N]. The rest: see matmul.

    The long reduction over M is cut into parts, which are added in order: deterministic, without atomics.
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
    launch = launch or launch_of(a, b, rows, precision)
    if launch.backend == "torch":
        _torch_product(a, b, rows, out, epilogue)
    else:
        tma = launch.tile.tma and operands_of(a, b, rows).mapped
        _launch(a, b, rows, out, epilogue, precision, launch, kernel, tma)
    return out


def launch_of(a: Tensor, b: Tensor, rows: Tensor | None = None, precision: Precision = "ieee") -> GemmLaunch:
    """The launch that the table gives to `matmul(a, b, rows=rows, precision=precision)`."""
    kind: Kind = "half" if a.dtype != torch.float32 else precision
    m = a.shape[0] if rows is None else rows.shape[0]
    return gemm_launch(current_chip(a.device), kind, m, b.shape[1], b.shape[0], operands_of(a, b, rows))


def operands_of(a: Tensor, b: Tensor, rows: Tensor | None = None) -> Operands:
    """What strides and addresses of a and b allow."""
    return Operands(
        wide=_is_wide(a) and _is_wide(b),
        mapped=rows is None and b.shape[0] > 0 and _is_mapped(a) and _is_mapped(b),
    )


def _launch(
    a: Tensor,
    b: Tensor,
    rows: Tensor | None,
    out: Tensor,
    epilogue: _Epilogue,
    precision: Precision,
    launch: GemmLaunch,
    kernel: triton.JITFunction,
    tma: bool,
) -> None:
    (m, n), k, tile = out.shape, b.shape[0], launch.tile
    in_parts = launch.splits > 1
    target = torch.empty(launch.splits, m, n, dtype=torch.float32, device=out.device) if in_parts else out
    stored = _Epilogue() if in_parts else epilogue
    apply = None if stored.activation is None else find_activation(stored.activation).apply
    kernel[(launch.programs,)](
        _descriptor(a, tile.bm, tile.bk) if tma else a,
        _descriptor(b, tile.bk, tile.bn) if tma else b,
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
        TMA=tma,
        A_TURNED=tma and a.stride(1) != 1,
        B_TURNED=tma and b.stride(1) != 1,
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


def _is_mapped(x: Tensor) -> bool:
    """Whether a tensor map can describe x or its transpose: one dimension packed, the other on 16 bytes."""
    across = x.stride(0) if x.stride(1) == 1 else x.stride(1)
    return min(x.stride()) == 1 and across * x.element_size() % 16 == 0 and x.data_ptr() % 16 == 0


def _is_wide(x: Tensor) -> bool:
    """Whether Triton can prove that x is loaded 16 bytes at a time: it looks for strides divisible by 16."""
    across = x.stride(0) if x.stride(1) == 1 else x.stride(1)
    return min(x.stride()) == 1 and across % 16 == 0 and x.data_ptr() % 16 == 0


def _descriptor(x: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """Tensor map of x with blocks [rows, columns], or of its transpose where x is packed along columns."""
    if x.stride(1) == 1:
        return TensorDescriptor.from_tensor(x, [rows, columns])
    return TensorDescriptor.from_tensor(x.T, [columns, rows])


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
    if bias is not None and (
        bias.shape != (b.shape[1],) or bias.dtype not in FLOATS or not bias.is_contiguous()
    ):
        raise ValueError(f"matmul: bias is {_form(bias)}. Pass [{b.shape[1]}], packed, of a float dtype.")
    if rows is not None and (rows.ndim != 1 or rows.dtype not in (torch.int32, torch.int64)):
        raise ValueError(f"matmul: rows is {_form(rows)}. Pass one-dimensional int32 or int64.")
    if rows is not None and not rows.is_contiguous():
        raise ValueError("matmul: rows is not packed. Pass rows.contiguous().")
    if precision not in ("ieee", "tf32"):
        raise ValueError(f"matmul: precision {precision!r} is unknown. Use 'ieee' or 'tf32'.")
