"""A hoisted sum of products and its derivative as operators of torch, see `custom_ops.py`.

The operator is told its addends in its arguments: nothing has to be looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.runners.functions import first_order, no_gradients, no_second_order, own
from framework.steps import Addend, Linear

if TYPE_CHECKING:
    from framework.products import By

# Of each addend its kind, columns and factor; of each constant its columns and value; the columns of all; who
# multiplies.
_STEP = "str[] kinds, int[] columns, float[] coefs, int[] const_columns, float[] consts, int width, str by"
torch.library.define(
    "intrastream::linear",
    f"(Tensor[] tensors, {_STEP}, SymInt steps, SymInt lanes) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "intrastream::linear_backward",
    f"(Tensor[] tensors, Tensor g, {_STEP}, bool[] wanted) -> Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)


def call(step: Linear, tensors: Sequence[Tensor], steps: int, lanes: int, by: By) -> Tensor:
    """The buffer of `hoisted.linear` by its operator."""
    return torch.ops.intrastream.linear(
        list(tensors),
        [a.kind for a in step.addends],
        [at for a in step.addends for at in (a.lo, a.hi)],
        [a.coef for a in step.addends],
        [at for lo, hi, _ in step.const for at in (lo, hi)],
        [value for _, _, value in step.const],
        step.width,
        by,
        steps,
        lanes,
    )


def _step(
    kinds: Sequence[str],
    columns: Sequence[int],
    coefs: Sequence[float],
    const_columns: Sequence[int],
    consts: Sequence[float],
    width: int,
) -> Linear:
    spans = zip(kinds, columns[::2], columns[1::2], coefs, strict=True)
    const = zip(const_columns[::2], const_columns[1::2], consts, strict=True)
    return Linear(width, tuple(Addend(kind, lo, hi, coef=c) for kind, lo, hi, c in spans), tuple(const), {})


@torch.library.impl("intrastream::linear", "default")
def _run(tensors: Sequence[Tensor], *rest: Any) -> Tensor:
    from framework.runners.hoisted import buffer_of

    *step, by, steps, lanes = rest
    return buffer_of(_step(*step), tensors, steps, lanes, by)


@torch.library.register_fake("intrastream::linear")
def _run_fake(tensors: Sequence[Tensor], *rest: Any) -> Tensor:
    *_, width, _by, steps, lanes = rest
    like = next(x for x in tensors if x.is_floating_point())
    return like.new_empty((steps, lanes, width))


@torch.library.impl("intrastream::linear_backward", "default")
def _gradients(tensors: Sequence[Tensor], g: Tensor, *rest: Any) -> list[Tensor]:
    from framework.runners.hoisted import gradients_of

    *step, by, wanted = rest
    found = gradients_of(_step(*step), tensors, g, wanted, by)
    return own([x for x in found if x is not None], [*tensors, g])


@torch.library.register_fake("intrastream::linear_backward")
def _gradients_fake(tensors: Sequence[Tensor], g: Tensor, *rest: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x, want in zip(tensors, rest[-1], strict=True) if want]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors, *ctx.step, _, _ = inputs
    ctx.rest = no_gradients(inputs[1:])
    ctx.save_for_backward(*tensors)


@first_order
def _backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    wanted = list(ctx.needs_input_grad[0])
    found = iter(torch.ops.intrastream.linear_backward(ctx.saved_tensors, g, *ctx.step, wanted))
    return [next(found) if want else None for want in wanted], *ctx.rest


torch.library.register_autograd("intrastream::linear", _backward, setup_context=_save)
torch.library.register_autograd("intrastream::linear_backward", no_second_order)
