"""The `elementwise` runner: loops in which every unit goes its own way, all steps in one Triton launch.

Same tensors in and out as `TorchLoop`. On a CPU it runs only under Triton's interpreter, for tests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.component import Component
from framework.errors import ConfigError
from framework.runners import functions
from framework.runners.elementwise_code import backward_code, forward_code, widened
from framework.runners.torch_loop import Chunk

if TYPE_CHECKING:
    from kernels.elementwise import Gradients, Outer, Shape
    from kernels.elementwise_source import Backward, Forward


class ElementwiseLoop:
    """One component without exchange, compiled on first use."""

    def __init__(self, c: Component):
        self.c = c
        self.wide = widened(c)
        self.singles = list(dict.fromkeys(op.name for op in c.cell if op.kind == "param"))
        self.distances = tuple(sorted({abs(op.shift) for op in c.cell if op.kind == "shift"}))
        self._code: dict[tuple[bool, frozenset[int] | None], tuple[Forward | Backward, ModuleType]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies make their modules again: those cannot be copied or pickled."""
        return {**self.__dict__, "_code": {}}

    def check_device(self, device: str) -> None:
        """Raises ConfigError for a CPU, unless Triton interprets."""
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            cause = "'elementwise' runs on GPUs, the network is on a CPU"
            raise ConfigError("runner", cause, "Move it to a GPU, or take runner=auto.")

    def code(self, masked: bool, given: frozenset[int] | None = None) -> tuple[Any, ModuleType]:
        """Generated source and its module: forward, or backward of the outputs `given`."""
        known = self._code.get((masked, given))
        if known is None:
            from kernels.elementwise import compile_code

            code: Forward | Backward
            code = (
                forward_code(self.wide, masked) if given is None else backward_code(self.wide, masked, given)
            )
            known = self._code[masked, given] = (code, compile_code(code, self.c.name))
        return known

    def __call__(
        self,
        chunk: Chunk,
        pre: Tensor | None,
        ext: Sequence[Tensor],
        runs: Sequence[Tensor],
        singles: Sequence[Tensor],
        boundary: Sequence[Tensor],
        init: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """Values [T, B, size] of the component's outputs; the tensors are those of `TorchLoop.__call__`.

        Raises ConfigError for tensors on a CPU, unless Triton interprets.
        """
        assert not runs, "a loop without exchange has no products"
        tensors = [*([] if pre is None else [pre]), *ext, *singles, *boundary, *init]
        self.check_device(tensors[0].device.type)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return _LoopFunction.apply(self, chunk, len(ext), *tensors)
        with torch.no_grad():
            return self.forward(chunk, self.outer(chunk, len(ext), tensors))

    def outer(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], nodes: dict[int, Tensor] | None = None
    ) -> Outer:
        """The tensors of one call as the kernels take them; `nodes`: what is stored (None: new buffers)."""
        from kernels.elementwise import Outer

        c, at = self.c, iter(tensors)
        pre = next(at) if c.targets else None
        ext = [next(at) for _ in range(n_ext)]
        size = self.units
        par = {name: next(at).expand(size).contiguous() for name in self.singles}
        boundary = [next(at) for _ in c.states]
        init = [next(at).contiguous() for _ in c.states]
        if nodes is None:
            nodes = self._buffers(chunk, boundary)
        keep = [chunk.masks[d].squeeze(-1).contiguous() for d in self.distances] if chunk.masks else []
        return Outer(pre, ext, par, keep, init, nodes)

    def _buffers(self, chunk: Chunk, boundary: Sequence[Tensor]) -> dict[int, Tensor]:
        """Stored op -> [front + T + back, B, size], with boundary steps in place."""
        shape, nodes = self.shape(chunk), dict[int, Tensor]()
        for root in self.code(bool(chunk.masks))[0].nodes:
            nodes[root] = boundary[0].new_empty((chunk.steps + shape.reach, chunk.lanes, shape.units))
        for (node, distance), edge in zip(self.c.states.items(), boundary, strict=True):
            start = shape.front - distance if shape.forward else chunk.steps
            nodes[self.c.roots[node]][start : start + distance] = edge
        return nodes

    @property
    def units(self) -> int:
        """The size of all values of the loop."""
        return max(op.size for op in self.wide.cell)

    def shape(self, chunk: Chunk) -> Shape:
        """What the kernels must know of a chunk."""
        from kernels.elementwise import Shape

        columns = {self.c.cell[t.op].args[0]: t.lo for t in self.c.targets}
        reach = max(self.c.states.values())
        return Shape(chunk.lanes, chunk.steps, self.units, self.c.direction > 0, reach, columns)

    def forward(self, chunk: Chunk, outer: Outer) -> tuple[Tensor, ...]:
        """Run all steps, filling outer.nodes; the component's outputs."""
        from kernels.elementwise import run_forward

        shape = self.shape(chunk)
        run_forward(*self.code(bool(chunk.masks)), shape, outer)
        return tuple(self.value(chunk, outer, at).detach() for _, at in self.c.outputs)

    def value(self, chunk: Chunk, outer: Outer, at: int) -> Tensor:
        """An output [T, B, size]: a stored value, or one read at another step."""
        op, front = self.c.cell[at], self.shape(chunk).front
        if op.kind != "shift":
            return outer.nodes[at][front : front + chunk.steps]
        x = outer.nodes[self.c.roots[op.name]][front + op.shift :][: chunk.steps]
        if not chunk.masks:
            return x
        return torch.where(chunk.masks[abs(op.shift)], x, outer.init[list(self.c.states).index(op.name)])

    def gradients(self, chunk: Chunk, outer: Outer, dy: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients in the order of the tensors of a call; None where there is none."""
        from kernels.elementwise import run_backward

        c = self.c
        grad = {at: g for (_, at), g in zip(c.outputs, dy, strict=True) if g is not None}
        code, module = self.code(bool(chunk.masks), frozenset(grad))
        reads = {i: (c.roots[op.name], op.shift) for i, op in enumerate(c.cell) if op.kind == "shift"}
        found = run_backward(code, module, self.shape(chunk), outer, grad, reads)
        out: list[Tensor | None] = [found.pre] if c.targets else []
        for i, x in enumerate(outer.ext):
            g = found.ext.get(i)
            out.append(g if g is None or g.shape == x.shape else g.sum(-1, keepdim=True))
        sizes = {op.name: op.size for op in c.cell if op.kind == "param"}
        for name, w in outer.par.items():
            g = found.par.get(name)
            out.append(g if g is None else (g if sizes[name] == w.numel() else g.sum(0, True)).to(w.dtype))
        return [*out, *self._boundaries(chunk, outer, found), *self._initial(outer, found)]

    def _boundaries(self, chunk: Chunk, outer: Outer, found: Gradients) -> list[Tensor]:
        """Gradients of the steps outside of the chunk, [distance, B, size] for each state."""
        c = self.c
        total = {}
        for node, distance in c.states.items():
            like = outer.nodes[c.roots[node]]
            wide = torch.promote_types(like.dtype, torch.float32)
            total[node] = like.new_zeros((distance, chunk.lanes, self.units), dtype=wide)
        for shift, rows in found.edge.items():
            op = c.cell[shift]
            for k, row in enumerate(rows):
                at = c.states[op.name] - abs(op.shift) + k if c.direction > 0 else abs(op.shift) - 1 - k
                total[op.name][at] += row
        return [x.to(outer.nodes[c.roots[node]].dtype) for node, x in total.items()]

    def _initial(self, outer: Outer, found: Gradients) -> list[Tensor | None]:
        """Gradients of initial values, where resets or lengths cut a read off."""
        out: list[Tensor | None] = []
        for i, node in enumerate(self.c.states):
            parts = [x for shift, x in found.lost.items() if self.c.cell[shift].name == node]
            out.append(torch.stack(parts).sum(0).to(outer.init[i].dtype) if parts else None)
        return out


class _LoopFunction(torch.autograd.Function):
    """Forward and derived backward of one loop as seen by autograd."""

    @staticmethod
    def forward(
        ctx: Any, loop: ElementwiseLoop, chunk: Chunk, n_ext: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        outer = loop.outer(chunk, n_ext, tensors)
        out = loop.forward(chunk, outer)
        ctx.loop, ctx.chunk, ctx.n_ext, ctx.count = loop, chunk, n_ext, len(tensors)
        ctx.nodes = list(outer.nodes)
        ctx.save_for_backward(*tensors, *outer.nodes.values())
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    @functions.first_order
    def backward(ctx: Any, *dy: Tensor | None) -> tuple[Any, ...]:
        loop, chunk, start = ctx.loop, ctx.chunk, time.perf_counter()
        saved = ctx.saved_tensors
        nodes = dict(zip(ctx.nodes, saved[ctx.count :], strict=True))
        outer = loop.outer(chunk, ctx.n_ext, saved[: ctx.count], nodes)
        out = loop.gradients(chunk, outer, dy)
        if chunk.clock is not None:
            chunk.clock["loop"] += time.perf_counter() - start
        return (None, None, None, *out)
