"""Generated Triton source of the loops without exchange: from a component to kernels' plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from framework.cell import Op
from framework.component import Component
from framework.derivative import derive
from framework.masks import with_masks
from framework.ops import TABLE

if TYPE_CHECKING:
    from kernels.elementwise_source import Backward, Cell, Forward

FORMS = {name: op.triton for name, op in TABLE.items()}


def widened(c: Component) -> Component:
    """`c` with values from outside that are one number for all units made as wide as the loop.

    So no adjoint is a sum over units; the caller spreads the values and adds up their gradients.
    """
    size = max(op.size for op in c.cell)
    cell = tuple(op._replace(size=size) if op.kind in ("ext", "param") else op for op in c.cell)
    return replace(c, cell=cell)


NOW = " now"  # behind the name of a weight: as it is in the backward, where it may differ from the forward


def with_weights_of_now(ops: Sequence[Op], n: int) -> list[Op]:
    """`ops`, of which the first n are the cell's: the others read the weights of now, under another name.

    What the cell's ops give is computed again in a backward, and has to be what it was.
    """
    out = list(ops)
    other: dict[int, int] = {}
    for at, op in enumerate(ops[:n]):
        if op.kind == "param":
            other[at] = len(out)
            out.append(op._replace(name=op.name + NOW))
    for at in range(n, len(ops)):
        out[at] = ops[at]._replace(args=tuple(other.get(a, a) for a in ops[at].args))
    return out


def cell_of(c: Component, training: bool) -> Cell:
    """The component (widened) as the kernels see it."""
    from kernels.elementwise_source import Cell

    ops = with_masks(c, c.cell, training)
    return Cell(ops, c.roots, tuple(c.states), tuple(at for _, at in c.outputs), FORMS)


def forward_code(c: Component, masked: bool, training: bool = True) -> Forward:
    """One step of the component (widened) forward. masked: there are resets or lengths; training: masks are
    drawn.
    """
    from kernels.elementwise_source import forward

    return forward(cell_of(c, training), masked)


def backward_code(
    c: Component,
    masked: bool,
    given: frozenset[int] | None = None,
    training: bool = True,
    again: bool = False,
) -> Backward:
    """One step of its derivative when the outputs `given` (ops of the cell; all) receive gradients.

    again: the weights may have changed since the forward; see `with_weights_of_now`.
    """
    from kernels.elementwise_source import Derivative, backward

    d = derive(c, given=given)
    starts = [c.cell[t.op].args[0] for t in c.targets]
    pre = {at: g for at, g in zip(starts, d.pre, strict=True) if g is not None}
    ext = {i: g for i, g in enumerate(d.ext) if g is not None}
    own = with_weights_of_now(d.ops, len(c.cell)) if again else d.ops
    ops = with_masks(c, own, training)
    return backward(cell_of(c, training), Derivative(ops, pre, ext, d.params, d.shifts), masked)


def source_of(c: Component, masked: bool = False) -> str:
    """The Triton module that is generated for a component without exchange."""
    from kernels.elementwise_source import module_text

    wide = widened(c)
    return module_text([forward_code(wide, masked), backward_code(wide, masked)])
