"""The `torch` runner: one loop of a plan on any device, with its derived backward.

Per step one matrix product per source over all its targets, pointwise ops in place; in the backward only the
chain through the recurrence runs step by step, weight gradients are products over the whole chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from framework.component import Component
from framework.derivative import Backward, derive
from framework.products import By
from framework.runners import functions
from framework.runners.emit import Place
from framework.runners.loop import Chunk, Kept, LoopRunner
from framework.runners.products import step_product
from framework.runners.source import Buffer, Source, pads
from framework.runners.source_backward import BackwardEmitter
from framework.runners.source_forward import ForwardEmitter
from framework.runners.source_rebuild import RebuildEmitter
from framework.runners.torch_gradients import gradients

ROWS = 512  # rows of one product when values are computed again: enough for full speed, few enough for caches


class TorchLoop(LoopRunner):
    """One component, compiled to Python source on first use."""

    rebuilds = True

    def __init__(self, c: Component, stepwise: bool = False, by: By = "torch"):
        self.c = c
        self.variant = f"{'stepwise ' * stepwise}{by}"
        self.by: By = by  # who does the products over the whole chunk: gradients of weights
        self.stepwise = stepwise  # parallel="none": weight gradients step by step, too
        names = [name for run in c.runs for name, _, _ in run.weights]
        matrices = ("block", "gather", "param")
        names += [op.name for op in c.cell if op.kind in matrices]
        self.names = list(dict.fromkeys(names))
        self.weights = {name: f"w{len(c.runs) + i}" for i, name in enumerate(self.names)}
        self.singles = [n for n in self.names if n not in {m[0] for run in c.runs for m in run.weights}]
        self._backward: dict[frozenset[int], Backward] = {}
        self._functions: dict[
            tuple[str, bool, frozenset[int] | None], tuple[Source, Callable[..., None]]
        ] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles make their functions again."""
        return {**self.__dict__, "_functions": {}}

    def backward_cell(self, given: frozenset[int] | None = None) -> Backward:
        """The derivative when the outputs `given` (ops of the cell; None: all) receive gradients."""
        if given is None:
            given = frozenset(at for _, at in self.c.outputs)
        known = self._backward.get(given)
        if known is None:
            known = self._backward[given] = derive(self.c, hoist=not self.stepwise, given=given)
        return known

    def source(
        self, kind: str, masked: bool, given: frozenset[int] | None = None
    ) -> tuple[Source, Callable[..., None]]:
        """kind: infer (saves nothing), train, backward (of the outputs `given`), rebuild (of the ops
        `given`, see `rebuilt`).
        """
        known = self._functions.get((kind, masked, given))
        if known is None:
            if kind == "backward":
                places = self.source("train", masked)[0].places
                d = self.backward_cell(given)
                source = BackwardEmitter(self.c, d, places, self.weights, masked).emit()
            elif kind == "rebuild":
                saved = self.backward_cell().saved if given is None else given
                source = RebuildEmitter(self.c, saved, self.weights, masked).emit()
            else:
                saved = self.backward_cell().saved if kind == "train" else frozenset()
                source = ForwardEmitter(self.c, saved, self.weights, masked).emit()
            known = (source, functions.compile_source(source.text, self.c.name))
            self._functions[(kind, masked, given)] = known
        return known

    def run(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], train: bool
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """See `LoopRunner.run`."""
        v = self.environment(chunk, n_ext, tensors)
        out = self.forward(chunk, v, "train" if train else "infer")
        return out, {name: v[name] for name in self._kept(bool(chunk.masks))} if train else {}

    def _kept(self, masked: bool) -> dict[str, Buffer]:
        """The buffers of values that the backward reads."""
        buffers = self.source("train", masked)[0].buffers
        return {name: s for name, s in buffers.items() if name[0] in "VSR"}

    def keeps(self, chunk: Chunk) -> dict[str, Kept]:
        """See `LoopRunner.keeps`."""
        out = {}
        for name, s in self._kept(bool(chunk.masks)).items():
            shape = (s.front + chunk.steps + s.back, chunk.lanes, s.size)
            out[name] = Kept(shape, op=int(name[1:]) if name[0] == "V" else None)
        return out

    def run_into(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], stored: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """See `LoopRunner.run_into`."""
        return self.forward(chunk, self.environment(chunk, n_ext, tensors) | stored, "infer")

    def rebuild(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], stored: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """See `LoopRunner.rebuild`."""
        v = self.rebuilt(chunk, n_ext, tensors, stored)
        return {name: v[name] for name in self._kept(bool(chunk.masks))}

    def rebuilt(
        self,
        chunk: Chunk,
        n_ext: int,
        tensors: Sequence[Tensor],
        stored: dict[str, Tensor],
        ops: frozenset[int] | None = None,
    ) -> dict[str, Any]:
        """The buffers of a run in which the ops `ops` (None: what the backward reads) were computed from the
        stored sequences `V<op>`, for many steps at once.
        """
        masked = bool(chunk.masks)
        source, run = self.source("rebuild", masked, ops)
        rows = max(chunk.lanes, min(chunk.steps * chunk.lanes, ROWS))
        block = rows // chunk.lanes
        v = self.environment(chunk, n_ext, tensors, rows) | stored
        self.allocate(source, chunk, self._like(v), block, v)
        functions.run_loop(run, chunk.steps, block, v)
        return v

    def gradients_of(
        self,
        chunk: Chunk,
        n_ext: int,
        tensors: Sequence[Tensor],
        kept: dict[str, Tensor],
        dy: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> Sequence[Tensor | None]:
        """See `LoopRunner.gradients_of`."""
        return gradients(self, chunk, self.environment(chunk, n_ext, tensors) | kept, dy, wanted)

    def environment(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], rows: int = 0
    ) -> dict[str, Any]:
        """The names that generated source uses, for the tensors of one call. rows: of a product (0: B)."""
        c, v, at = self.c, dict[str, Any](), iter(tensors)
        if c.targets:
            v["P"] = next(at)
        for i in range(n_ext):
            v[f"E{i}"] = next(at)
        for k, run in enumerate(c.runs):
            w = v[f"w{k}"] = next(at)
            for name, product in self.products(w.detach(), rows or chunk.lanes).items():
                v[f"{name}{k}"] = product
            for name, lo, hi in run.weights:
                v[self.weights[name]] = w[lo:hi]
        for name in self.singles:
            v[self.weights[name]] = next(at)
        front, _ = pads(c)
        for node, distance in c.states.items():
            root, b = c.roots[node], next(at)
            v[f"boundary{root}"] = b
            start = front - distance if c.direction > 0 else chunk.steps
            v[f"span{root}"] = (start, start + distance)
        for node in c.states:
            v[f"U{c.roots[node]}"] = next(at)
        for distance, mask in chunk.masks.items():
            v[f"K{distance}"] = mask
        like = self._like(v)
        v["const"] = lambda value: like.new_full((), value)  # torch.tensor would copy it from the host
        return v

    def products(self, w: Tensor, rows: int) -> Mapping[str, Callable[..., object]]:
        """How generated source multiplies so many rows by weights; see `step_product`."""
        return step_product(w, rows)

    def allocate(self, source: Source, chunk: Chunk, like: Tensor, block: int, v: dict[str, Any]) -> None:
        """Make the buffers of a source. Boundary steps of gradients are zero."""
        t, b = chunk.steps, chunk.lanes
        for name, s in source.buffers.items():
            if name in v:  # a stored sequence that was given
                continue
            kind = torch.promote_types(like.dtype, torch.float32) if s.wide else like.dtype
            if s.mode == "ring":
                v[name] = [like.new_zeros((b, s.size), dtype=kind) for _ in range(s.slots)]
                continue
            rows = {"chunk": (s.front + t + s.back, b), "block": (block, b), "temp": (b,)}[s.mode]
            x = v[name] = like.new_empty((*rows, s.size), dtype=kind)
            if s.zero:
                x.zero_()
            if s.mode == "chunk" and not s.zero and name[0] in "GC":
                x[: s.front].zero_()
                x[s.front + t :].zero_()

    def forward(self, chunk: Chunk, v: dict[str, Any], kind: str) -> tuple[Tensor, ...]:
        """Run the loop; fills v with buffers."""
        c = self.c
        source, run = self.source(kind, bool(chunk.masks))
        self.allocate(source, chunk, self._like(v), 0, v)
        for node in c.states:
            root = c.roots[node]
            lo, hi = v[f"span{root}"]
            v[f"V{root}"][lo:hi] = v[f"boundary{root}"]
        functions.run_loop(run, chunk.steps, 0, v)
        return tuple(self.value(v, source.places[at], chunk).detach() for _, at in c.outputs)

    def _like(self, v: Mapping[str, Any]) -> Tensor:
        return next(x for x in v.values() if isinstance(x, Tensor) and x.is_floating_point())

    def value(self, v: Mapping[str, Any], place: Place, chunk: Chunk) -> Tensor:
        """A stored sequence as [T, B, size]."""
        x = v[place.base]
        if place.mode == "param":
            return x.expand(chunk.steps, chunk.lanes, x.shape[-1])
        x = x[place.offset : place.offset + chunk.steps]
        return x if place.hi < 0 else x[:, :, place.lo : place.hi]
