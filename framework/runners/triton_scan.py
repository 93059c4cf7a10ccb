"""The `scan` runner: loops that are linear in one state, all steps at once, by a parallel prefix over time.

Tensors, generated cell and memory are those of `elementwise`; what differs is how time is walked through.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from framework.cell import Builder
from framework.component import Component
from framework.runners.elementwise_code import (
    FORMS,
    backward_code,
    forward_code,
    with_masks,
    with_weights_of_now,
)
from framework.runners.loop import Chunk
from framework.runners.triton_elementwise import ElementwiseLoop


def slope_of(c: Component) -> tuple[Builder, int]:
    """Ops that begin with the cell's, and of them the factor with which its state enters the next one.

    c: linear in one state, of which it reads one step (`choose.py` refuses others).
    """
    b = Builder(list(c.cell))
    (state,) = c.states
    one, none = b.const(1.0), b.const(0.0)
    slopes: list[int] = []
    for op in c.cell:
        inside = [(i, slopes[a]) for i, a in enumerate(op.args) if slopes[a] != none]
        if op.kind == "shift":
            slopes.append(one)
        elif not inside:
            slopes.append(none)
        elif op.kind == "sum":
            slopes.append(b.sum(*((d, op.coefs[i]) for i, d in inside)))
        elif op.kind == "prod":
            ((place, d),) = inside
            slopes.append(b.prod(d, *(a for i, a in enumerate(op.args) if i != place)))
        else:
            assert op.kind in ("copy", "expand"), op.kind
            slopes.append(inside[0][1])
    return b, slopes[c.roots[state]]


class ScanLoop(ElementwiseLoop):
    """One linear component, compiled on first use."""

    name = "scan"

    def code(self, chunk: Chunk, given: frozenset[int] | None = None) -> tuple[Any, ModuleType]:
        """As `ElementwiseLoop.code`; the module also has the factor of the state, slope_fwd or slope_bwd."""
        masked, training = bool(chunk.masks), chunk.seed is not None and bool(self.keys)
        again = given is not None and self.again(chunk)
        known = self._code.get((masked, training, given, again))
        if known is None:
            from kernels.codegen import label_of
            from kernels.elementwise import compile_code
            from kernels.elementwise_source import with_slope

            b, at = slope_of(self.wide)
            own = with_weights_of_now(b.ops, len(self.wide.cell)) if again else b.ops
            ops = with_masks(self.wide, own, training)
            if given is None:
                code = with_slope(forward_code(self.wide, masked, training), "slope_fwd", ops, at, FORMS)
            else:
                code = backward_code(self.wide, masked, given, training, again)
                code = with_slope(code, "slope_bwd", ops, at, FORMS)
            known = self._code[masked, training, given, again] = (
                code,
                compile_code(code, label_of(self.c.roots)),
            )
        return known

    def launches(self) -> Any:
        """As `ElementwiseLoop.launches`."""
        from kernels import scan

        return scan
