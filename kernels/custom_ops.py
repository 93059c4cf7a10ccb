"""`matmul` and `lookup` as operators of torch: with derivatives, and opaque to torch.compile.

For code that calls kernels itself. The hoisted products of a network are operators of their own, which choose
among kernels; they launch from inside, where nothing is traced.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from kernels import activations, gemm, sums
from kernels import lookup as table

SECOND = "double backward: products by kernels have first derivatives only. Leave out create_graph=True."


@torch.library.custom_op("intrastream::matmul", mutates_args=())
def matmul(
    a: Tensor,
    b: Tensor,
    bias: Optional[Tensor] = None,  # noqa: UP045 (schemas are read from annotations, which know no other form)
    activation: Optional[str] = None,  # noqa: UP045
    rows: Optional[Tensor] = None,  # noqa: UP045
    precision: str = "ieee",
) -> Tensor:
    """activation(a[rows] @ b + bias), see `kernels.gemm.matmul`; the result is new."""
    return gemm.matmul(a, b, bias, activation, rows, precision=_precision(precision))


@torch.library.custom_op("intrastream::matmul_dw", mutates_args=())
def matmul_dw(a: Tensor, dy: Tensor, precision: str = "ieee") -> Tensor:
    """a.T @ dy, see `kernels.gemm.matmul_dw`."""
    return gemm.matmul_dw(a, dy, precision=_precision(precision))


@torch.library.custom_op("intrastream::lookup", mutates_args=())
def lookup(
    weights: Tensor,
    rows: Tensor,
    bias: Optional[Tensor] = None,  # noqa: UP045
    activation: Optional[str] = None,  # noqa: UP045
) -> Tensor:
    """activation(weights[rows] + bias), see `kernels.lookup.lookup`; the result is new."""
    return table.lookup(weights, rows, bias, activation)


@torch.library.custom_op("intrastream::lookup_dw", mutates_args=())
def lookup_dw(rows: Tensor, dy: Tensor, size: int) -> Tensor:
    """The gradient [size, N] of a table, see `kernels.lookup.lookup_dw`."""
    return table.lookup_dw(rows, dy, dy.new_empty(size, dy.shape[1]))


@torch.library.custom_op("intrastream::activation_backward", mutates_args=())
def activation_backward(dy: Tensor, y: Tensor, activation: str) -> Tensor:
    """The gradient before an activation, see `kernels.activations.activation_backward`."""
    return activations.activation_backward(dy, y, activation, out=dy.new_empty(dy.shape))


@torch.library.custom_op("intrastream::column_sum", mutates_args=())
def column_sum(x: Tensor) -> Tensor:
    """The float32 sum of x over its rows, see `kernels.sums.column_sum`."""
    return sums.column_sum(x)


@matmul.register_fake
def _(
    a: Tensor, b: Tensor, bias: Any = None, activation: Any = None, rows: Any = None, precision: str = ""
) -> Tensor:
    return a.new_empty((a.shape[0] if rows is None else rows.shape[0], b.shape[1]))


@matmul_dw.register_fake
def _(a: Tensor, dy: Tensor, precision: str = "") -> Tensor:
    return a.new_empty((a.shape[1], dy.shape[1]))


@lookup.register_fake
def _(weights: Tensor, rows: Tensor, bias: Any = None, activation: Any = None) -> Tensor:
    return weights.new_empty((rows.shape[0], weights.shape[1]))


@lookup_dw.register_fake
def _(rows: Tensor, dy: Tensor, size: int) -> Tensor:
    return dy.new_empty((size, dy.shape[1]))


@activation_backward.register_fake
def _(dy: Tensor, y: Tensor, activation: str) -> Tensor:
    return dy.new_empty(dy.shape)


@column_sum.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((x.shape[1],), dtype=torch.float32)


def _precision(name: str) -> gemm.Precision:
    if name == "tf32":
        return "tf32"
    if name == "ieee":
        return "ieee"
    raise ValueError(f"matmul: precision {name!r} is unknown. Use 'ieee' or 'tf32'.")


def _save_matmul(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    a, b, bias, ctx.activation, rows, ctx.precision = inputs
    ctx.save_for_backward(a, b, bias, rows, output if ctx.activation else None)


def _matmul_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    a, b, bias, rows, y = ctx.saved_tensors
    g = activation_backward(dy, y, ctx.activation) if ctx.activation else dy
    da = db = None
    if ctx.needs_input_grad[0]:
        da = matmul(g, b.T, precision=ctx.precision)
        da = da if rows is None else lookup_dw(rows, da, a.shape[0])
    if ctx.needs_input_grad[1]:
        db = matmul_dw(a if rows is None else lookup(a, rows), g, ctx.precision)
    return da, db, _bias_gradient(ctx, g, bias), None, None, None


def _bias_gradient(ctx: Any, g: Tensor, bias: Tensor | None) -> Tensor | None:
    return column_sum(g).to(bias.dtype) if bias is not None and ctx.needs_input_grad[2] else None


def _save_lookup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weights, rows, bias, ctx.activation = inputs
    ctx.size = weights.shape[0]
    ctx.save_for_backward(rows, bias, output if ctx.activation else None)


def _lookup_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    rows, bias, y = ctx.saved_tensors
    g = activation_backward(dy, y, ctx.activation) if ctx.activation else dy
    dw = lookup_dw(rows, g, ctx.size) if ctx.needs_input_grad[0] else None
    return dw, None, _bias_gradient(ctx, g, bias), None


def _refuse(ctx: Any, *gradients: Any) -> None:
    raise RuntimeError(SECOND)


matmul.register_autograd(_matmul_backward, setup_context=_save_matmul)
lookup.register_autograd(_lookup_backward, setup_context=_save_lookup)
for _derivative in (matmul_dw, lookup_dw, activation_backward, column_sum):
    _derivative.register_autograd(_refuse)
