"""How long the steps of a plan should take, and what bounds each: predicted from constants of a machine.

Nothing is measured here. `framework/cost_constants.py` has the constants and where they are from,
docs/expected.md holds predictions against what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from framework.cost_constants import CpuConstants, GpuConstants, gpu_constants
from framework.cost_cpu import Cpu
from framework.cost_cpus import CPUS
from framework.cost_gpu import Gpu
from framework.cost_parts import Cost
from framework.errors import ConfigError
from framework.machine import Machine
from framework.steps import Linear, Map

if TYPE_CHECKING:
    from framework.component import Component
    from framework.plan import Plan

Passes = Literal["forward", "forward+backward"]
PASSES: tuple[Passes, ...] = ("forward", "forward+backward")
Constants = CpuConstants | GpuConstants


class Line(NamedTuple):
    """Steps of a plan that are alike: what they are, and microseconds for each time step."""

    what: str
    cost: Cost


@dataclass(frozen=True)
class Prediction:
    """Of a call over [steps, lanes]."""

    steps: int
    lanes: int
    lines: tuple[Line, ...]

    @property
    def us(self) -> float:
        """Microseconds for each time step."""
        return sum(line.cost.us for line in self.lines)

    @property
    def seconds(self) -> float:
        """Of the whole call."""
        return self.us * self.steps / 1e6


def constants_of(machine: Machine, threads: int = 1) -> Constants | None:
    """What is known of a machine, or None. threads: of a CPU; those that were measured, the nearest."""
    if machine.device == "cpu":
        return min(CPUS, key=lambda k: abs(k.threads - threads))
    return gpu_constants(machine) if machine.device == "cuda" else None


def predict(
    plan: Plan,
    steps: int,
    lanes: int,
    passes: Passes = "forward+backward",
    constants: Constants | None = None,
    threads: int = 1,
) -> Prediction:
    """The predicted times of a call of `plan` over [steps, lanes] on its machine, or by other `constants`.

    Without lengths and resets; with a backward inputs get gradients, too. Steps follow one another, also
    those that may run together. Raises ConfigError where nothing is known of the machine.
    """
    known = constants or constants_of(plan.machine, threads)
    if known is None:
        cause = f"nothing is known of {plan.machine}"
        raise ConfigError("cost", cause, "Take device=cpu or a chip that plans know, or give constants.")
    return _Walk(plan, model_of(plan.machine, known, steps, lanes), passes != "forward").run()


def outputs_read(plan: Plan, c: Component) -> frozenset[int]:
    """Outputs of a loop (ops of its cell) that something else reads: they receive gradients, while those that
    only the next chunk reads seldom do.
    """
    read = {plan.roots[n] for n in plan.graph.outputs.values()}
    for step in plan.steps:
        if isinstance(step, Linear):
            read.update(a.source for a in step.addends)
        elif isinstance(step, Map):
            op = plan.ops[step.op]
            read.update([plan.roots[op.name]] if op.kind == "shift" else op.args)
        else:
            read.update(plan.components[step.component].ext)
    return frozenset(local for at, local in c.outputs if at in read)


def model_of(machine: Machine, k: Constants, steps: int, lanes: int) -> Cpu | Gpu:
    """The times of parts of a call over [steps, lanes]."""
    return Gpu(k, machine, steps, lanes) if isinstance(k, GpuConstants) else Cpu(k, steps, lanes)


class _Walk:
    """The steps of a plan; lives only during predict."""

    def __init__(self, plan: Plan, model: Cpu | Gpu, train: bool):
        self.plan, self.model, self.train = plan, model, train

    def run(self) -> Prediction:
        found: dict[str, Cost] = {}
        for what, cost in self._lines():
            found[what] = found.get(what, Cost()).plus(cost)
        count = max(1, sum(not isinstance(s, Map) for s in self.plan.steps)) / 2
        work = sum(cost.us for cost in found.values())
        found["calling the network"] = self.model.calling(count, self.train, work)
        lines = (Line(what, cost) for what, cost in found.items() if cost.parts)
        return Prediction(self.model.steps, self.model.lanes, tuple(lines))

    def _lines(self) -> Iterable[Line]:
        plan = self.plan
        for step in plan.steps:
            if isinstance(step, Linear):
                names = dict.fromkeys(plan.owner[at] for at in step.columns)
                what = f"products into {step.loop or ', '.join(n for n in names if n)}"
                yield Line(what, self._linear(step))
            elif isinstance(step, Map):
                yield Line(f"pointwise in {plan.owner[step.op]}", self._map(step))
            else:
                c, runner = plan.components[step.component], plan.choices[step.component].runner
                given = outputs_read(plan, c)
                yield Line(f"loop {c.name} by {runner}", self.model.loop(c, runner, self.train, given))

    def _linear(self, step: Linear) -> Cost:
        out = self.model.sequence(step.width).times(1 + self.train)
        for a in step.addends:
            units = a.hi - a.lo
            if a.kind == "full":
                out = out.plus(self.model.product(units, self.plan.ops[a.source].size, 2 * self.train))
            elif a.kind != "bias" or self.train:  # forward a bias is part of the product
                out = out.plus(self.model.passes(units, 1))
        return out

    def _map(self, step: Map) -> Cost:
        op = self.plan.ops[step.op]
        if op.kind in ("input", "index", "copy", "expand", "shift", "slice", "stop"):
            return Cost()
        return self.model.passes(op.size, max(1, len(op.args) - 1) * (1 + 2 * self.train))
