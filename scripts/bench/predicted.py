"""Predicted times against measured rows, for docs/expected.md and the performance page.

`check(rows)` takes rows of cpu.jsonl, fused.jsonl and times.jsonl in scripts/bench/results, whose cases are
one layer with as many inputs as units, in float32 on a CPU.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from framework.cost import Passes, constants_of, predict
from framework.cost_constants import CpuConstants
from framework.cost_cpu import Cpu
from framework.load import load_graph
from framework.machine import CPU
from framework.plan import Plan, make_plan
from scripts.bench.cases import Case, graph
from scripts.bench.rows import Row

RESULTS = Path(__file__).parent / "results"
FILES = ("cpu.jsonl", "fused.jsonl", "times.jsonl")
CELLS = {"gru": "gru_cudnn"}  # nn.GRU's equations
BOTH: Passes = "forward+backward"
CPU_RUNNERS = ("torch", "torch-fused", "compiled")


def of_row(row: Row) -> float | None:
    """Milliseconds of a row of ours by the model as it is now; of a GPU, or where the row does not say which
    runner it was, those of when it was measured. None: the model knows nothing of it.
    """
    runner = row.figures.get("runner")
    if row.predicted_ms is None or row.gpu or not isinstance(runner, str):
        return row.predicted_ms
    if row.dtype != "float32" or runner not in CPU_RUNNERS:  # constants are those of float32
        return None
    case = Case(
        table=row.table, cell=str(row.options["cell"]), T=row.T, B=row.B, H=row.H, F=row.F, layers=row.layers,
        bidirectional=bool(row.options["bidirectional"]), input_product=row.input_product,
    )  # fmt: skip
    passes = cast(Passes, row.pass_)
    return predict(planned(case, runner), row.T, row.B, passes, threads=row.threads).seconds * 1e3


@cache
def planned(case: Case, runner: str) -> Plan:
    """The plan of a case on a CPU."""
    return make_plan(graph(case), runner=runner)


class Check(NamedTuple):
    """One measured time: milliseconds of a call, and what was predicted."""

    clock: str  # "wall" (a median), or "processor" (the least)
    system: str
    passes: Passes
    cell: str
    lanes: int
    units: int
    threads: int
    measured: float
    predicted: float

    @property
    def ratio(self) -> float:
        """Above 1: it was predicted to take longer than it did."""
        return self.predicted / self.measured


@cache
def layer(cell: str, units: int, runner: str) -> Plan:
    """The plan of one layer with as many inputs as units."""
    node = {"cell": CELLS.get(cell, cell), "size": units, "in": "x"} | ({"depth": 3} if cell == "rhn" else {})
    graph = load_graph({"inputs": {"x": {"size": units}}, "nodes": {"l": node}, "outputs": ["l"]})
    return make_plan(graph, runner=runner)


@cache
def milliseconds(
    system: str, cell: str, units: int, steps: int, lanes: int, passes: Passes, threads: int
) -> float:
    """Predicted milliseconds of a call; system: a runner's name, or "eager"."""
    if system != "eager":
        plan = layer(cell, units, system)
        return predict(plan, steps, lanes, passes, threads=threads).seconds * 1e3
    known = constants_of(CPU, threads)
    assert isinstance(known, CpuConstants)
    c = layer(cell, units, "torch").components[0]
    return Cpu(known, steps, lanes).eager(c, units, passes == BOTH).us * steps / 1e3


def check(rows: Iterable[Mapping[str, Any]]) -> Iterator[Check]:
    """Each time in the rows, and its prediction."""
    for row in rows:
        threads, clock = row["threads"], "wall"
        found: Sequence[tuple[str, str, float]]
        if "runner" in row:
            clock, found = "processor", [(row["runner"], row["pass"], row["ms"])]
            cell, units, lanes, steps = row["cell"], row["H"], row["B"], row["T"]
        elif "cell" in row:
            named = {
                "intrastream": "torch",
                "eager": "eager",
                "nn.LSTM": "torch-fused",
                "nn.GRU": "torch-fused",
            }
            found = [(own, BOTH, row[name]["ms"]) for name, own in named.items() if name in row]
            cell, units, lanes, steps = row["cell"], row["H"], row["B"], row["T"]
        else:
            found = [
                (runner, passes, row[f"{field}_ms"] * (row[field] if runner == row["against"] else 1.0))
                for passes, field in ((BOTH, "ratio"), ("forward", "forward"))
                for runner in ("torch-fused", row["against"])
            ]
            cell, units, lanes, steps = row["kind"], row["size"], row["lanes"], row["steps"]
        for system, way, ms in found:
            passes = cast(Passes, way)
            guess = milliseconds(system, cell, units, steps, lanes, passes, threads)
            yield Check(clock, system, passes, cell, lanes, units, threads, ms, guess)


def kept_rows() -> list[dict[str, Any]]:
    """The rows that predictions are held against."""
    lines = [line for name in FILES for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]
    return [row for line in lines if (row := json.loads(line)).get("place", "cpu") == "cpu"]


def error(checks: Sequence[Check]) -> float:
    """The median of how far predictions are from what was measured, as a part of it."""
    return statistics.median(abs(c.ratio - 1) for c in checks)


def table(checks: Sequence[Check]) -> list[str]:
    """All rows, and the median error of each system, in Markdown."""
    lines = ["| system | rows | median error | median of predicted / measured |", "|---|---|---|---|"]
    groups = {(c.clock, c.system, c.passes, c.threads) for c in checks}
    for clock, system, passes, threads in sorted(groups):
        own = [
            c for c in checks if (c.clock, c.system, c.passes, c.threads) == (clock, system, passes, threads)
        ]
        name = f"{system}, {passes}, {threads} thread{'s' * (threads > 1)}, {clock}"
        lines.append(
            f"| {name} | {len(own)} | {error(own):.0%} | {statistics.median(c.ratio for c in own):.2f} |"
        )
    lines.append(
        f"| all | {len(checks)} | {error(checks):.0%} | {statistics.median(c.ratio for c in checks):.2f} |"
    )
    lines += ["", "| clock | system | pass | cell | B | H | measured, ms | predicted, ms | ratio |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for c in checks:
        where = f"{c.clock} | {c.system} | {c.passes} | {c.cell} | {c.lanes} | {c.units}"
        lines.append(f"| {where} | {c.measured:.2f} | {c.predicted:.2f} | {c.ratio:.2f} |")
    return lines
