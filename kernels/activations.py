"""Activations that a product can end with, and their slopes as functions of the result (all in float32)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)); exp overflows to infinity for x < -88, which gives the right 0."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Odd polynomial for |x| < 1, where a quotient would cancel; there is no tanh that also the interpreter
    knows. In float32 it errs by less than 1 unit in the last place if exp does, in float64 by 2e-10.
    """
    square = x * x
    # Interpolates (tanh(x) / x - 1) / x**2 at the Chebyshev points of 0 < x**2 < 1.
    tail = -4.881237067356231e-05
    tail = tail * square + 0.0003390767368152895
    tail = tail * square - 0.0012444220655089262
    tail = tail * square + 0.0034803129719752335
    tail = tail * square - 0.008827158748155267
    tail = tail * square + 0.02186280805398458
    tail = tail * square - 0.05396762593041926
    tail = tail * square + 0.1333333103848765
    tail = tail * square - 0.3333333331935661
    near = x + x * square * tail
    small = tl.exp(-2.0 * tl.abs(x))
    # Not (1 - small) / (1 + small): what is taken from 1 is small, and so is what its rounding does.
    far = 1.0 - 2.0 * small / (1.0 + small)
    return tl.where(square < 1.0, near, tl.where(x < 0.0, -far, far))


@triton.jit
def relu(x):
    """max(x, 0); a NaN stays one."""
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def sigmoid_slope(y):
    """Derivative of sigmoid where it gave y."""
    return y * (1.0 - y)


@triton.jit
def tanh_slope(y):
    """Derivative of tanh where it gave y."""
    return (1.0 - y) * (1.0 + y)


@triton.jit
def relu_slope(y):
    """Derivative of relu where it gave y; 0 at 0, as torch has it."""
    return tl.where(y > 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Activation:
    """An activation and its slope, both jit functions of a float32 block."""

    apply: Any
    slope: Any


ACTIVATIONS = {
    "sigmoid": Activation(apply=sigmoid, slope=sigmoid_slope),
    "tanh": Activation(apply=tanh, slope=tanh_slope),
    "relu": Activation(apply=relu, slope=relu_slope),
}


def find_activation(name: str) -> Activation:
    """The activation of this name; raises ValueError that lists the names there are."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: {name!r} is unknown. Use one of {', '.join(ACTIVATIONS)}, or None.")
    return ACTIVATIONS[name]


@triton.jit(do_not_specialize=["M"])
def activation_backward_kernel(
    p_dy,
    p_y,
    p_out,
    M,
    N,
    stride_dm,
    stride_dn,
    stride_ym,
    stride_yn,
    stride_om,
    stride_on,
    SLOPE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """out[m, n] = dy[m, n] * slope(y[m, n])."""
    o_m = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    o_n = (tl.program_id(1) * BN + tl.arange(0, BN)).to(tl.int64)
    m_all = (o_m < M)[:, None] & (o_n < N)[None, :]
    o_dy = o_m[:, None] * stride_dm + o_n[None, :] * stride_dn
    o_y = o_m[:, None] * stride_ym + o_n[None, :] * stride_yn
    b_dy = tl.load(p_dy + o_dy, mask=m_all, other=0.0).to(tl.float32)  # [BM, BN]
    b_y = tl.load(p_y + o_y, mask=m_all, other=0.0).to(tl.float32)
    o_out = o_m[:, None] * stride_om + o_n[None, :] * stride_on
    tl.store(p_out + o_out, (b_dy * SLOPE(b_y)).to(p_out.dtype.element_ty), mask=m_all)


def activation_backward(dy: Tensor, y: Tensor, activation: str, out: Tensor | None = None) -> Tensor:
    """Gradient before an activation: dy [M, N] and its result y [M, N] -> out [M, N] (new: in dy's dtype).

    `out` may be dy itself. Raises ValueError on an unknown activation or shapes that differ.
    """
    slope = find_activation(activation).slope
    if out is None:
        out = torch.empty_like(dy)
    if not dy.shape == y.shape == out.shape or dy.ndim != 2:
        shapes = f"dy {tuple(dy.shape)}, y {tuple(y.shape)}, out {tuple(out.shape)}"
        raise ValueError(f"activation_backward: {shapes} must be equal, [rows, units].")
    m, n = dy.shape
    bm, bn = 8, 128
    if dy.numel():
        activation_backward_kernel[(triton.cdiv(m, bm), triton.cdiv(n, bn))](
            dy,
            y,
            out,
            m,
            n,
            *dy.stride(),
            *y.stride(),
            *out.stride(),
            SLOPE=slope,
            BM=bm,
            BN=bn,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out
