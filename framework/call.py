"""One forward of a network: the steps of its plan, in order, over one chunk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.call_inputs import check_frames, check_indices, check_state, filled, padding_of, read_inputs
from framework.cell import Op
from framework.component import Component
from framework.plan import Loop
from framework.random import mask_values
from framework.runners import hoisted
from framework.runners.fused import Fed, FusedLoop
from framework.runners.joint import LoopCall
from framework.runners.loop import Chunk
from framework.runners.rebuild import Hoisted, RebuildLoop
from framework.start import start_loops
from framework.state import State, carry, keep_mask
from framework.steps import Linear
from framework.together import Together

if TYPE_CHECKING:
    from framework.network import Network


class Call:
    """One forward of a network: the values of its steps as they come."""

    def __init__(
        self,
        net: Network,
        x: Tensor | Mapping[str, Tensor],
        state: State | None,
        lengths: Tensor | None,
        resets: Tensor | None,
        whole: Call | None = None,
        first: int = 0,
    ):
        """`whole`: the call of which this one is a part, `first` its first step there."""
        self.net, self.plan = net, net.plan
        self.like = net.like
        self.inputs = read_inputs(net.graph.inputs, x, net.like)
        given = next(iter(self.inputs.values()))
        self.steps, self.lanes = given.shape[0], given.shape[1]
        check_frames(lengths, resets, self.steps, self.lanes)
        self.lengths = None if lengths is None else lengths.to(self.like.device).clamp(0, self.steps)
        self.resets = None if resets is None else resets.to(self.like.device, torch.bool)
        self.padding = None if self.lengths is None else padding_of(self.lengths, self.steps)
        if self.lengths is not None and self.padding is not None and whole is None:  # else it is done
            self.inputs = filled(self.inputs, self.lengths, self.padding)
        for name, spec in net.graph.inputs.items():
            if spec.vocab is not None and whole is None:
                check_indices(name, self.inputs[name], spec.vocab)
        self.state = net.initial_state(self.lanes)
        if state is not None:
            check_state(state, self.state)
            self.state = State(state.history, self.state.initial)
        self.ends: dict[str, Tensor] = {}  # nodes of which only the state after the chunk is known
        self.masks: dict[int, Tensor | None] = {}
        self.values = {self.plan.roots[name]: v for name, v in self.inputs.items()}
        self.buffers: dict[int, Any] = {}  # of loops: their hoisted sums, or how to make them
        self.clock: dict[str, float] | None = None
        if whole is not None:
            self.clock = whole.clock
        elif net.profile and not torch.compiler.is_compiling():
            self.clock = net.timing = {"hoisted": 0.0, "loop": 0.0}
        self.first = first
        self.seed = self._draw() if whole is None else whole.seed

    def _draw(self) -> int | Tensor | None:
        """The seed of this call's masks, from torch's generator; None when there are none to draw.

        While a graph is recorded it is a tensor [], drawn again whenever the graph runs.
        """
        if not self.net.training or not any(op.kind == "random" for op in self.plan.ops):
            return None
        seed = torch.randint(2**31 - 1, ())
        if torch.compiler.is_compiling():
            return seed
        self.net.seed = int(seed)
        return self.net.seed

    def now(self) -> float:
        """Seconds of a clock, if times are taken."""
        return time.perf_counter() if self.clock is not None else 0.0

    def run(self) -> tuple[Tensor | dict[str, Tensor], State]:
        """Outputs (a tensor, or a dict when there are several) and the state after the chunk."""
        start = self.now()
        for item in self.net.order:
            if isinstance(item, Together):
                start_loops(self.net, item, {k: self for k in item.steps})
            else:
                self.step(item)
        state = State({name: self.after(name) for name in self.state.history}, self.state.initial)
        if self.clock is not None:
            self.clock["hoisted"] += self.now() - start - self.clock["loop"]
        return self.outputs(), state

    def outputs(self) -> Tensor | dict[str, Tensor]:
        """What the graph gives, once all steps have run; padding is 0."""
        outputs: dict[str, Tensor] = {}
        for shown, node in self.net.graph.outputs.items():
            y = self.values[self.plan.roots[node]]
            if self.padding is not None:
                y = y.masked_fill(self.padding, 0.0)
            outputs[shown] = y
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def after(self, name: str) -> Tensor:
        """The last values of a node or input, for the chunk that follows: once they are there."""
        if name in self.ends:
            return self.ends[name]
        old, now = self.state.history[name], self.values[self.plan.roots[name]]
        return carry(old, now, self.state.initial[name], self.lengths, self.resets)

    # Steps --------------------------------------------------------------------------------------------

    def step(self, k: int) -> None:
        """Run one step."""
        step = self.plan.steps[k]
        if isinstance(step, Linear):
            self._linear(k, step)
        elif isinstance(step, Loop):
            start = self.now()
            given = self.buffers.get(step.pre)
            if isinstance(given, Fed):  # it takes little of what others do
                del self.buffers[step.pre]
                c = self.plan.components[step.component]
                self._fused(self.net.fused[step.pre], given, self._edges(c)[0])
            else:
                self.loop(step, self.ready(step))
            self.count(start)
        elif step.op not in self.net.unread_maps:
            self._map(step.op)
        self.let_go(k)

    def let_go(self, k: int) -> None:
        """Forget what nobody reads after step k."""
        for a in self.net.last_uses[k]:
            self.values.pop(a, None)

    def value(self, at: int) -> Tensor:
        """The value of an op of the program: [T, B, size], or [size] for weights and numbers."""
        op = self.plan.ops[at]
        if op.kind == "param":
            return self.net.pack_view(op.name)
        if op.kind == "const":
            return self.like.new_full((1,), op.value)
        return self.values[at]

    def _linear(self, k: int, step: Linear) -> None:
        fused = self.net.fused.get(k)
        # torch's own routines keep copies of the weights: their derivatives would be those of older ones.
        stays = self.net.copies is None
        if fused is not None and stays and fused.takes(self.lengths, self.resets):
            self.buffers[k] = Fed(tuple(self._full(self.value(at)) for at in fused.v.sources))
            return
        tensors: list[Tensor] = []
        for a in step.addends:
            if a.kind != "bias":
                tensors.append(self._full(self.value(a.source)))
            if a.kind != "value":
                tensors.append(self.net.parameter(a.pack))
        if step.loop and isinstance(self.net.loop_after[k], RebuildLoop):
            self.buffers[k] = Hoisted(step, tensors)
            return
        if not tensors:
            buffer = hoisted.constants(step, self.like, self.steps, self.lanes)
        else:
            buffer = hoisted.linear(step, tensors, self.steps, self.lanes, self.clock, self.plan.products.by)
        if step.loop:
            self.buffers[k] = buffer
            return
        columns = sorted(step.columns.items(), key=lambda item: item[1])
        sizes = [hi - lo for _, (lo, hi) in columns]
        parts = torch.split(buffer, sizes, -1) if len(sizes) > 1 else [buffer]
        for (at, _), part in zip(columns, parts, strict=True):
            self.values[at] = part

    def _full(self, x: Tensor) -> Tensor:
        """A weight or number as a sequence, whose values stay what they are now."""
        if x.dim() >= 2:
            return x
        return (x if self.net.copies is None else x.clone()).expand(self.steps, self.lanes, -1)

    def _map(self, at: int) -> None:
        op = self.plan.ops[at]
        if op.kind in ("input", "index"):
            return
        if op.kind == "shift":
            self.values[at] = self._shift(op)
            return
        if op.kind == "random":
            self.values[at] = self._random(op)
            return
        pack = self.net.pack_view(op.name) if op.kind == "block" else None
        args = [self.value(a) for a in op.args]
        if op.kind == "concat":
            args = [self._full(a) for a in args]
        self.values[at] = self._full(hoisted.apply(op, args, pack))

    def _shift(self, op: Op) -> Tensor:
        """The values of a node (or input) at t + shift; initial ones where that leaves the sequence."""
        x, initial = self.values[self.plan.roots[op.name]], self._initial(op.name)
        if op.shift < 0:
            old = self.state.history[op.name]
            out = torch.cat([old[old.shape[0] + op.shift :], x])[: self.steps]
        else:
            edge = initial.expand(min(op.shift, self.steps), *x.shape[1:])
            out = torch.cat([x[op.shift :], edge])
        keep = self.mask(op.shift)
        if keep is None:
            return out
        return torch.where(keep if x.dim() == 3 else keep.squeeze(-1), out, initial)

    def _initial(self, name: str) -> Tensor:
        if name in self.state.initial:
            return self.state.initial[name]
        spec = self.net.graph.inputs.get(name)
        if spec is not None and spec.vocab is not None:
            return torch.full((), -1, dtype=torch.int64, device=self.like.device)
        return self.net.initial(name)

    def mask(self, shift: int) -> Tensor | None:
        """Where a read at t + shift stays inside its sequence; None: everywhere."""
        if shift not in self.masks:
            self.masks[shift] = keep_mask(shift, self.steps, self.lanes, self.lengths, self.resets)
        return self.masks[shift]

    def _random(self, op: Op) -> Tensor:
        """dropout: 0 or 1/(1-p); zoneout: 1 where the old value stays. Without training: their mean."""
        return mask_values(op, self.seed, self.steps, self.lanes, self.like, self.first)

    def count(self, start: float) -> None:
        """Note what loops took since `start`."""
        if self.clock is not None:
            self.clock["loop"] += self.now() - start

    def ready(self, step: Loop) -> LoopCall:
        """What a loop takes."""
        c, loop = self.plan.components[step.component], self.net.loops[step.component]
        given = self.buffers.pop(step.pre, None)
        masks = {}
        for op in c.cell:
            if op.kind == "shift" and (keep := self.mask(op.shift)) is not None:
                masks[abs(op.shift)] = keep
        boundary, init = self._edges(c)
        return LoopCall(
            Chunk(
                self.steps,
                self.lanes,
                masks,
                self.clock,
                self.seed,
                self.first,
                self.net.watchdog,
                self.net.copies,
            ),
            given,
            [
                self._full(self.value(a))
                for i, a in enumerate(c.ext)
                if not (loop.own_masks and i in loop.c.masks)
            ],
            [self.net.parameter(p) for p in self.net.run_packs[step.component]],
            [self.net.pack_view(n) for n in loop.singles],
            boundary,
            init,
        )

    def _edges(self, c: Component) -> tuple[list[Tensor], list[Tensor]]:
        """Of each state of a loop: its values before the first step (if time runs backward: after the last
        one), in time order, and its initial value.
        """
        boundary, init = [], []
        for node, distance in c.states.items():
            init.append(self._initial(node))
            if c.direction > 0:
                boundary.append(self.state.history[node][-distance:])
            else:
                boundary.append(init[-1].expand(distance, self.lanes, -1))
        return boundary, init

    def loop(self, step: Loop, call: LoopCall) -> list[Tensor]:
        """One loop on its own; the sequences that it gives."""
        if isinstance(call.pre, Fed):
            return self._fused(self.net.fused[step.pre], call.pre, call.boundary)
        return self.keep(step, self.net.loops[step.component](*call))

    def keep(self, step: Loop, out: Sequence[Tensor]) -> list[Tensor]:
        """Note the sequences of a loop."""
        for (at, _), v in zip(self.plan.components[step.component].outputs, out, strict=True):
            self.values[at] = v
        return list(out)

    def _fused(self, loop: FusedLoop, given: Fed, boundary: Sequence[Tensor]) -> list[Tensor]:
        """A loop that takes its inputs themselves."""
        packs = [self.net.parameter(p) for p in loop.packs]
        edges = dict(zip(loop.c.states, boundary, strict=True))
        h, c = loop.fused(given.sources, packs, edges, self.padding, self.clock)
        self.values.update(dict.fromkeys(loop.v.given, h))
        if c is not None:
            self.ends[loop.v.memory] = c
        return [h] if c is None else [h, c]
