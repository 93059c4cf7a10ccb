"""The op table: one row per pointwise function, with its torch form, Triton form and derivative.

Adding a function is adding a row. Both programs and derivatives are written over these ops and the
structural ones of `cell.py`, so a new row works in every runner, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework.cell import Builder

# Called with (builder, y, args): the partial derivative of y by each argument, as ids of new ops.
# Written by y where that is possible: then the argument need not be kept for the backward.
Derivative = Callable[["Builder", int, tuple[int, ...]], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class PointwiseOp:
    """`torch` and `triton` are expressions over {0}, {1}; `inplace`: the torch method, if there is one.

    A Triton form may use sigmoid, tanh and relu of `kernels/activations.py`.
    """

    name: str
    arity: int
    torch: str
    triton: str
    derivative: Derivative | None
    inplace: str = ""


def _rows() -> list[PointwiseOp]:
    row = PointwiseOp

    def unary(make: Callable[[Builder, int, int], int]) -> Derivative:
        return lambda b, y, args: (make(b, y, args[0]),)

    return [
        # name, arity, torch, triton, derivative, in place
        row("sigmoid", 1, "torch.sigmoid({0})", "sigmoid({0})",
            unary(lambda b, y, x: b.sum((y, 1.0), (b.prod(y, y), -1.0))), "sigmoid_"),
        row("tanh", 1, "torch.tanh({0})", "tanh({0})",
            unary(lambda b, y, x: b.affine(b.prod(y, y), -1.0, 1.0)), "tanh_"),
        row("relu", 1, "torch.threshold({0}, 0.0, 0.0)", "relu({0})",
            unary(lambda b, y, x: b.point("positive", y)), "relu_"),
        row("softplus", 1, "torch.nn.functional.softplus({0})",
            "tl.maximum({0}, 0.0) + tl.log(1.0 + tl.exp(-tl.abs({0})))",
            unary(lambda b, y, x: b.point("sigmoid", x))),
        row("silu", 1, "torch.nn.functional.silu({0})", "({0}) / (1.0 + tl.exp(-({0})))",
            unary(_silu)),
        row("gelu", 1, "torch.nn.functional.gelu({0})",
            "0.5 * ({0}) * (1.0 + tl.erf(({0}) * 0.7071067811865476))", unary(_gelu)),
        row("elu", 1, "torch.nn.functional.elu({0})",
            "tl.where({0} > 0, {0}, tl.exp(tl.minimum({0}, 0.0)) - 1.0)", unary(_elu)),
        row("exp", 1, "torch.exp({0})", "tl.exp({0})", unary(lambda b, y, x: y), "exp_"),
        row("log", 1, "torch.log({0})", "tl.log({0})",
            unary(lambda b, y, x: b.point("reciprocal", x)), "log_"),
        row("log1p", 1, "torch.log1p({0})", "tl.log(1.0 + ({0}))",
            unary(lambda b, y, x: b.point("reciprocal", b.affine(x, 1.0, 1.0))), "log1p_"),
        row("abs", 1, "torch.abs({0})", "tl.abs({0})", unary(lambda b, y, x: b.point("sign", x)), "abs_"),
        row("sqrt", 1, "torch.sqrt({0})", "tl.sqrt({0})",
            unary(lambda b, y, x: b.affine(b.point("reciprocal", y), 0.5, 0.0)), "sqrt_"),
        row("square", 1, "torch.square({0})", "({0}) * ({0})", unary(lambda b, y, x: b.affine(x, 2.0, 0.0))),
        row("reciprocal", 1, "torch.reciprocal({0})", "1.0 / ({0})",
            unary(lambda b, y, x: b.affine(b.prod(y, y), -1.0, 0.0)), "reciprocal_"),
        row("sin", 1, "torch.sin({0})", "tl.sin({0})", unary(lambda b, y, x: b.point("cos", x)), "sin_"),
        row("cos", 1, "torch.cos({0})", "tl.cos({0})",
            unary(lambda b, y, x: b.affine(b.point("sin", x), -1.0, 0.0)), "cos_"),
        row("sign", 1, "torch.sign({0})", "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0))",
            None, "sign_"),
        row("hard_sigmoid", 1, "torch.nn.functional.hardtanh(({0}) / 6.0 + 0.5, 0.0, 1.0)",
            "tl.minimum(tl.maximum(({0}) / 6.0 + 0.5, 0.0), 1.0)",
            unary(lambda b, y, x: b.affine(b.point("inside01", y), 1.0 / 6.0, 0.0))),
        row("hard_tanh", 1, "torch.nn.functional.hardtanh({0})", "tl.minimum(tl.maximum({0}, -1.0), 1.0)",
            unary(lambda b, y, x: b.point("inside01", b.affine(y, 0.5, 0.5)))),
        row("minimum", 2, "torch.minimum({0}, {1})", "tl.minimum({0}, {1})",
            lambda b, y, a: (b.point("less", a[0], a[1]), b.affine(b.point("less", a[0], a[1]), -1.0, 1.0))),
        row("maximum", 2, "torch.maximum({0}, {1})", "tl.maximum({0}, {1})",
            lambda b, y, a: (b.point("less", a[1], a[0]), b.affine(b.point("less", a[1], a[0]), -1.0, 1.0))),
        # Helpers of derivatives; a user's graph cannot name them. They are constant almost everywhere.
        row("positive", 1, "({0} > 0).to({0}.dtype)", "tl.where({0} > 0, 1.0, 0.0)", None),
        row("inside01", 1, "(({0} > 0) & ({0} < 1)).to({0}.dtype)",
            "tl.where(({0} > 0) & ({0} < 1), 1.0, 0.0)", None),
        row("less", 2, "(torch.sign({1} - {0}) + 1) * 0.5",
            "tl.where({0} < {1}, 1.0, tl.where({0} > {1}, 0.0, 0.5))", None),
        row("erf", 1, "torch.erf({0})", "tl.erf({0})", None, "erf_"),
    ]  # fmt: skip


def _silu(b: Builder, y: int, x: int) -> int:
    s = b.point("sigmoid", x)
    return b.prod(s, b.affine(b.sum((y, -1.0), (x, 1.0)), 1.0, 1.0))  # s * (1 + x - y)


def _gelu(b: Builder, y: int, x: int) -> int:
    """Phi(x) + x phi(x), with the normal distribution's Phi and phi."""
    phi = b.affine(b.point("exp", b.affine(b.prod(x, x), -0.5, 0.0)), 0.3989422804014327, 0.0)
    cdf = b.affine(b.point("erf", b.affine(x, 0.7071067811865476, 0.0)), 0.5, 0.5)
    return b.sum((cdf, 1.0), (b.prod(x, phi), 1.0))


def _elu(b: Builder, y: int, x: int) -> int:
    """1 where y > 0, else exp(x) = y + 1; min(y, 0) + 1 is both."""
    zero = b.affine(y, 0.0, 0.0)
    return b.affine(b.point("minimum", y, zero), 1.0, 1.0)


TABLE: dict[str, PointwiseOp] = {op.name: op for op in _rows()}
HELPERS = frozenset({"positive", "inside01", "less", "erf"})
POINTWISE: dict[str, PointwiseOp] = {name: op for name, op in TABLE.items() if name not in HELPERS}
