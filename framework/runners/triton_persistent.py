"""The `persistent` runner: loops with products in them, all steps in one Triton launch, weights on the chip.

Same tensors in and out as every runner. On a CPU it runs only under Triton's interpreter, for tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from framework import persistent_fit
from framework.component import Component
from framework.errors import ConfigError, TrainingError
from framework.machine import CPU, Machine
from framework.persistent import (
    backward_code,
    blocks_of,
    derivative_of,
    forward_code,
    saved_of,
)
from framework.products import By
from framework.runners import persistent_gradients
from framework.runners.loop import Chunk, Kept, LoopRunner
from framework.runners.persistent_rebuild import kept_again

if TYPE_CHECKING:
    from framework.runners.torch_loop import TorchLoop
    from kernels.persistent_cell import Derivative, Saved
    from kernels.persistent_layout import Layout
    from kernels.persistent_source import Kernel


class Work(NamedTuple):
    """A launch that is still to be made: its kernel, how it is spread, its tensors; `finish`: what the runner
    returns after it.
    """

    code: Kernel
    layout: Layout
    tensors: Mapping[str, Tensor]
    finish: Callable[[], Any]


class PersistentLoop(LoopRunner):
    """One component on a machine, compiled on first use.

    streamed: weights may come from L2 at every step. by: who does products over the whole chunk.
    """

    own_masks = True
    rebuilds = True

    def __init__(self, c: Component, machine: Machine = CPU, streamed: bool = False, by: By = "torch"):
        self.c, self.machine, self.streamed = c, machine, streamed
        self.by: By = by
        self.variant = f"{machine} {streamed} {by}"
        self.ext = [i for i in range(len(c.ext)) if i not in c.masks]  # numbers of those that a call brings
        self.blocks = blocks_of(c)
        self.vectors = list(dict.fromkeys(op.name for op in c.cell if op.kind == "param"))
        self.singles = [*self.vectors, *self.blocks]
        self._kernels: dict[Any, Kernel] = {}
        self._code: dict[Any, tuple[Kernel, ModuleType]] = {}
        self._derivatives: dict[frozenset[int], Derivative] = {}
        self._saved: dict[bool, Saved] = {}  # over many programs or not
        self._layout: Layout | None = None
        self.again: TorchLoop | None = None  # computes what is kept again (memory: recompute)

    def __getstate__(self) -> dict[str, Any]:
        """Copies make their modules again: those cannot be copied or pickled."""
        return {**self.__dict__, "_code": {}}

    def check_device(self, device: str) -> None:
        """Raises ConfigError for a CPU, unless Triton interprets."""
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            cause = "'persistent' runs on GPUs, the network is on a CPU"
            raise ConfigError("runner", cause, "Move it to a GPU, or take runner=auto.")

    @property
    def layout(self) -> Layout:
        """How the loop is spread over programs."""
        if self._layout is None:
            self._layout = persistent_fit.layout_of(self.c, self.machine, self.streamed)
        return self._layout

    def saved(self, chunk: Chunk) -> Saved:
        """What a forward leaves for its backward beside stored nodes."""
        layout = self.layout.at(chunk.lanes)
        known = self._saved.get(layout.programs > 1)
        if known is None:
            known = self._saved[layout.programs > 1] = saved_of(self.c, layout)
        return known

    @property
    def stored(self) -> list[int]:
        """Ops whose values are stored at every step: states, other outputs but reads."""
        ids = [self.c.roots[n] for n in self.c.states]
        return list(
            dict.fromkeys([*ids, *(at for _, at in self.c.outputs if self.c.cell[at].kind != "shift")])
        )

    def derivative(self, given: frozenset[int]) -> Derivative:
        """The derivative when the outputs `given` (ops of the cell) receive gradients."""
        known = self._derivatives.get(given)
        if known is None:
            known = self._derivatives[given] = derivative_of(self.c, given)
        return known

    def compiled(self, code: Kernel) -> tuple[Kernel, ModuleType]:
        """A kernel and its module."""
        known = self._code.get(code.text)
        if known is None:
            from kernels.codegen import label_of
            from kernels.persistent import compile_code

            known = self._code[code.text] = (code, compile_code(code, label_of(self.c.roots)))
        return known

    def kernel(
        self, chunk: Chunk, layout: Layout, train: bool, given: frozenset[int] | None = None
    ) -> Kernel:
        """Generated source: forward, or backward of the outputs `given`."""
        masked, training = bool(chunk.masks), chunk.seed is not None and bool(self.c.masks)
        key = (train, masked, training, given, bool(chunk.watchdog), layout)
        known = self._kernels.get(key)
        if known is None:
            if given is None:
                code = forward_code(self.c, layout, train, masked, training)
            else:
                code = backward_code(self.c, layout, masked, given, training)
            if chunk.watchdog:
                from kernels.watchdog import watched

                code = watched(code)
            known = self._kernels[key] = code
        return known

    def run(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], train: bool
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """See `LoopRunner.run`."""
        return self.do(chunk, self.forward(chunk, n_ext, tensors, train, self.layout.at(chunk.lanes)))

    def forward(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], train: bool, layout: Layout
    ) -> Work:
        """The launch of `run`, with a layout for the chunk's lanes."""
        v = self.environment(chunk, n_ext, tensors)
        kept = self._buffers(chunk, v, train)
        v |= kept

        def finish() -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
            return tuple(self.value(chunk, v, at).detach() for _, at in self.c.outputs), kept

        return self._work(self.kernel(chunk, layout, train), layout, v, finish)

    def environment(self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """The tensors of one call by the names of kernel arguments; vector weights as `par <name>`."""
        c, at, v = self.c, iter(tensors), dict[str, Tensor]()
        if c.targets:
            v["pre"] = next(at)
        assert n_ext == len(self.ext), (n_ext, self.ext)
        v |= {f"ext{i}": next(at) for i in self.ext}
        v |= {f"w{k}": next(at).contiguous() for k in range(len(c.runs))}
        v |= {f"par {name}": next(at).contiguous() for name in self.vectors}
        v |= {f"w{k}": next(at).contiguous() for k in range(len(c.runs), len(c.runs) + len(self.blocks))}
        v |= {f"boundary {node}": next(at) for node in c.states}
        v |= {f"init{i}": next(at).contiguous() for i in range(len(c.states))}
        v |= {f"keep{d}": x.squeeze(-1).contiguous() for d, x in chunk.masks.items()}
        return v

    def _work(self, code: Kernel, layout: Layout, v: Mapping[str, Tensor], finish: Callable[[], Any]) -> Work:
        named = {f"par{i}": v[f"par {name}"] for i, name in enumerate(code.par)}
        return Work(code, layout, {**v, **named}, finish)

    def do(self, chunk: Chunk, work: Work) -> Any:
        """Launch a work on its own."""
        from kernels.persistent import launch

        code, module = self.compiled(work.code)
        with errors_of(f"loop {self.c.name}", code.name):
            launch(
                code, module, work.layout, chunk.steps, chunk.lanes, int(chunk.seed or 0), work.tensors,
                polls=chunk.watchdog,
            )  # fmt: skip
        return work.finish()

    def keeps(self, chunk: Chunk) -> dict[str, Kept]:
        """Stored ops [front + T + back, B, size], and what else the backward needs (see `Saved`)."""
        c, steps, lanes, reach = self.c, chunk.steps, chunk.lanes, max(self.c.states.values())
        out = {f"node{at}": Kept((steps + reach, lanes, c.cell[at].size), op=at) for at in self.stored}
        saved = self.saved(chunk)
        out |= {f"extra{at}": Kept((steps, lanes, c.cell[at].size)) for at in saved.extra}
        if saved.rows:
            out["rows"] = Kept((steps, lanes, len(saved.rows)), wide=True)
        return out

    def _buffers(self, chunk: Chunk, v: Mapping[str, Tensor], train: bool) -> dict[str, Tensor]:
        """What `keeps` says, with boundary steps in place."""
        c = self.c
        like, reach = v[f"boundary {next(iter(c.states))}"], max(c.states.values())
        kept = {n: k for n, k in self.keeps(chunk).items() if train or n.startswith("node")}
        out = {name: like.new_empty(k.shape, dtype=k.dtype(like.dtype)) for name, k in kept.items()}
        for node, distance in c.states.items():
            start = reach - distance if c.direction > 0 else chunk.steps
            out[f"node{c.roots[node]}"][start : start + distance] = v[f"boundary {node}"]
        return out

    @property
    def front(self) -> int:
        """Boundary steps before the chunk in stored values."""
        return max(self.c.states.values()) if self.c.direction > 0 else 0

    def value(self, chunk: Chunk, v: Mapping[str, Tensor], at: int) -> Tensor:
        """The sequence [T, B, size] of an op of the cell that is stored or kept, or read at another step."""
        c, op, front = self.c, self.c.cell[at], self.front
        if op.kind == "const":
            like = v[f"node{self.stored[0]}"]
            return like.new_full((1,), op.value).expand(chunk.steps, chunk.lanes, 1)
        if op.kind == "shift":
            x = v[f"node{c.roots[op.name]}"][front + op.shift :][: chunk.steps]
            if not chunk.masks:
                return x
            return torch.where(chunk.masks[abs(op.shift)], x, v[f"init{list(c.states).index(op.name)}"])
        if f"node{at}" in v:
            return v[f"node{at}"][front : front + chunk.steps]
        columns = self.saved(chunk).columns
        if at in columns:
            return v["pre"][..., columns[at] :][..., : op.size]
        return v[f"extra{at}"]

    def run_into(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], stored: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """See `LoopRunner.run_into`."""
        v, layout = self.environment(chunk, n_ext, tensors) | stored, self.layout.at(chunk.lanes)

        def finish() -> tuple[Tensor, ...]:
            return tuple(self.value(chunk, v, at).detach() for _, at in self.c.outputs)

        return self.do(chunk, self._work(self.kernel(chunk, layout, False), layout, v, finish))

    def rebuild(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], stored: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """See `LoopRunner.rebuild`. By torch: a product over all steps needs no kernel of ours."""
        return stored | kept_again(self, chunk, n_ext, tensors, stored)

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
        layout = self.layout.at(chunk.lanes)
        return self.do(chunk, self.backward(chunk, n_ext, tensors, kept, dy, layout))

    def backward(
        self,
        chunk: Chunk,
        n_ext: int,
        tensors: Sequence[Tensor],
        kept: dict[str, Tensor],
        dy: Sequence[Tensor | None],
        layout: Layout,
    ) -> Work:
        """The launch of `gradients_of`, with the layout of the forward."""
        v = self.environment(chunk, n_ext, tensors) | kept
        grads = {at: g for (_, at), g in zip(self.c.outputs, dy, strict=True) if g is not None}
        given = frozenset(grads)
        code, d = self.kernel(chunk, layout, True, given), self.derivative(given)
        v |= {f"grad{at}": g for at, g in grads.items()}
        v |= persistent_gradients.buffers(self, chunk, layout, code, d, v)
        return self._work(
            code, layout.backward(), v, lambda: persistent_gradients.gradients(self, chunk, code, d, v)
        )


@contextmanager
def errors_of(place: str, kernel: str) -> Iterator[None]:
    """What kernels/ raises of a launch, as errors that name its place."""
    from kernels.persistent import NoRoom
    from kernels.watchdog import Stuck

    try:
        yield
    except NoRoom as e:
        raise ConfigError(place, e.cause, e.fix) from e
    except Stuck as e:
        fix = "Other work on the GPU may have stopped it; else take runner=torch and report this."
        raise TrainingError(f"{place}, {kernel}", e.cause, fix) from e
