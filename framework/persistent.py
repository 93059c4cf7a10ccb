"""A loop as the persistent kernels see it: plain data, and the Triton source made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.component import Component
from framework.derivative import derive
from framework.masks import key_of, with_masks
from framework.ops import TABLE

if TYPE_CHECKING:
    from kernels.persistent_cell import Cell, Derivative, Saved
    from kernels.persistent_layout import Layout
    from kernels.persistent_source import Kernel

FORMS = {name: op.triton for name, op in TABLE.items()}


def cell_of(c: Component, training: bool) -> Cell:
    """The component as the kernels see it: weight tensors are its runs, then its other matrices by name."""
    from kernels.persistent_cell import Cell, Weight

    weights: dict[str, Weight] = {}
    for k, run in enumerate(c.runs):
        for name, lo, hi in run.weights:
            weights[name] = Weight(k, lo, hi - lo, c.cell[run.source].size)
    for k, name in enumerate(blocks_of(c), len(c.runs)):
        op = next(op for op in c.cell if op.kind == "block" and op.name == name)
        weights[name] = Weight(k, 0, op.size, c.cell[op.args[0]].size, op.blocks)
    columns = {c.cell[t.op].args[0]: t.lo for t in c.targets}
    outputs = tuple(at for _, at in c.outputs)
    keys = {op.name: (key_of(op.name) + 2**31) % 2**32 - 2**31 for op in c.masks.values()}
    ops, forward = with_masks(c, c.cell, training), c.direction > 0
    return Cell(ops, c.roots, c.states, outputs, columns, c.width, weights, FORMS, forward, keys)


def blocks_of(c: Component) -> list[str]:
    """Block-diagonal weights of the loop."""
    return list(dict.fromkeys(op.name for op in c.cell if op.kind == "block"))


def derivative_of(c: Component, given: frozenset[int] | None = None, training: bool = True) -> Derivative:
    """The derivative when the outputs `given` (ops of the cell; all) receive gradients."""
    from kernels.persistent_cell import Derivative

    d = derive(c, given=given)
    starts = [c.cell[t.op].args[0] for t in c.targets]
    pre = {at: g for at, g in zip(starts, d.pre, strict=True) if g is not None}
    ext = {i: g for i, g in enumerate(d.ext) if g is not None and i not in c.masks}
    products = tuple((m.kind, m.name, m.g, m.source) for m in d.matrices)
    return Derivative(with_masks(c, d.ops, training), pre, ext, d.params, d.shifts, products)


def saved_of(c: Component, layout: Layout, training: bool = True) -> Saved:
    """What a forward leaves for any backward of the component."""
    from kernels.persistent_cell import saved_values

    return saved_values(cell_of(c, training), derivative_of(c, None, training), layout.programs > 1)


def forward_code(c: Component, layout: Layout, train: bool, masked: bool, training: bool = True) -> Kernel:
    """All steps forward. train: leave what the backward needs; masked: there are resets or lengths; training:
    random masks are drawn.
    """
    from kernels.persistent_cell import NOTHING
    from kernels.persistent_forward import forward_text

    saved = saved_of(c, layout, training) if train else NOTHING
    return forward_text(cell_of(c, training), layout, saved, masked)


def backward_code(
    c: Component, layout: Layout, masked: bool, given: frozenset[int] | None = None, training: bool = True
) -> Kernel:
    """All steps of the derivative when the outputs `given` (ops of the cell; all) receive gradients."""
    from kernels.persistent_backward import backward_text

    d, saved = derivative_of(c, given, training), saved_of(c, layout, training)
    return backward_text(cell_of(c, training), d, layout.backward(), saved, masked)


def source_of(c: Component, layout: Layout, masked: bool = False) -> str:
    """The Triton module that is generated for a component."""
    from kernels.persistent_source import module_text

    return module_text([forward_code(c, layout, True, masked), backward_code(c, layout, masked)])
