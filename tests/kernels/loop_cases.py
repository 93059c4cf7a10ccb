"""Launches of any Triton runner's loop, for compiling: called by compile_worker.py."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
from torch import Tensor

from framework import Network
from framework.component import Component
from framework.machine import Machine
from framework.network import RUNNERS
from framework.products import BY_TORCH
from framework.runners.loop import Chunk, LoopRunner
from framework.runners.place import DTYPES
from kernels.launch import chip_name
from tests.gpu.cases import graph_of

STEPS = 100  # T is no compile-time number: any will do


def chunk(runner: str, cell: str, lanes: int, units: int, dtype: str, masked: bool = False) -> None:
    """Forward and backward of one chunk of a shared cell's loops by `runner`; `masked`: with lengths or
    resets.

    Tensors stay uninitialised: nothing is computed. Raises AssertionError when the plan takes another runner.
    """
    kind = getattr(torch, dtype)
    net = Network(graph_of(cell, units), runner=runner).to(kind)
    place(net)
    assert all(choice.runner == runner for choice in net.plan.choices), net.plan.choices
    for at, (c, loop) in enumerate(zip(net.plan.components, net.loops, strict=True)):
        launch(net, at, c, loop, lanes, kind, masked)


def place(net: Network) -> None:
    """Plan the network as if it were on the chip that is compiled for."""
    driver = triton.runtime.driver.active
    target, found = driver.get_current_target(), driver.utils.get_device_properties(0)
    limits = found["max_shared_mem"], found["multiprocessor_count"]
    chip = chip_name(target.backend, target.arch)
    plan = net.plan.on(Machine("cuda", chip, DTYPES[net.like.dtype], *limits))
    net.plan = replace(plan, products=BY_TORCH)  # gradients of weights: of no interest here
    choices = zip(net.plan.components, net.plan.choices, strict=True)
    net.loops = [RUNNERS[choice.runner](c, net.plan) for c, choice in choices]


def launch(
    net: Network,
    at: int,
    c: Component,
    loop: LoopRunner,
    lanes: int,
    kind: torch.dtype,
    masked: bool,
    steps: int = STEPS,
    seed: int | None = None,
) -> None:
    """Forward and backward of loop number `at` of a network; seed: of training."""
    what, n_ext, tensors = taken(net, at, c, loop, lanes, kind, masked, steps, seed)
    _, kept = loop.run(what, n_ext, tensors, True)
    dy = [torch.empty(steps, lanes, c.cell[at].size, dtype=kind) for _, at in c.outputs]
    loop.gradients_of(what, n_ext, tensors, kept, dy, [True] * len(tensors))


def taken(
    net: Network,
    at: int,
    c: Component,
    loop: LoopRunner,
    lanes: int,
    kind: torch.dtype,
    masked: bool,
    steps: int = STEPS,
    seed: int | None = None,
) -> tuple[Chunk, int, list[Tensor]]:
    """What loop number `at` of a network takes, uninitialised: the chunk, how many ext, all tensors."""
    sizes = {name: c.cell[root].size for name, root in c.roots.items()}

    def empty(*size: int) -> Tensor:
        return torch.empty(size, dtype=kind)

    tensors = [empty(steps, lanes, c.width)] if c.targets else []
    widths = {op.lo: op.size for op in c.cell if op.kind == "ext"}
    brought = [i for i in range(len(c.ext)) if not (loop.own_masks and i in c.masks)]
    tensors += [empty(steps, lanes, widths[i]) for i in brought]
    tensors += [net.get_parameter(pack).detach() for pack in net.run_packs[at]]
    tensors += [net.pack_view(name).detach() for name in loop.singles]
    tensors += [empty(distance, lanes, sizes[name]) for name, distance in c.states.items()]
    tensors += [empty(sizes[name]) for name in c.states]
    distances = {abs(op.shift) for op in c.cell if op.kind == "shift"} if masked else set()
    what = Chunk(
        steps, lanes, {d: torch.ones(steps, lanes, 1, dtype=torch.bool) for d in distances}, seed=seed
    )
    return what, len(brought), tensors
