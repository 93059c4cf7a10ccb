"""Loops of a call, or of several, that start together: in one launch, on cuda_streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from framework.runners.fused import Fed
from framework.runners.joint import LoopCall
from framework.runners.rebuild import Hoisted
from framework.runners.streams import Fork
from framework.steps import Loop
from framework.together import Together

if TYPE_CHECKING:
    from framework.call import Call
    from framework.network import Network


def start_loops(net: Network, group: Together, calls: Mapping[int, Call]) -> None:
    """Start the loops of a group together; `calls`: of which call each is, those without one are left out.

    What they take is made first, before any stream is left. While torch.compile records it is one by one.
    """
    some = next(iter(calls.values()))
    start = some.now()
    loops = {k: step for k in calls if isinstance(step := net.plan.steps[k], Loop)}
    ready = {k: calls[k].ready(step) for k, step in loops.items()}
    with Fork(some.like.device) as fork:
        for whole, stream in zip(group.launches, group.streams, strict=True):
            launch = tuple(k for k in whole if k in calls)
            if len(launch) < 2 or torch.compiler.is_compiling():
                for k in launch:
                    made: list[Tensor] = []
                    number = 0 if torch.compiler.is_compiling() else stream
                    with fork.on(number, _tensors(ready[k]), made):
                        made += calls[k].loop(loops[k], ready[k])
            else:
                made = []
                with fork.on(stream, [x for k in launch for x in _tensors(ready[k])], made):
                    found = net.joint(launch)([ready[k] for k in launch])
                    for k, out in zip(launch, found, strict=True):
                        made += calls[k].keep(loops[k], out)
    for k, call in calls.items():
        call.let_go(k)
    some.count(start)


def _tensors(call: LoopCall) -> list[Tensor]:
    """All that a loop takes."""
    pre = call.pre
    if isinstance(pre, Fed | Hoisted):
        hoisted = pre.sources if isinstance(pre, Fed) else pre.tensors
    else:
        hoisted = [] if pre is None else [pre]
    rest = [*call.ext, *call.runs, *call.singles, *call.boundary, *call.init, *call.chunk.masks.values()]
    return [*hoisted, *rest]
