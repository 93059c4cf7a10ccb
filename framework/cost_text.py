"""Predicted times as text: what bounds each step of a plan, and what other runners would take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.choose import TABLE
from framework.cost import Constants, Passes, Prediction, constants_of, model_of, outputs_read, predict
from framework.cost_constants import CHIPS, USUAL, CpuConstants, gpu_constants
from framework.cost_parts import Cost
from framework.machine import CHIPS as PLANNED
from framework.machine import Machine, machine

if TYPE_CHECKING:
    from framework.component import Component
    from framework.plan import Plan

FEW = 0.005  # of a whole: what is less is not named


def cost_text(
    plan: Plan, steps: int, lanes: int, passes: Passes = "forward+backward", threads: int = 1
) -> str:
    """A line for each step with microseconds for each time step, its share, and what bounds it; then what
    each loop would take by other runners, and on a GPU the best runner of other chips. Raises ConfigError.
    """
    known = constants_of(plan.machine, threads)
    made = predict(plan, steps, lanes, passes, known)
    assert known is not None
    lines = [f"predicted, not measured: {passes}, T = {steps:,}, B = {lanes}, {_whose(plan.machine, known)}"]
    lines += list(_steps(made))
    if plan.parallel != "none":
        found: dict[tuple[str, ...], list[str]] = {}
        for c in plan.components:
            found.setdefault(tuple(_runners(c, plan, known, made, passes != "forward")), []).append(c.name)
        for text, names in found.items():
            lines += [f"  loop {', '.join(names)}, us a step by runner:", *text]
    return "\n".join(lines)


def _whose(where: Machine, k: Constants) -> str:
    if isinstance(k, CpuConstants):
        threads = f"{k.threads} thread{'s' * (k.threads > 1)}"
        return f"the CPU of scripts/bench/results/ceilings.jsonl, {threads}, fp32"
    return f"{where} with the data sheet of {k.name}"


def _steps(made: Prediction) -> Iterator[str]:
    yield "  us a step  share  what it is made of"
    for line in made.lines:
        share = line.cost.us / made.us
        if share >= FEW:
            yield f"  {line.cost.us:9.3f}  {share:4.0%}   {line.what}: {parts_text(line.cost)}"
    yield f"  {made.us:9.3f}  100%   together, {made.seconds * 1e3:.3g} ms"


def parts_text(cost: Cost) -> str:
    """`dispatch 80 %, products 20 %`, largest first."""
    parts = sorted(cost.parts.items(), key=lambda part: -part[1])
    shown = [f"{name} {us / cost.us:.0%}" for name, us in parts if us >= 0.05 * cost.us]
    return ", ".join(shown)


def _runners(c: Component, plan: Plan, k: Constants, made: Prediction, train: bool) -> Iterator[str]:
    """What each runner would take for a loop, fastest first; who cannot, and why."""
    where, found, cannot = plan.machine, dict[str, Cost](), list[str]()
    model = model_of(where, k, made.steps, made.lanes)
    for r in TABLE:
        if r.devices and where.device not in r.devices:
            continue
        reason = r.refuses(c, where)
        if reason:
            cannot.append(f"{r.name}: {reason}")
        else:
            found[r.name] = model.loop(c, r.name, train, outputs_read(plan, c))
    order = sorted(found, key=lambda name: found[name].us)
    for name in order:
        yield f"    {name:12s} {found[name].us:10.3f}  {parts_text(found[name])}"
    for text in cannot:
        yield f"    not {text}"
    if where.device == "cuda":
        yield f"    on other GPUs: {'; '.join(_elsewhere(c, where, made, train))}"


def _elsewhere(c: Component, where: Machine, made: Prediction, train: bool) -> Iterator[str]:
    """The fastest runner that `auto` may take on the usual model of each other chip."""
    for chip in PLANNED:
        there, k = machine("cuda", chip, where.dtype), CHIPS[USUAL[chip]]
        if k is gpu_constants(where):
            continue
        model = model_of(there, k, made.steps, made.lanes)
        able = [r.name for r in TABLE if not (r.by_name or r.unproven or r.refuses(c, there))]
        times = {name: model.loop(c, name, train).us for name in able}
        best = min(times, key=lambda name: times[name])
        yield f"{k.name} {best} {times[best]:.3g}"
