"""`overlap: K`: one call in K parts of its steps, in which loops behind each other run at the same time.

Part k of a layer runs beside part k - 1 of the layer that reads it, a wave through time and layers (Hwang &
Sung 2015; Appleyard et al., Optimizing performance of recurrent neural networks on GPUs, 2016). Hoisted
products are done part by part. On a CPU it is the same order of the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from framework.call import Call
from framework.chunks import Outputs, cut, joined
from framework.errors import ConfigError
from framework.order import stages
from framework.start import start_loops
from framework.state import State
from framework.steps import Loop

if TYPE_CHECKING:
    from framework.network import Network, Value


class Handed(Mapping[str, Tensor]):
    """The history that a part has left, name by name as it is asked for: its later stages may still run."""

    def __init__(self, before: Call):
        self.before = before
        self.known: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.known:
            self.known[name] = self.before.after(name)
        return self.known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.before.state.history)

    def __len__(self) -> int:
        return len(self.before.state.history)


def run_overlapped(
    net: Network,
    x: Value,
    state: State | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    parts: int,
) -> tuple[Outputs, State]:
    """As `Network.forward`, in so many parts (fewer where there are not as many steps). Raises ConfigError
    while torch.compile records.
    """
    if torch.compiler.is_compiling():
        cause = "torch.compile decides itself in which order steps run"
        raise ConfigError("overlap", cause, "Leave overlap out, or do not compile the network.")
    calls = list(_parts(net, Call(net, x, state, lengths, resets), state, parts))
    plan, wave, start = net.plan, net.plan.wave, calls[0].now()
    assert wave is not None
    stage = stages(plan)
    at: dict[int, list[int]] = {}
    for k, s in enumerate(stage):
        at.setdefault(s, []).append(k)
    for time in range(1, max(stage) + len(calls)):
        loops: dict[int, Call] = {}
        for k, call in enumerate(calls):
            for step in at.get(time - k, ()):
                if isinstance(plan.steps[step], Loop):
                    loops[step] = call
                else:
                    call.step(step)
        if loops:
            start_loops(net, wave, loops)
    last = calls[-1]
    now = State({name: last.after(name) for name in last.state.history}, last.state.initial)
    if last.clock is not None:
        last.clock["hoisted"] += last.now() - start - last.clock["loop"]
    return joined([call.outputs() for call in calls]), now


def _parts(net: Network, whole: Call, state: State | None, parts: int) -> Iterator[Call]:
    """The calls of the parts, each of which is handed what the one before it leaves."""
    steps, before = -(-whole.steps // parts), None
    for first in range(0, whole.steps, steps):
        inputs, ends, cuts = cut(whole, first, steps)
        call = Call(net, inputs, state if before is None else None, ends, cuts, whole, first)
        if before is not None:
            call.state.history = Handed(before)
        yield call
        before = call
