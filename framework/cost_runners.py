"""Which runner of a loop is predicted to be the fastest on a GPU, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from framework.component import Component
from framework.cost_constants import gpu_constants
from framework.cost_gpu import Gpu
from framework.cost_parts import Cost
from framework.machine import Machine

# How many lanes there will be is not known when a plan is made: runners are held against each other over all
# of these, forward and backward, in a chunk of so many steps.
LANES = (1, 16, 64, 256)
STEPS = 1024
SURE = 1.2  # times longer; what is closer the model cannot tell apart


def loop_costs(
    c: Component, machine: Machine, runners: Sequence[str], lanes: Sequence[int] = LANES, train: bool = True
) -> dict[str, tuple[Cost, ...]]:
    """A time step of loop `c` by each runner, which must take it, for each number of lanes; empty where
    nothing is known of the machine.
    """
    k = gpu_constants(machine)
    if k is None:
        return {}
    models: list[Gpu] = []
    for n in lanes:
        models.append(Gpu(k, machine, STEPS, n, models[0] if models else None))
    return {r: tuple(m.loop(c, r, train) for m in models) for r in runners}


def slower(c: Component, machine: Machine, first: str, other: str) -> str:
    """Why runner `other` is predicted to be faster than `first`, which both take a loop, or "".

    That is when its mean time over LANES (the geometric one) is less by more than a factor SURE.
    """
    costs = loop_costs(c, machine, (first, other))
    if not costs:
        return ""
    ratios = [a.us / b.us for a, b in zip(costs[first], costs[other], strict=True)]
    if exp(sum(map(log, ratios)) / len(ratios)) <= SURE:
        return ""
    ours, theirs = (", ".join(f"{x.us:,.0f}" for x in costs[name]) for name in (first, other))
    return f"predicted {ours} us a step with {', '.join(map(str, LANES))} lanes, {other} {theirs}"
