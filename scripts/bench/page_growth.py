"""Time and memory against one size that grows, with slopes: table f of the performance page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scripts.bench.page_tables import number, table
from scripts.bench.rows import Row


def slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Of log y over log x between two points."""
    return math.log(b[1] / a[1]) / math.log(b[0] / a[0])


def growth(rows: Sequence[Row]) -> str:
    """Table f: time and memory against one size, with slopes between the two largest."""
    timed = [r for r in rows if r.pass_ != "plan"]
    lines = []
    for axis, system, found in series(timed):
        points = [(getattr(r, axis), r.p50_ms) for r in found]
        bytes_ = [(getattr(r, axis), float(r.peak_bytes)) for r in found if r.peak_bytes]
        sizes = ", ".join(str(x) for x, _ in points)
        milliseconds = ", ".join(number(y) for _, y in points)
        peaks = ", ".join(number(y / 2**20) for _, y in bytes_)
        tail = f"{slope(*bytes_[-2:]):.2f}" if len(bytes_) > 1 else ""
        lines.append([axis, system, sizes, milliseconds, f"{slope(*points[-2:]):.2f}", peaks, tail])
    heads = ["grows", "system", "sizes", "ms", "slope", "MB", "slope"]
    parts = [table(heads, lines)] if lines else []
    if planned := planning([r for r in rows if r.pass_ == "plan"]):
        parts.append(planned)
    return "\n\n".join(parts)


def series(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """(size that grows, system, rows in its order): those that agree with the smallest row in all else."""
    out = []
    axes = ("T", "B", "H", "layers")
    for system in dict.fromkeys(r.system for r in rows):
        mine = [r for r in rows if r.system == system]
        base = min(mine, key=lambda r: [getattr(r, a) for a in axes])
        for axis in axes:
            rest = [a for a in axes if a != axis]
            found = [r for r in mine if all(getattr(r, a) == getattr(base, a) for a in rest)]
            if len(found) > 1:
                out.append((axis, system, sorted(found, key=lambda r: getattr(r, axis))))
    return out


def planning(rows: Sequence[Row]) -> str:
    """Table f: planning time against the number of nodes."""
    by_shape: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: int(r.figures["nodes"] or 0)):
        by_shape.setdefault(str(row.options["shape"]), []).append(row)
    lines = []
    for shape, found in by_shape.items():
        sizes = [float(r.figures["nodes"] or 0) for r in found]
        cells = [shape, ", ".join(f"{n:.0f}" for n in sizes)]
        for values in (
            [float(r.figures["load_ms"] or 0) for r in found],
            [r.p50_ms for r in found],
            [float(r.figures["text_ms"] or 0) for r in found],
        ):
            points = list(zip(sizes, values, strict=True))[-2:]
            cells.append(", ".join(map(number, values)) + (f" ({slope(*points):.2f})" if points[1:] else ""))
        lines.append(cells)
    heads = ["graph", "nodes", "load, ms (slope)", "plan, ms (slope)", "text, ms (slope)"]
    return table(heads, lines) if lines else ""
