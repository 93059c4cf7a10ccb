"""`memory: recompute`: a loop that keeps the sequences of its nodes, and computes all else again.

The hoisted buffer is made for one block of steps at a time. Going back, its products are done again, then all
gates at once (the sequences of the nodes are known), then the derivative runs over the block. Alive at the
peak: the stored sequences, gradients of what the loop reads, and of one block the hoisted buffer, its
gradient and what else a derivative needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from framework.component import Component
from framework.errors import ConfigError
from framework.products import By
from framework.runners.functions import first_order
from framework.runners.loop import Chunk, LoopRunner
from framework.runners.rebuild_parts import Hoisted, Parts


class RebuildLoop:
    """Executes one component block by block. `make`: the runner of a block, for a component.

    Called as a `LoopRunner`, but for the hoisted buffer, of which it makes the blocks itself.
    """

    own_masks = True

    def __init__(self, c: Component, make: Callable[[Component], LoopRunner], by: By):
        self.c = c
        self.by: By = by
        given = {at for _, at in c.outputs}
        # A gradient reaches a block from the next one by way of all states, so all of them are outputs. Masks
        # are made here: kernels count their steps from 0.
        more = tuple((-1, c.roots[n]) for n in c.states if c.roots[n] not in given)
        self.inner = make(replace(c, outputs=(*c.outputs, *more)))
        if self.inner.own_masks:
            self.inner = make(replace(self.inner.c, masks={}))
        self.singles = self.inner.singles

    def check_device(self, device: str) -> None:
        """Raises ConfigError for a kind of device that the runner cannot use."""
        self.inner.check_device(device)

    def __call__(
        self,
        chunk: Chunk,
        pre: Hoisted | None,
        ext: Sequence[Tensor],
        runs: Sequence[Tensor],
        singles: Sequence[Tensor],
        boundary: Sequence[Tensor],
        init: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """Values [T, B, size] of the component's outputs; see `LoopRunner.__call__`. ext: without masks.

        Raises ConfigError on a device that the runner cannot use, and while torch.compile records.
        """
        if torch.compiler.is_compiling():
            cause = "torch.compile decides itself what is kept for the backward"
            raise ConfigError("memory", cause, "Take memory=save, or do not compile the network.")
        self.check_device(boundary[0].device.type)
        parts = Parts(
            self, chunk, None if pre is None else pre.step, () if pre is None else tuple(pre.tensors),
            tuple(ext), tuple(runs), tuple(singles), tuple(boundary), tuple(init),
        )  # fmt: skip
        tensors = parts.tensors()
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return _Rebuilt.apply(parts.without_tensors(), *tensors)
        with torch.no_grad():
            return parts.forward()[0]


class _Rebuilt(torch.autograd.Function):
    """One loop and its hoisted sums as seen by autograd."""

    @staticmethod
    def forward(ctx: Any, parts: Parts, *tensors: Tensor) -> tuple[Tensor, ...]:
        out, stored = parts.with_tensors(tensors).forward()
        ctx.parts, ctx.count, ctx.names = parts, len(tensors), list(stored)
        ctx.save_for_backward(*tensors, *stored.values())
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, *dy: Tensor | None) -> tuple[Any, ...]:
        start = time.perf_counter()
        saved = ctx.saved_tensors
        stored = dict(zip(ctx.names, saved[ctx.count :], strict=True))
        parts = ctx.parts.with_tensors(saved[: ctx.count])
        out = parts.backward(stored, dy, ctx.needs_input_grad[1:])
        if parts.chunk.clock is not None:
            parts.chunk.clock["loop"] += time.perf_counter() - start
        return (None, *out)
