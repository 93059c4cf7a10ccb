"""What every runner of a loop shares: the tensors of a call, and how autograd sees it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.component import Component
from framework.errors import ConfigError
from framework.runners import custom_ops
from framework.runners.functions import first_order


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one call is about: steps, lanes, and for each read distance where it crosses no reset or end."""

    steps: int
    lanes: int
    masks: Mapping[int, Tensor]  # distance -> [T, B, 1] bool; empty: every read is inside its sequence
    clock: dict[str, float] | None = None  # "loop" gets the seconds of the backward
    seed: int | Tensor | None = None  # of random masks; None: not training, a mask is its mean
    first: int = 0  # steps of the call before this chunk, for which random masks were drawn
    watchdog: int | bool = False  # reads of a barrier until a kernel gives up (True: long enough)
    # Copies of the weights by their address, of a call whose backward comes after they have changed: what a
    # backward computes again has to be what it was. None: the weights stay until the backward.
    copies: Mapping[int, Tensor] | None = None

    def then(self, weight: Tensor) -> Tensor:
        """A weight as it was in the forward; for a backward."""
        return weight if self.copies is None else self.copies[weight.data_ptr()]


class Kept(NamedTuple):
    """A tensor that a forward leaves for its backward, of the type of the loop's tensors; wide: float32 at
    least.

    op: the op of the cell of which it holds all steps, [front + T + back, B, size], with those outside of the
    chunk that the loop reads (`source.pads`); None: it holds something else.
    """

    shape: tuple[int, ...]
    op: int | None = None
    wide: bool = False

    def dtype(self, of: torch.dtype) -> torch.dtype:
        """The type for loops on tensors of the type `of`."""
        return torch.promote_types(of, torch.float32) if self.wide else of


class LoopRunner(ABC):
    """Executes one component; subclasses say how. `singles`: weights that stand in no product over gates.

    own_masks: it makes the component's random masks itself, from `Chunk.seed`; `ext` then lacks them.
    rebuilds: it has `run_into` and `rebuild`.
    overwrites: `run` may leave other values in the hoisted buffer, which the backward then finds there.
    variant: what else but the class and the component decides the results; for torch.compile, see custom_ops.
    """

    c: Component
    singles: list[str]
    own_masks = False
    overwrites = True
    rebuilds = False
    variant = ""

    def check_device(self, device: str) -> None:  # noqa: B027 (most take every device)
        """Raises ConfigError for a kind of device that this runner cannot use."""

    @abstractmethod
    def run(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], train: bool
    ) -> tuple[tuple[Tensor, ...], dict[Any, Tensor]]:
        """Outputs [T, B, size], and (when `train`) what the backward will need of this call."""

    def keeps(self, chunk: Chunk) -> Mapping[Any, Kept]:
        """What `run` keeps when it trains, by the same names in the same order; nothing is run or made.

        Of the chunk's masks and seed it may see only whether they are there. Raises ConfigError for a runner
        that torch.compile cannot take.
        """
        cause = f"{type(self).__name__} does not say what it keeps for the backward, as torch.compile needs"
        raise ConfigError("runner", cause, "Take runner=torch, or do not compile the network.")

    @abstractmethod
    def gradients_of(
        self,
        chunk: Chunk,
        n_ext: int,
        tensors: Sequence[Tensor],
        kept: dict[Any, Tensor],
        dy: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> Sequence[Tensor | None]:
        """A gradient for each of `tensors`, from those of the outputs; None where there is none."""

    def run_into(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], stored: dict[Any, Tensor]
    ) -> tuple[Tensor, ...]:
        """As `run` without what only a backward needs, with the values of nodes written to `stored`: those of
        `keeps` that hold all steps of an op, with the steps outside of the chunk in place.
        """
        raise NotImplementedError

    def rebuild(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], stored: dict[Any, Tensor]
    ) -> dict[Any, Tensor]:
        """What `run` would have kept, and left in the hoisted buffer, from what `run_into` has stored."""
        raise NotImplementedError

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
        """Values [T, B, size] of the component's outputs.

        pre [T, B, width] (may be overwritten); ext [T, B, size] (with own_masks: those that are no masks);
        runs, singles: weights in the order of the component's runs and of `singles`; boundary: for each state
        [distance, B, size], in time order; init: [size] each.
        Raises ConfigError on a device that the runner cannot use.
        """
        tensors = [*([] if pre is None else [pre]), *ext, *runs, *singles, *boundary, *init]
        if tensors:
            self.check_device(tensors[0].device.type)
        train = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if torch.compiler.is_compiling():
            return custom_ops.call(self, chunk, len(ext), tensors, train)
        if train:
            return _LoopFunction.apply(self, chunk, len(ext), *tensors)
        with torch.no_grad():
            return self.run(chunk, len(ext), tensors, False)[0]


class _LoopFunction(torch.autograd.Function):
    """Forward and derived backward of one loop as seen by autograd."""

    @staticmethod
    def forward(ctx: Any, loop: LoopRunner, chunk: Chunk, n_ext: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        out, kept = loop.run(chunk, n_ext, tensors, True)
        ctx.loop, ctx.chunk, ctx.n_ext, ctx.count = loop, chunk, n_ext, len(tensors)
        ctx.names = list(kept)
        ctx.save_for_backward(*tensors, *kept.values())
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, *dy: Tensor | None) -> tuple[Any, ...]:
        loop, chunk, start = ctx.loop, ctx.chunk, time.perf_counter()
        saved = ctx.saved_tensors
        tensors, kept = saved[: ctx.count], dict(zip(ctx.names, saved[ctx.count :], strict=True))
        out = loop.gradients_of(chunk, ctx.n_ext, tensors, kept, dy, ctx.needs_input_grad[3:])
        if chunk.clock is not None:
            chunk.clock["loop"] += time.perf_counter() - start
        return (None, None, None, *out)
