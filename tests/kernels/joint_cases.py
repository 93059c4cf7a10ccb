"""Loops in one launch, for compiling: called by compile_worker.py."""

from __future__ import annotations

from typing import Any

import torch
import triton

from framework import Network, load_graph
from framework.runners.joint import JointCall, JointLoop
from framework.steps import Loop
from tests.kernels.loop_cases import STEPS, place, taken


def branches(left: str, right: str, units: int) -> dict[str, Any]:
    """A graph of two cells over one input; the right one runs backward in time."""
    nodes = {
        "l": {"cell": left, "size": units, "in": "x"},
        "r": {"cell": right, "size": units, "in": "x", "backward": True},
    }
    return {"inputs": {"x": {"size": 16}}, "nodes": nodes, "outputs": ["l", "r"]}


def pair(left: str, right: str, lanes: int, units: int, dtype: str, masked: bool = False) -> None:
    """Forward and backward of two loops, each in one launch. Raises AssertionError when the plan does not say
    so, or when there are more launches.
    """
    kind = getattr(torch, dtype)
    net = Network(load_graph(branches(left, right, units)), runner="persistent").to(kind)
    place(net)
    (group,) = net.plan.together
    assert len(group.launches) == 1 and group.streams == (0,), group
    steps = [step for k in group.steps if isinstance(step := net.plan.steps[k], Loop)]
    joint = net.joint(group.steps)
    assert isinstance(joint, JointLoop) and len(joint.members) == len(steps) == 2
    given = [
        taken(net, s.component, net.plan.components[s.component], loop, lanes, kind, masked)
        for s, loop in zip(steps, joint.members, strict=True)
    ]
    call = JointCall(joint, [x[0] for x in given], [x[1] for x in given], [len(x[2]) for x in given])
    flat = [x for _, _, tensors in given for x in tensors]
    launches = triton.runtime.driver.active.launches
    before = len(launches)
    found = call.run(flat, [True, True])
    dy = [torch.empty_like(y) for out, _ in found for y in out]
    call.gradients(flat, [kept for _, kept in found], dy)
    names = [x.name for x in launches[before:]]
    assert names == ["joint_forward_kernel", "joint_backward_kernel"], names
    assert all(y.shape[0] == STEPS for y in dy)
