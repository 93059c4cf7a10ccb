"""Generated Triton source of the loops without exchange: from a component to kernels' plain data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

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
    c: Component, masked: bool, given: frozenset[int] | None = None, training: bool = True
) -> Backward:
    """One step of its derivative when the outputs `given` (ops of the cell; all) receive gradients."""
    from kernels.elementwise_source import Derivative, backward

    d = derive(c, given=given)
    starts = [c.cell[t.op].args[0] for t in c.targets]
    pre = {at: g for at, g in zip(starts, d.pre, strict=True) if g is not None}
    ext = {i: g for i, g in enumerate(d.ext) if g is not None}
    ops = with_masks(c, d.ops, training)
    return backward(cell_of(c, training), Derivative(ops, pre, ext, d.params, d.shifts), masked)


def source_of(c: Component, masked: bool = False) -> str:
    """The Triton module that is generated for a component without exchange."""
    from kernels.elementwise_source import module_text

    wide = widened(c)
    return module_text([forward_code(wide, masked), backward_code(wide, masked)])
