"""Write docs/expected.md: what a step of a persistent kernel should take on an H200, added up from its parts.

    python -m scripts.bench.expected [--out docs/expected.md]

Nothing here is measured: it is there so that the first measurement can be held against it, part by part. The
layouts are those that plans choose; the costs of parts are assumptions, each with its reason, in COSTS.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from framework.component import Component
from framework.load import load_graph
from framework.machine import Machine, machine
from framework.persistent import backward_code, forward_code
from framework.persistent_fit import layout_of
from framework.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
# Expected time of a step

Written by `python -m scripts.bench.expected`. **Nothing on this page is measured.** It adds up the parts of a
step (assumed costs and their reasons: `scripts/bench/expected.py`) for the layouts that plans choose for an
H200 (sm_90, 132 multiprocessors, bf16), in microseconds, so that a first measurement can be held against it.

Parts: barrier; sources (what others have computed, from L2, and its latency); products (matrices from shared
memory); pointwise. Tiles of lanes that do not fit side by side follow one another (x2 and so on). Published
figures to pass, nn.LSTM with cuDNN in fp16 on an H100 at B = 16, H = 768: 1.96 forward, 5.07 both, with its
input product.

| cell | B | H | programs x lanes | forward | parts | backward | parts | both |
|---|---|---|---|---|---|---|---|---|"""
CELLS = ("lstm", "gru_cudnn", "lstm_peephole")
LANES = (1, 16, 64, 256)
UNITS = (128, 256, 512, 768, 1024, 1536, 2048)


@dataclass(frozen=True)
class Costs:
    """Of an H200, in microseconds and bytes per microsecond."""

    # A load that hits L2: some 260 cycles at 1.75 GHz and more from its far half, an assumption.
    l2: float = 0.18
    # A barrier: stores reach L2 (there and back), the release, and polls that see the last arrival (one and
    # a half on average).
    trips: float = 3.5
    # Of one multiprocessor from L2: 64 bytes a cycle.
    l2_bytes: float = 64 * 1750.0
    # Of the whole L2: 5.5 TB/s.
    all_l2_bytes: float = 5.5e6
    # Matrices come from shared memory for every product: 128 bytes a cycle.
    shared_bytes: float = 128 * 1750.0
    # Taking gates apart, sigmoids and tanhs of 16 units x 16 lanes, converting: latency, hardly work.
    pointwise: float = 0.25


COSTS = Costs()


@dataclass(frozen=True)
class Step:
    """Expected microseconds of one step, and its parts. `rounds`: tiles of lanes one after the other."""

    barrier: float
    sources: float
    products: float
    pointwise: float
    rounds: int

    @property
    def total(self) -> float:
        """All parts, for all tiles."""
        return self.rounds * (self.barrier + self.sources + self.products + self.pointwise)


def component(cell: str, units: int) -> Component:
    """The loop of a shared cell."""
    nodes = {"l": {"cell": cell, "size": units, "in": "x"}}
    graph = load_graph({"inputs": {"x": {"size": units}}, "nodes": nodes, "outputs": ["l"]})
    return make_plan(graph).components[0]


def step(c: Component, lanes: int, where: Machine, backward: bool) -> Step:
    """The expected step of a loop on a machine."""
    layout = layout_of(c, where).at(lanes)
    code = backward_code(c, layout, False) if backward else forward_code(c, layout, True, False)
    matrices = code.numbers if layout.programs > 1 else sum(
        (run.hi - run.lo) * c.cell[run.source].size for run in c.runs
    )  # fmt: skip
    barriers = code.text.count("wait(p_bar")
    tiles = -(-lanes // layout.lanes)
    together = min(tiles, layout.groups if layout.programs > 1 else where.units)
    read = 0.0
    if layout.programs > 1:  # what each program reads: all units of every source
        ways = ((r.hi - r.lo, c.cell[r.source].size) for r in c.runs)
        width = sum(rows if backward else columns for rows, columns in ways)
        read = width * min(lanes, layout.lanes) * where.itemsize
    programs = layout.programs * together
    transfer = max(read / COSTS.l2_bytes, programs * read / COSTS.all_l2_bytes)
    return Step(
        barriers * COSTS.trips * COSTS.l2,
        (COSTS.l2 if read else 0.0) * barriers + transfer,
        matrices * where.itemsize / COSTS.shared_bytes,
        COSTS.pointwise * max(1, barriers),
        -(-tiles // together),
    )


def page() -> str:
    """The whole page."""
    where = machine("cuda", "sm_90", "bf16")
    lines = [HEAD]
    for cell in CELLS:
        for units in UNITS:
            c = component(cell, units)
            for lanes in LANES:
                layout = layout_of(c, where).at(lanes)
                ways = [step(c, lanes, where, backward) for backward in (False, True)]
                cells = [f"{w.total:.2f} | {parts(w)}" for w in ways]
                both = sum(w.total for w in ways)
                first = f"{cell} | {lanes} | {units} | {layout.programs} x {layout.lanes}"
                lines.append(f"| {first} | {cells[0]} | {cells[1]} | {both:.2f} |")
    return "\n".join(lines) + "\n"


def parts(w: Step) -> str:
    """The parts of a step in words."""
    rounds = f" x{w.rounds}" if w.rounds > 1 else ""
    return f"{w.barrier:.2f} + {w.sources:.2f} + {w.products:.2f} + {w.pointwise:.2f}{rounds}"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "expected.md")
    asked = parser.parse_args()
    asked.out.write_text(page(), encoding="utf-8")
    print(f"written: {asked.out}")


if __name__ == "__main__":
    main()
