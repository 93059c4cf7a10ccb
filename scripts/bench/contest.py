"""One case from beginning to end: build all systems, refuse what is wrong, take turns, make rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from framework import Network
from framework.cost import constants_of, predict
from framework.graph import Graph
from scripts.bench import agree, cases, peers
from scripts.bench.bench import SEED, Bench
from scripts.bench.cases import FORWARD, Case
from scripts.bench.measure import Buffers, Run, take_turns
from scripts.bench.predicted import CPU_RUNNERS
from scripts.bench.rows import Row
from scripts.bench.system import OURS, Declined, System, network


@dataclass(frozen=True)
class Contest:
    """Systems of one case with equal weights, rounded to its dtype; `declined`: system -> why not."""

    graph: Graph
    weights: dict[str, Tensor]
    systems: list[System]
    declined: dict[str, str]

    @property
    def yardsticks(self) -> set[str]:
        """Those that are torch alone; without any, our own network on the torch runner."""
        alone = {s.name for s in self.systems if not s.ours or s.figures.get("runner") == "torch-fused"}
        return alone or {s.name for s in self.systems if s.figures.get("runner") == "torch"}


def contest(case: Case, device: str, version: str) -> Contest:
    """All systems of a case on the device. `version`: of ours."""
    if "torch._dynamo" in sys.modules:  # importing it takes seconds
        torch.compiler.reset()  # what was compiled for other cases must not count against this one's limits
    graph = cases.graph(case)
    torch.manual_seed(SEED)
    weights = Network(graph, runner="torch").to(case.kind).state_dict()
    weights = {name: w.to(device) for name, w in weights.items()}
    made = Contest(graph, weights, [], {})
    for name in case.systems:
        ours = name.split()[0] == OURS
        try:
            system = (
                network(name, graph, device, case.kind, version) if ours else peers.build(name, case, device)
            )
            system.entry = name
            system.load(weights)
            begin(system, case, device)
        except Declined as reason:
            made.declined[name] = str(reason)
        except Exception as error:
            if ours:
                raise
            # What others cannot do is told in the rows, and keeps nobody else from being measured.
            made.declined[name] = (
                f"raised {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
            )
        else:
            made.systems.append(system)
    return made


def begin(system: System, case: Case, device: str) -> None:
    """The first call, forward and backward, whose time holds everything that is compiled."""
    x = torch.zeros(case.T, case.B, case.F, device=device, dtype=case.kind, requires_grad=True)
    start = time.perf_counter()
    y = system.run(x)
    y.backward(torch.zeros_like(y))
    if device == "cuda":
        torch.cuda.synchronize()
    system.first_s = time.perf_counter() - start


def passes(system: System, pass_: str, buffers: Buffers) -> Callable[[], Run]:
    """Makes ready one turn of a system: fresh data, no gradients."""

    def ready() -> Run:
        x, dy = buffers.fresh()
        system.module.zero_grad(set_to_none=True)

        def forward() -> None:
            with torch.no_grad():
                system.run(x)

        def both() -> None:
            system.run(x).backward(dy)

        return forward if pass_ == FORWARD else both

    return ready


def run(case: Case, bench: Bench) -> list[Row]:
    """The rows of a case. Raises agree.Disagreement when anything is further from float64 than it may be."""
    made = contest(case, bench.device.kind, bench.version)
    if not made.systems:
        raise Declined("; ".join(f"{name}: {why}" for name, why in made.declined.items()))
    width = sum(made.graph.nodes[n].size for n in made.graph.outputs.values())
    shapes = ((case.T, case.B, case.F), (case.T, case.B, width))
    buffers = Buffers(*shapes, case.kind, bench.device.kind, SEED)
    exact = agree.truth(made.graph, made.weights, bench.device.kind)
    errors = agree.errors(made.systems, exact, *buffers.fresh())
    del exact
    if wrong := agree.refusals(errors, made.yardsticks, torch.finfo(case.kind).eps, case.T):
        raise agree.Disagreement("; ".join(wrong))
    rows = []
    for pass_ in case.passes:
        turns = {s.name: passes(s, pass_, buffers) for s in made.systems}
        times = take_turns(bench.device, turns, bench.seconds)
        work = cases.work(case, made.graph, pass_)
        for s in made.systems:
            peak = bench.device.peak(turns[s.name]()) if s.counted or bench.device.kind == "cuda" else None
            more = {"peak_bytes": peak, "errors": rounded(errors[s.name]), "declined": made.declined}
            more["predicted_ms"] = predicted_ms(s, case, pass_)
            more["figures"] = {"first_s": round(s.first_s, 3), **s.figures}
            rows.append(bench.row(case, s, pass_, times, work, **more))
            s.module.zero_grad(set_to_none=True)
    return rows


def predicted_ms(system: System, case: Case, pass_: str) -> float | None:
    """Milliseconds by the model of cost; None of others, and where it knows nothing of plan or machine."""
    net = system.module
    if not isinstance(net, Network):
        return None
    plan = net.plan
    known = (plan.parallel, plan.memory, plan.chunk) == ("intra", "save", None)
    if plan.machine.device == "cpu" and not {c.runner for c in plan.choices} <= {*CPU_RUNNERS}:
        return None  # a kernel under the interpreter
    if plan.machine.device == "cpu" and case.dtype != "float32":
        return None  # constants are those of float32
    if not known or constants_of(plan.machine) is None:
        return None
    passes = "forward" if pass_ == FORWARD else "forward+backward"
    return predict(plan, case.T, case.B, passes, threads=torch.get_num_threads()).seconds * 1e3


def rounded(errors: Mapping[str, float]) -> dict[str, float]:
    """Two digits of an error are enough."""
    return {what: float(f"{error:.1e}") for what, error in errors.items()}
