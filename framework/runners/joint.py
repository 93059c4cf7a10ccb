"""Loops that do not read each other in one launch: the two directions of a layer, parallel branches.

To autograd they are one function, whose backward is one launch as well. Each loop computes just what it does
alone, bit for bit where its tiles of lanes are the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from framework import persistent_fit
from framework.machine import Machine
from framework.runners.functions import first_order
from framework.runners.loop import Chunk
from framework.runners.triton_persistent import PersistentLoop, Work, errors_of

if TYPE_CHECKING:
    from kernels.persistent_layout import Layout
    from kernels.persistent_source import Kernel


class LoopCall(NamedTuple):
    """What `LoopRunner.__call__` takes."""

    chunk: Chunk
    pre: Any  # Tensor [T, B, width], what makes it, or None
    ext: Sequence[Tensor]
    runs: Sequence[Tensor]
    singles: Sequence[Tensor]
    boundary: Sequence[Tensor]
    init: Sequence[Tensor]

    def tensors(self) -> list[Tensor]:
        """All of them, in the order of `LoopRunner.run`."""
        pre = [] if self.pre is None else [self.pre]
        return [*pre, *self.ext, *self.runs, *self.singles, *self.boundary, *self.init]


class JointLoop:
    """Executes components together; `members`: the runner of each."""

    def __init__(self, members: Sequence[PersistentLoop], machine: Machine):
        self.members = tuple(members)
        self.machine = machine
        self._code: dict[tuple[str, ...], tuple[Kernel, ModuleType]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies make their modules again: those cannot be copied or pickled."""
        return {**self.__dict__, "_code": {}}

    def layouts(self, lanes: int) -> tuple[Layout, ...] | str:
        """How each is spread, or why they cannot be in one launch with so many lanes."""
        return persistent_fit.side_by_side([member.layout for member in self.members], lanes, self.machine)

    def __call__(self, calls: Sequence[LoopCall]) -> list[tuple[Tensor, ...]]:
        """The outputs of each, see `LoopRunner.__call__`; calls: of the same lanes and seed.

        Where one launch has no room for so many lanes, it is one loop after the other.
        """
        if isinstance(self.layouts(calls[0].chunk.lanes), str):
            return [member(*call) for member, call in zip(self.members, calls, strict=True)]
        tensors = [call.tensors() for call in calls]
        for member, given in zip(self.members, tensors, strict=True):
            member.check_device(given[0].device.type)
        about = JointCall(
            self, [x.chunk for x in calls], [len(x.ext) for x in calls], [len(x) for x in tensors]
        )
        flat = [x for given in tensors for x in given]
        if torch.is_grad_enabled() and any(x.requires_grad for x in flat):
            return about.each(_JointFunction.apply(about, *flat))
        with torch.no_grad():
            return [out for out, _ in about.run(flat, [False] * len(calls))]

    def launch(
        self, chunks: Sequence[Chunk], members: Sequence[PersistentLoop], works: Sequence[Work]
    ) -> list[Any]:
        """Do the works of some members at once; what each of them returns."""
        from kernels.persistent_joint import Part, launch_joint

        names = [member.c.name for member in members]
        code, module = self._compiled([work.code for work in works], names)
        parts = [
            Part(name, work.code, work.layout, chunk.steps, work.tensors)
            for name, chunk, work in zip(names, chunks, works, strict=True)
        ]
        lanes, seed, polls = chunks[0].lanes, int(chunks[0].seed or 0), chunks[0].watchdog
        with errors_of(f"loops {', '.join(names)}", code.name):
            launch_joint(code, module, parts, lanes, seed, polls)
        return [work.finish() for work in works]

    def _compiled(self, codes: Sequence[Kernel], names: Sequence[str]) -> tuple[Kernel, ModuleType]:
        key = tuple(code.text for code in codes)
        known = self._code.get(key)
        if known is None:
            from kernels.persistent import compile_code
            from kernels.persistent_joint import joint

            code = joint(codes)
            known = self._code[key] = (code, compile_code(code, " ".join(names)))
        return known


class JointCall:
    """One call without its tensors (autograd must not find any in it): chunks, and how many tensors each
    member takes.
    """

    def __init__(
        self, joint: JointLoop, chunks: Sequence[Chunk], n_ext: Sequence[int], counts: Sequence[int]
    ):
        self.joint, self.chunks, self.n_ext = joint, chunks, n_ext
        self.tensors = _slices(counts)
        self.outputs = _slices([len(member.c.outputs) for member in joint.members])

    def each(self, outputs: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Outputs of all, by member."""
        return [tuple(outputs[part]) for part in self.outputs]

    def layouts(self) -> tuple[Layout, ...]:
        """How each is spread."""
        found = self.joint.layouts(self.chunks[0].lanes)
        assert not isinstance(found, str), found
        return found

    def run(
        self, flat: Sequence[Tensor], train: Sequence[bool]
    ) -> list[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
        """`LoopRunner.run` of each."""
        members = self.joint.members
        works = [
            member.forward(chunk, n_ext, flat[part], wanted, layout)
            for member, chunk, n_ext, part, wanted, layout in zip(
                members, self.chunks, self.n_ext, self.tensors, train, self.layouts(), strict=True
            )
        ]
        return self.joint.launch(self.chunks, members, works)

    def gradients(
        self, flat: Sequence[Tensor], kept: Sequence[dict[str, Tensor]], dy: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """A gradient for each tensor. Members whose outputs have none take no part."""
        out: list[Tensor | None] = [None] * len(flat)
        taking = [i for i, part in enumerate(self.outputs) if any(g is not None for g in dy[part])]
        members, layouts = [self.joint.members[i] for i in taking], self.layouts()
        works = [
            member.backward(
                self.chunks[i], self.n_ext[i], flat[self.tensors[i]], kept[i], dy[self.outputs[i]], layouts[i]
            )
            for i, member in zip(taking, members, strict=True)
        ]
        if len(works) == 1:
            found = [members[0].do(self.chunks[taking[0]], works[0])]
        else:
            found = self.joint.launch([self.chunks[i] for i in taking], members, works)
        for i, gradients in zip(taking, found, strict=True):
            out[self.tensors[i]] = gradients
        return out


def _slices(counts: Sequence[int]) -> list[slice]:
    ends = list(accumulate(counts))
    return [slice(end - n, end) for n, end in zip(counts, ends, strict=True)]


class _JointFunction(torch.autograd.Function):
    """Forward and derived backward of loops in one launch as seen by autograd."""

    @staticmethod
    def forward(ctx: Any, call: JointCall, *flat: Tensor) -> tuple[Tensor, ...]:
        train = [any(ctx.needs_input_grad[1:][part]) for part in call.tensors]
        found = call.run(flat, train)
        out = tuple(y for outputs, _ in found for y in outputs)
        kept = [left if wanted else {} for (_, left), wanted in zip(found, train, strict=True)]
        ctx.call, ctx.names = call, [list(left) for left in kept]
        ctx.save_for_backward(*flat, *(x for left in kept for x in left.values()))
        ctx.set_materialize_grads(False)
        still = [out[part] for part, wanted in zip(call.outputs, train, strict=True) if not wanted]
        ctx.mark_non_differentiable(*(y for outputs in still for y in outputs))
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, *dy: Tensor | None) -> tuple[Any, ...]:
        call, start = ctx.call, time.perf_counter()
        count = call.tensors[-1].stop
        saved = ctx.saved_tensors
        flat, left = saved[:count], saved[count:]
        parts = _slices([len(names) for names in ctx.names])
        kept = [dict(zip(names, left[p], strict=True)) for names, p in zip(ctx.names, parts, strict=True)]
        out = call.gradients(flat, kept, dy)
        clock = call.chunks[0].clock
        if clock is not None:
            clock["loop"] += time.perf_counter() - start
        return (None, *out)
