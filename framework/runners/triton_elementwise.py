"""The `elementwise` runner: loops in which every unit goes its own way, all steps in one Triton launch.

Same tensors in and out as every runner. On a CPU it runs only under Triton's interpreter, for tests.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.component import Component
from framework.errors import ConfigError
from framework.masks import key_of
from framework.runners.elementwise_code import NOW, backward_code, forward_code, widened
from framework.runners.loop import Chunk, Kept, LoopRunner

if TYPE_CHECKING:
    from kernels.elementwise import Gradients, Outer, Shape
    from kernels.elementwise_source import Backward, Forward


class ElementwiseLoop(LoopRunner):
    """One component without exchange, compiled on first use."""

    name = "elementwise"
    own_masks = True
    overwrites = False
    rebuilds = True

    def __init__(self, c: Component):
        self.c = c
        self.wide = widened(c)
        self.singles = list(dict.fromkeys(op.name for op in c.cell if op.kind == "param"))
        self.distances = tuple(sorted({abs(op.shift) for op in c.cell if op.kind == "shift"}))
        self.ext = [i for i in range(len(c.ext)) if i not in c.masks]  # numbers of those that a call brings
        self.keys = {op.name: key_of(op.name) for op in c.masks.values()}
        self._code: dict[tuple[Any, ...], tuple[Forward | Backward, ModuleType]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies make their modules again: those cannot be copied or pickled."""
        return {**self.__dict__, "_code": {}}

    def check_device(self, device: str) -> None:
        """Raises ConfigError for a CPU, unless Triton interprets."""
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            cause = f"'{self.name}' runs on GPUs, the network is on a CPU"
            raise ConfigError("runner", cause, "Move it to a GPU, or take runner=auto.")

    def code(self, chunk: Chunk, given: frozenset[int] | None = None) -> tuple[Any, ModuleType]:
        """Generated source and its module: forward, or backward of the outputs `given`."""
        masked, training = bool(chunk.masks), chunk.seed is not None and bool(self.keys)
        again = given is not None and self.again(chunk)
        known = self._code.get((masked, training, given, again))
        if known is None:
            from kernels.codegen import label_of
            from kernels.elementwise import compile_code

            code: Forward | Backward
            if given is None:
                code = forward_code(self.wide, masked, training)
            else:
                code = backward_code(self.wide, masked, given, training, again)
            known = self._code[masked, training, given, again] = (
                code,
                compile_code(code, label_of(self.c.roots)),
            )
        return known

    def again(self, chunk: Chunk) -> bool:
        """Whether a backward needs the weights as they were, too."""
        return chunk.copies is not None and bool(self.singles)

    def run(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], train: bool
    ) -> tuple[tuple[Tensor, ...], dict[int, Tensor]]:
        """See `LoopRunner.run`."""
        outer = self.outer(chunk, n_ext, tensors)
        return self.forward(chunk, outer), dict(outer.nodes)

    def keeps(self, chunk: Chunk) -> dict[int, Kept]:
        """See `LoopRunner.keeps`."""
        rows = chunk.steps + max(self.c.states.values())
        return {root: Kept((rows, chunk.lanes, self.units), op=root) for root in self.code(chunk)[0].nodes}

    def run_into(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], stored: dict[int, Tensor]
    ) -> tuple[Tensor, ...]:
        """See `LoopRunner.run_into`."""
        return self.forward(chunk, self.outer(chunk, n_ext, tensors, stored))

    def rebuild(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], stored: dict[int, Tensor]
    ) -> dict[int, Tensor]:
        """See `LoopRunner.rebuild`: nothing else is kept."""
        return stored

    def gradients_of(
        self,
        chunk: Chunk,
        n_ext: int,
        tensors: Sequence[Tensor],
        kept: dict[int, Tensor],
        dy: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> Sequence[Tensor | None]:
        """See `LoopRunner.gradients_of`."""
        outer = self.outer(chunk, n_ext, tensors, kept)
        if not self.again(chunk):
            return self.gradients(chunk, outer, dy)
        later = {f"{name}{NOW}": w for name, w in outer.par.items()}
        first = bool(self.c.targets) + n_ext
        now = dict(zip(self.singles, tensors[first : first + len(self.singles)], strict=True))
        then = {name: chunk.then(w).expand(self.units).contiguous() for name, w in now.items()}
        return self.gradients(chunk, replace(outer, par=then | later), dy)

    def launches(self) -> Any:
        """The module that launches: its run_forward and run_backward."""
        from kernels import elementwise

        return elementwise

    def outer(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], nodes: dict[int, Tensor] | None = None
    ) -> Outer:
        """The tensors of one call as the kernels take them; `nodes`: what is stored (None: new buffers)."""
        from kernels.elementwise import Outer

        c, at = self.c, iter(tensors)
        pre = next(at) if c.targets else None
        assert n_ext == len(self.ext), (n_ext, self.ext)
        ext = {i: next(at) for i in self.ext}
        size = self.units
        par = {name: next(at).expand(size).contiguous() for name in self.singles}
        boundary = [next(at) for _ in c.states]
        init = [next(at).contiguous() for _ in c.states]
        if nodes is None:
            nodes = self._buffers(chunk, boundary)
        keep = [chunk.masks[d].squeeze(-1).contiguous() for d in self.distances] if chunk.masks else []
        return Outer(pre, ext, par, keep, init, nodes, int(chunk.seed or 0), self.keys)

    def _buffers(self, chunk: Chunk, boundary: Sequence[Tensor]) -> dict[int, Tensor]:
        """Stored op -> [front + T + back, B, size], with boundary steps in place."""
        shape, nodes = self.shape(chunk), dict[int, Tensor]()
        for root in self.code(chunk)[0].nodes:
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
        shape = self.shape(chunk)
        self.launches().run_forward(*self.code(chunk), shape, outer)
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
        c = self.c
        grad = {at: g for (_, at), g in zip(c.outputs, dy, strict=True) if g is not None}
        code, module = self.code(chunk, frozenset(grad))
        reads = {i: (c.roots[op.name], op.shift) for i, op in enumerate(c.cell) if op.kind == "shift"}
        found = self.launches().run_backward(code, module, self.shape(chunk), outer, grad, reads)
        out: list[Tensor | None] = [found.pre] if c.targets else []
        for i, x in outer.ext.items():
            g = found.ext.get(i)
            out.append(g if g is None or g.shape == x.shape else g.sum(-1, keepdim=True))
        sizes = {op.name: op.size for op in c.cell if op.kind == "param"}
        for name in self.singles:
            w, g = outer.par[name], found.par.get(name)
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
