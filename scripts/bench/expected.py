"""Write docs/expected.md: what the model of cost predicts, on GPUs for first measurements to be held against,
on a CPU beside what was measured.

    python -m scripts.bench.expected [--out docs/expected.md]

The model is framework/cost.py; its constants, each with its reason, stand in framework/cost_constants.py
(GPUs) and framework/cost_cpus.py (CPUs).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from framework.choose import TABLE
from framework.component import Component
from framework.cost import outputs_read
from framework.cost_constants import CHIPS, USUAL, gpu_constants
from framework.cost_gpu import Gpu
from framework.cost_parts import Cost
from framework.cost_text import parts_text
from framework.load import load_graph
from framework.machine import CHIPS as PLANNED
from framework.machine import machine
from framework.plan import Plan, make_plan
from scripts.bench.predicted import check, kept_rows, table

ROOT = Path(__file__).resolve().parents[2]
STEPS = 1024
CELLS = ("lstm", "gru_cudnn", "lstm_peephole")
LANES = (1, 16, 64, 256)
UNITS = (128, 256, 512, 768, 1024, 1536, 2048)
RUNNERS = (("lstm", 128), ("lstm", 512), ("lstm", 1024), ("lstm", 2048), ("lstm", 4096), ("gru", 512),
           ("lstm_norm", 512), ("rhn", 1024), ("nas", 512), ("sru", 1024))  # fmt: skip

HEAD = """\
# Expected times

Written by `python -m scripts.bench.expected` from the model of cost (`framework/cost.py`). **No figure for a
GPU on this page is measured**; figures for a CPU stand beside measured ones. `python scripts/show_plan.py
model=... cost=true [device=cuda chip=sm_90 dtype=bf16]` predicts any other graph; how to read it:
[planner.md](planner.md#predicted-times).

## A step of a persistent kernel on an H200

sm_90, 132 multiprocessors, bf16, layouts as plans choose them, microseconds.

Parts: barrier; sources (what others have computed, from L2, and its latency); products (matrices from shared
memory); pointwise; weights (from L2 or memory, where they are streamed); memory (sequences, where they take
longer than all that). Tiles of lanes that do not fit side by side follow one another: their parts are added
up. Published figures to pass, nn.LSTM with cuDNN in fp16 on an H100 at B = 16, H = 768: 1.96 forward, 5.07
both, with its input product.

| cell | B | H | runner, programs x lanes | forward | parts | backward | parts | both |
|---|---|---|---|---|---|---|---|---|"""
WINS = f"""
## Which runner should win on which GPU

bf16, forward and backward, T = {STEPS:,}, without the product of the input, microseconds a step. The first
runner of each GPU is what `auto` takes. `torch-fused` is cuDNN's algorithm for bf16, as two kernels a step;
`auto` does not take it unmeasured. `torch` mostly waits for the host, which calls every op of every step.

| cell | H | GPU | runner | {" | ".join(f"B = {n}" for n in LANES)} | bound with 16 lanes by |
|---|---|---|---|{"---|" * len(LANES)}---|"""
MEASURED = """
## Predicted and measured on a CPU

One layer with as many inputs as units, float32. `torch` is our runner of that name, `torch-fused` torch's own
LSTM, GRU or RNN, `eager` a loop over torch's cells with autograd. Constants are ceilings, the best of several
turns and runs (`scripts/bench/results/ceilings.jsonl`); none was fitted to a row. Rows `wall` (`cpu.jsonl`
and `fused.jsonl` there, T = 128) are medians on a machine on which others worked, many of them at half its
FLOP/s: predictions are low by as much. Rows `processor` (`times.jsonl`, T = 64) are the least processor time
of one thread, which leaves out the time of others. No GPU has a row yet.
"""


def plan_of(cell: str, units: int, where_chip: str) -> Plan:
    """One layer of a shared cell on a GPU."""
    nodes = {"l": {"cell": cell, "size": units, "in": "x"}}
    graph = load_graph({"inputs": {"x": {"size": units}}, "nodes": nodes, "outputs": ["l"]})
    return make_plan(graph, device=machine("cuda", where_chip, "bf16"))


def model(chip: str, lanes: int, like: Gpu | None = None) -> Gpu:
    """Times on the usual GPU of a chip."""
    where = machine("cuda", chip, "bf16")
    k = gpu_constants(where)
    assert k is not None
    return Gpu(k, where, STEPS, lanes, like)


def steps() -> Iterator[str]:
    """Rows of steps of a persistent kernel."""
    for cell in CELLS:
        for units in UNITS:
            c = plan_of(cell, units, "sm_90").components[0]
            streamed = able(c, "sm_90")[0] == "streamed"
            first = model("sm_90", LANES[0])
            for lanes in LANES:
                m = model("sm_90", lanes, first)
                forward, backward = (m.exchanging(c, way, streamed) for way in (False, True))
                layout, _ = m.kernel(c, False, streamed)
                name = f"{'streamed' if streamed else 'persistent'}, {layout.programs} x {layout.lanes}"
                times = f"{row(forward)} | {row(backward)} | {forward.us + backward.us:.2f}"
                yield f"| {cell} | {lanes} | {units} | {name} | {times} |"


def row(cost: Cost) -> str:
    """Time and parts of a step."""
    parts = ", ".join(f"{part} {us:.2f}" for part, us in cost.parts.items())
    return f"{cost.us:.2f} | {parts}"


def able(c: Component, chip: str) -> list[str]:
    """Runners of a GPU that take a loop."""
    where = machine("cuda", chip, "bf16")
    return [r.name for r in TABLE if r.devices and not r.by_name and not r.refuses(c, where)]


def wins() -> Iterator[str]:
    """Rows of runners, `auto`'s first, then by their times."""
    for cell, units in RUNNERS:
        for chip in PLANNED:
            plan = plan_of(cell, units, chip)
            c, given = plan.components[0], outputs_read(plan, plan.components[0])
            first = model(chip, LANES[0])
            models = [model(chip, n, first) for n in LANES]
            fused = ["torch-fused"] if not isinstance(c.vanilla, str) else []
            names = [*able(c, chip)[:1], *fused, "torch"]
            costs = {name: [m.loop(c, name, True, given) for m in models] for name in names}
            taken = plan.choices[0].runner
            for name in sorted(names, key=lambda name: (name != taken, costs[name][1].us)):
                times = " | ".join(f"{x.us:.3g}" for x in costs[name])
                gpu = CHIPS[USUAL[chip]].name
                yield f"| {cell} | {units} | {gpu} | {name} | {times} | {parts_text(costs[name][1])} |"


def page() -> str:
    """The whole page."""
    checks = list(check(kept_rows()))
    return "\n".join([HEAD, *steps(), WINS, *wins(), MEASURED, *table(checks)]) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "expected.md")
    asked = parser.parse_args()
    asked.out.write_text(page(), encoding="utf-8")
    print(f"written: {asked.out}")


if __name__ == "__main__":
    main()
