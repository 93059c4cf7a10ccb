"""Rows as Markdown tables: one function for each kind of table, all from the rows of one machine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from scripts.bench.rows import Row
from scripts.bench.system import OURS

Groups = dict[tuple[str, str, str], dict[str, Row]]  # (case, dtype, pass) -> name of a system -> row
PASSES = {
    "forward": "fwd",
    "forward+backward": "both",
    "train step": "update",
    "start": "start",
    "plan": "plan",
}
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}


def table(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    rows = ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
    return "\n".join([f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *rows])


def grouped(rows: Iterable[Row]) -> Groups:
    """Rows that were measured side by side."""
    out: Groups = {}
    for row in rows:
        out.setdefault((row.case, row.dtype, row.pass_), {})[row.system] = row
    return out


def number(value: float) -> str:
    """Three digits."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def times(value: float | None) -> str:
    """A ratio."""
    return "" if value is None else f"{value:.2f}x"


def megabytes(value: int | None) -> str:
    """Of bytes; empty where nobody counted."""
    return "" if value is None else number(value / 2**20)


def share(value: float | None) -> str:
    """As percent."""
    return "" if value is None else f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.1f} %"


def faster(group: Mapping[str, Row], other: str) -> float | None:
    """How many times faster ours is than the other one."""
    mine = group.get(OURS)
    return mine.ratios.get(other) if mine else None


def what(key: tuple[str, str, str]) -> list[str]:
    """The first columns of a line."""
    case, dtype, pass_ = key
    return [case, DTYPES.get(dtype, dtype), PASSES[pass_]]


def speeds(rows: Sequence[Row]) -> str:
    """A line for each case: ours, and how many times faster it is than those that take part often."""
    groups = {key: group for key, group in grouped(rows).items() if OURS in group}
    if not groups:
        return ""
    counts = Counter(row.entry for group in groups.values() for row in group.values())
    others = [entry for entry, n in counts.items() if entry != OURS and 3 * n > len(groups)]
    lines = []
    for key, group in groups.items():
        mine = group[OURS]
        named = {row.entry: name for name, row in group.items()}
        runner = mine.figures.get("runner", "")
        first = [*what(key), number(mine.p50_ms), runner, number(mine.us_per_step), share(mine.limit)]
        ratios = (times(mine.ratios.get(named.get(entry, ""))) for entry in others)
        lines.append([*first, megabytes(mine.peak_bytes), *ratios])
    return table(["case", "dtype", "pass", "ms", "runner", "us a step", "of the limit", "MB", *others], lines)


def everybody(rows: Sequence[Row]) -> str:
    """Cases with many systems: a line for each system."""
    parts = []
    by_case: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in rows:
        by_case.setdefault((row.case, row.dtype), {}).setdefault(row.system, {})[row.pass_] = row
    for (case, dtype), systems in by_case.items():
        if len(systems) < 6:
            continue
        mine = systems.get(OURS, {})
        lines = []
        for name, found in systems.items():
            cells = []
            for pass_ in ("forward", "forward+backward"):
                row, own = found.get(pass_), mine.get(pass_)
                ratio = own.ratios.get(name) if own else None
                cells += [number(row.p50_ms) if row else "", "" if name == OURS else times(ratio)]
            last = found.get("forward+backward") or next(iter(found.values()))
            cells += [megabytes(last.peak_bytes), number(float(last.figures.get("first_s") or 0))]
            version = last.version if name.split()[0] != OURS else last.commit
            lines.append([name, version, *cells])
        heads = ["system", "version", "fwd, ms", "ours is", "both, ms", "ours is", "MB", "first call, s"]
        parts.append(f"{case}, {DTYPES.get(dtype, dtype)}:\n\n{table(heads, lines)}")
    return "\n\n".join(parts)


def streams(rows: Sequence[Row]) -> str:
    """Table d: streams, and parallel inside one or not."""
    none = f"{OURS} parallel=none"
    groups = [g for g in grouped(rows).values() if OURS in g and none in g]
    groups.sort(key=lambda g: g[OURS].B)
    if not groups:
        return ""
    one = next((g[none] for g in groups if g[none].B == 1), None)
    lines = []
    for g in groups:
        mine, other = g[OURS], g[none]
        cells = [mine.B]
        for row in (other, mine):
            frames = 1e3 * row.B * row.T / row.p50_ms
            base = 1e3 * one.B * one.T / one.p50_ms if one else None
            cells += [number(frames / 1e3), times(frames / base) if base else ""]
        cells += [times(mine.ratios[none]), megabytes(other.peak_bytes), megabytes(mine.peak_bytes)]
        lines.append([*cells, share(other.limit), share(mine.limit)])
    heads = ["streams", "none: frames/ms", "of 1 stream", "intra: frames/ms", "of 1 stream, none"]
    return table(
        [*heads, "intra over none", "none, MB", "intra, MB", "none, of the limit", "intra, of the limit"],
        lines,
    )


def memory(rows: Sequence[Row]) -> str:
    """Table e: time and peak of ways to keep less, beside others; the longest chunk that fits."""
    lines = []
    for group in grouped(r for r in rows if "largest T" not in r.figures).values():
        mine = group.get(OURS)
        for name, row in group.items():
            time = row.ratios.get(OURS)
            peak = row.peak_bytes / mine.peak_bytes if mine and mine.peak_bytes and row.peak_bytes else None
            cells = [
                row.case,
                name,
                number(row.p50_ms),
                times(1 / time) if time else "",
                megabytes(row.peak_bytes),
            ]
            lines.append([*cells, times(peak) if row is not mine else ""])
    parts = [table(["case", "system", "ms", "time of ours", "MB", "memory of ours"], lines)] if lines else []
    fits = []
    for row in rows:
        if "largest T" in row.figures:
            steps, most = row.figures["largest T"], row.figures["looked up to T"]
            more = " or more" if steps == most else ""
            fits.append(
                [row.options["cell"], row.B, row.H, row.options["megabytes"], row.system, f"{steps}{more}"]
            )
    if fits:
        parts.append(table(["cell", "B", "H", "MB given", "system", "largest T"], fits))
    return "\n\n".join(parts)


def starts(rows: Sequence[Row]) -> str:
    """Table g: seconds of a process until its first step is done, and their parts."""
    parts = ("import torch s", "import ours s", "plan s", "build s", "first step s", "second step s")
    lines = []
    for row in rows:
        cells = [row.options["cell"], row.options["caches"], row.system, number(row.p50_ms / 1e3)]
        lines.append([*cells, *(number(float(row.figures[p] or 0)) for p in parts)])
    heads = ["cell", "caches", "system", "first step done, s", *(p.removesuffix(" s") + ", s" for p in parts)]
    return table(heads, lines) if lines else ""


def updates(rows: Sequence[Row]) -> str:
    """Table h: a whole update, and where its time goes."""
    names = ("data", "network", "classifier and loss", "clipping and Adam")
    lines = []
    for group in grouped(rows).values():
        for name, row in group.items():
            shares = [share(float(row.figures[f"share {n}"] or 0)) for n in names]
            speed = row.figures["frames_per_s"]
            lines.append([row.case, name, number(row.p50_ms), speed, *shares, times(faster(group, name))])
    heads = ["case", "system", "ms", "frames/s", *names, "ours is"]
    return table(heads, lines) if lines else ""


def workers(rows: Sequence[Row]) -> str:
    """Table i: what each further process brings."""
    lines = []
    for row in sorted(rows, key=lambda r: (r.case, r.figures["processes"] or 0)):
        figures = row.figures
        ratio = share(float(figures["efficiency"] or 0))
        lines.append([row.case, figures["processes"], number(row.p50_ms), figures["frames_per_s"], ratio])
    return table(["case", "processes", "ms", "frames/s", "efficiency"], lines) if lines else ""


def products(rows: Sequence[Row]) -> str:
    """Table m: our matmul against torch's."""
    lines = []
    for group in grouped(rows).values():
        mine = group.get(f"{OURS} triton")
        if mine:
            other = group.get("torch")
            rates = [number(r.flops_per_s / 1e12) if r else "" for r in (mine, other)]
            shape = f"[{mine.T * mine.B}, {mine.F}] x [{mine.F}, {mine.H}]"
            dtype = DTYPES.get(mine.dtype, mine.dtype)
            lines.append(
                [
                    mine.options["way"],
                    dtype,
                    shape,
                    *rates,
                    share(mine.limit),
                    times(mine.ratios.get("torch")),
                ]
            )
    heads = ["product", "dtype", "of", "triton, TFLOP/s", "torch, TFLOP/s", "of the limit", "triton is"]
    return table(heads, lines) if lines else ""


def medians(rows: Sequence[Row]) -> list[tuple[str, str, int, float, float, float]]:
    """(table, other, cases, worst, median, best) of how many times faster ours is, forward and backward."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.system == OURS and row.pass_ == "forward+backward" and row.table in "abc":
            for other, ratio in row.ratios.items():
                if not other.startswith(OURS):
                    found.setdefault((row.table, other), []).append(ratio)
    return [(t, o, len(v), min(v), median(v), max(v)) for (t, o), v in sorted(found.items())]
