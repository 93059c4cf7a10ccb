"""Launches of any Triton runner's loop, for compiling: called by compile_worker.py."""

from __future__ import annotations

import torch
from torch import Tensor

from framework import Network
from framework.runners.loop import Chunk

STEPS = 100  # T is no compile-time number: any will do


def chunk(runner: str, cell: str, lanes: int, units: int, dtype: str, masked: bool = False) -> None:
    """Forward and backward of one chunk of a shared cell's loop by `runner`; `masked`: with lengths or
    resets.

    Tensors stay uninitialised: nothing is computed. Raises AssertionError when the plan takes another runner
    or the cell has not exactly one loop.
    """
    kind = getattr(torch, dtype)
    nodes = {"l": {"cell": cell, "size": units, "in": "x"}}
    net = Network({"inputs": {"x": {"size": 8}}, "nodes": nodes, "outputs": ["l"]}, runner=runner).to(kind)
    (c,), (loop,), (choice,) = net.plan.components, net.loops, net.plan.choices
    assert choice.runner == runner, f"{cell}: {choice}"
    sizes = {name: c.cell[root].size for name, root in c.roots.items()}

    def empty(*size: int) -> Tensor:
        return torch.empty(size, dtype=kind)

    tensors = [empty(STEPS, lanes, c.width)] if c.targets else []
    widths = {op.lo: op.size for op in c.cell if op.kind == "ext"}
    tensors += [empty(STEPS, lanes, widths[i]) for i in range(len(c.ext))]
    tensors += [net.get_parameter(pack).detach() for pack in net.run_packs[0]]
    tensors += [net.pack_view(name).detach() for name in loop.singles]
    tensors += [empty(distance, lanes, sizes[name]) for name, distance in c.states.items()]
    tensors += [empty(sizes[name]) for name in c.states]
    distances = {abs(op.shift) for op in c.cell if op.kind == "shift"} if masked else set()
    what = Chunk(STEPS, lanes, {d: torch.ones(STEPS, lanes, 1, dtype=torch.bool) for d in distances})
    _, kept = loop.run(what, len(c.ext), tensors, True)
    dy = [empty(STEPS, lanes, c.cell[at].size) for _, at in c.outputs]
    loop.gradients_of(what, len(c.ext), tensors, kept, dy, [True] * len(tensors))
