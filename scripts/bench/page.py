"""Write docs/performance.md from the rows that exist, and say which are missing.

python -m scripts.bench.page [--rows FILE] [--out docs/performance.md] [--no-pictures]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from scripts.bench import rows
from scripts.bench.cases import Case
from scripts.bench.limits import Limits
from scripts.bench.page_growth import growth
from scripts.bench.page_tables import (
    DTYPES,
    everybody,
    medians,
    memory,
    number,
    products,
    speeds,
    starts,
    streams,
    table,
    times,
    updates,
    workers,
)
from scripts.bench.predicted import of_row
from scripts.bench.rows import Row
from scripts.bench.tables import SETS, TABLES
from scripts.bench.where import ROOT

OUT = ROOT / "docs" / "performance.md"
HEAD = """\
# Performance

Written by `python -m scripts.bench.page` from `scripts/bench/results/rows.jsonl`; no figure is typed in.
Each row there has the commit, the machine, all versions and what the columns below are made of. `python
-m scripts.bench.run --tables cpu` (or `gpu`) measures what is missing and goes on where it stopped.

All systems of a case have the same weights and take turns on fresh random data in rotating buffers, with
the caches written over in between. Times are medians; **ratios are medians of the ratios inside one
turn**, so that a machine that is slow for a while is slow for all. A ratio says how many times faster
`intrastream` is (below 1: slower). A case is refused when any system's output, input gradient or weight
gradients are further from float64 than rounding explains; float64 is checked against the tests' oracle.
All systems multiply their input, except where it says `without input product`. MB: the peak of tensors
alive at once during a call, beyond what lived before; on a CPU it is counted op by op, and empty where
code without ops makes them. The limit: the time for the case's arithmetic at the rate of a large product,
or for its least traffic at the rate of a large copy, whichever is longer, both measured in the same run;
it knows nothing of steps that must wait for each other. `runner` is what `auto` chose.

`python -m scripts.bench.guard` measures ten cases against the last rows that were kept and fails when
ours has become more than 10 % slower beside an eager loop in the same turns. It is run by hand: a busy
machine can fail it.
"""
NOTES = {
    "d": "Two layers of the peephole LSTM, forward and backward. none: nothing is hoisted, every step one by "
    "one; intra: as planned.",
    "e": "Forward and backward. Below: the longest chunk whose tensors fit into so many MB, inputs included.",
    "f": "An LSTM; slopes of log time (log memory) over log size, between the two largest. Plans: CPU time.",
    "g": "A fresh process from its start to the end of the first forward and backward; cold: with empty "
    "caches of generated and compiled code.",
    "h": "Random utterances of TIMIT's shape from memory: padding and normalising, two layers, classifier, "
    "cross-entropy, clipping, Adam. Shares are of updates in which every part waits for the device.",
    "i": "Updates of the trainer, gradients added up over all processes. each: as many lanes in each process "
    "as one alone has; shared: the lanes of one are shared out. Efficiency: frames a second of each process "
    "beside those of one alone, of neighbouring turns. On a CPU the processes share its threads.",
    "m": "Our Triton matmul, and the two products of its gradient.",
}
NO_GPU = (
    "## GPU\n\nNo row: nothing here has been measured on a GPU. `scripts/bench/gpu_check.sh` and "
    "`scripts/bench/gpu_full.sh` add rows."
)

RENDER: Mapping[str, tuple[Callable[[Sequence[Row]], str], ...]] = {
    "a": (speeds, everybody),
    "b": (speeds, everybody),
    "c": (speeds,),
    "d": (streams,),
    "e": (memory,),
    "f": (growth,),
    "g": (starts,),
    "h": (updates,),
    "i": (workers,),
    "m": (products,),
}


def title(machine: tuple[str, str, int]) -> str:
    """What a machine is called."""
    gpu, cpu, threads = machine
    return gpu or f"{cpu}, {threads} thread{'s' if threads > 1 else ''}"


def section(machine: tuple[str, str, int], found: Sequence[Row], images: Path | None) -> str:
    """Everything of one machine."""
    most = machine_limits(found)
    found = [limited(r, most) for r in found]
    codes = list(dict.fromkeys((r.commit, r.code, r.dirty) for r in found))
    dates = sorted(r.date[:10] for r in found)
    versions = sorted({f"torch {r.torch}, triton {r.triton or 'absent'}, Python {r.python}" for r in found})
    states = ", ".join(
        f"{commit} (code {code}{', changed' if dirty else ''})" for commit, code, dirty in codes
    )
    parts = [
        f"## {title(machine)}",
        f"{len(found)} rows of {dates[0]} to {dates[-1]}; {'; '.join(versions)}; commits {states}.",
        limits(most),
        summary(found),
        model(found),
    ]
    if images:
        from scripts.bench import plot

        parts += [f"![{what}](images/{path.name})" for what, path in plot.draw(found, images, machine)]
    for letter, name in TABLES.items():
        mine = [r for r in found if r.table == letter]
        texts = [text for render in RENDER.get(letter, ()) if mine and (text := render(mine))]
        if letter in NOTES and texts:
            texts.insert(0, NOTES[letter])
        if texts:
            parts += [f"### {name}", *texts]
    parts += ["### What is missing", missing(machine, found)]
    return "\n\n".join(part for part in parts if part)


def machine_limits(found: Sequence[Row]) -> Limits | None:
    """The highest ceilings of all runs on a machine: what disturbed one run did not disturb them all."""
    flops: dict[str, float] = {}
    for r in found:
        if r.ceiling_flops:
            flops[r.dtype] = max(flops.get(r.dtype, 0.0), r.ceiling_flops)
    copied = [r.ceiling_bytes for r in found if r.ceiling_bytes]
    return Limits(flops, max(copied)) if flops and copied else None


def limited(row: Row, machine: Limits | None) -> Row:
    """The row with its share of these limits."""
    if machine is None or row.limit is None or row.dtype not in machine.flops:
        return row
    floor = 1e3 * machine.floor(row.dtype, row.flops, row.bytes)
    return replace(row, floor_ms=floor, limit=floor / row.p50_ms)


def limits(machine: Limits | None) -> str:
    """The measured ceilings behind `of the limit`."""
    if machine is None:
        return ""
    rates = ", ".join(f"{number(v / 1e9)} GFLOP/s in {DTYPES.get(k, k)}" for k, v in machine.flops.items())
    return f"Limits (the highest of all runs): {rates}; {number(machine.bandwidth / 1e9)} GB/s copied."


def summary(found: Sequence[Row]) -> str:
    """How many times faster than others, over all cases of a table."""
    lines = [
        [TABLES[t], other, n, times(worst), times(middle), times(best)]
        for t, other, n, worst, middle, best in medians(found)
    ]
    heads = ["forward and backward", "ours against", "cases", "worst", "median", "best"]
    return table(heads, lines) if lines else ""


def model(found: Sequence[Row]) -> str:
    """How far the model of cost, as it is now, is from what was measured."""
    by_pass: dict[str, list[float]] = {}
    for r in found:
        if guess := of_row(r):
            by_pass.setdefault(r.pass_, []).append(guess / r.p50_ms)
    lines = [
        [
            p,
            len(v),
            f"{100 * median(abs(x - 1) for x in v):.0f} %",
            f"{median(v):.2f}",
            f"{min(v):.2f} to {max(v):.2f}",
        ]
        for p, v in by_pass.items()
    ]
    heads = ["model of cost", "rows of ours", "median error", "median of predicted / measured", "range"]
    return table(heads, lines) if lines else ""


def missing(machine: tuple[str, str, int], found: Sequence[Row]) -> str:
    """Cases without rows, systems that took no part and why."""
    wanted = list(SETS["gpu" if machine[0] else "cpu"]())
    have = {(r.table, r.case, r.dtype) for r in found}
    absent: dict[str, list[Case]] = {}
    for case in wanted:
        if (case.table, case.name, case.dtype) not in have:
            absent.setdefault(case.table, []).append(case)
    total = {t: sum(c.table == t for c in wanted) for t in absent}
    lines = []
    for letter, cases in absent.items():
        names = "; ".join(f"{c.name} {DTYPES.get(c.dtype, c.dtype)}" for c in cases[:6])
        more = f"; and {len(cases) - 6} more" if len(cases) > 6 else ""
        lines.append(f"- {TABLES[letter]}: {len(cases)} of {total[letter]} cases: {names}{more}.")
    lines = lines or ["- No case."]
    reasons: dict[tuple[str, str], int] = {}
    for r in {(r.table, r.case, r.dtype): r for r in found}.values():
        for entry, why in r.declined.items():
            reasons[entry, why] = reasons.get((entry, why), 0) + 1
    declined = [[entry, why, n] for (entry, why), n in sorted(reasons.items())]
    if declined:
        lines += ["", "Took no part:", "", table(["system", "why", "cases"], declined)]
    return "\n".join(lines)


def page(found: Iterable[Row], images: Path | None = None) -> str:
    """The whole page; pictures go to `images`, if given."""
    kept = list(rows.latest(found).values())
    machines = list(dict.fromkeys(r.machine for r in kept))
    parts = [HEAD]
    for machine in sorted(machines, key=lambda m: not m[0]):
        parts.append(section(machine, list(rows.of_machine(kept, machine)), images))
    if not any(gpu for gpu, _, _ in machines):
        parts.append(NO_GPU)
    if not machines:
        parts.append("## CPU\n\nNo row.")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, default=rows.KEPT)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--no-pictures", action="store_true")
    args = parser.parse_args(arguments)
    found = rows.read(args.rows)
    images = None if args.no_pictures else args.out.parent / "images"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page(found, images), encoding="utf-8")
    print(f"{len(found)} rows, written: {args.out}")


if __name__ == "__main__":
    main()
