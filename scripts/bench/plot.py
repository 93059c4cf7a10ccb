"""Pictures of the rows: how many times faster, streams, growth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.bench.page_growth import series
from scripts.bench.page_tables import grouped
from scripts.bench.rows import Row
from scripts.bench.system import OURS

COLORS = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#5b5f97", "#8d99ae")


def draw(found: Sequence[Row], folder: Path, machine: tuple[str, str, int]) -> list[tuple[str, Path]]:
    """Draw what there are rows for; (what it shows, file) of each picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    gpu, cpu, threads = machine
    place = re.sub(r"[^a-z0-9]+", "_", (gpu or f"{cpu}_{threads}").lower()).strip("_")
    out = []
    folder.mkdir(parents=True, exist_ok=True)
    for what, name, make in (
        ("How many times faster than others, forward and backward", "speed", speed),
        ("Frames a millisecond against streams", "streams", streams),
        ("Time against one size", "growth", growth),
    ):
        figure = make(pyplot, found)
        if figure is not None:
            path = folder / f"performance_{place}_{name}.png"
            figure.tight_layout()
            figure.savefig(path, dpi=110)
            pyplot.close(figure)
            out.append((what, path))
    return out


def speed(pyplot: Any, found: Sequence[Row]) -> Any:
    """Points for each case of tables a to c: ratios to the others, on a log scale; None without rows."""
    mine = [r for r in found if r.table in "abc" and r.pass_ == "forward+backward" and r.input_product]
    groups = [(key, g) for key, g in grouped(mine).items() if OURS in g]
    others = [n for n in dict.fromkeys(n for _, g in groups for n in g) if not n.startswith(OURS)]
    if not others:
        return None
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.21 * len(groups)))
    marks = "osD^v<>Ph*X"
    for k, other in enumerate(others):
        points = [(g[OURS].ratios[other], y) for y, (_, g) in enumerate(groups) if other in g[OURS].ratios]
        style = {"color": COLORS[k % len(COLORS)], "marker": marks[k % len(marks)]}
        axes.plot(
            [x for x, _ in points], [y for _, y in points], linestyle="", markersize=5, label=other, **style
        )
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    ticks = [2.0**k for k in range(-2, 8) if axes.get_xlim()[0] <= 2.0**k <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    axes.set_yticks(range(len(groups)), [f"{case} {dtype}" for (case, dtype, _), _ in groups], fontsize=7)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("intrastream is so many times faster (left of 1: slower)")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def streams(pyplot: Any, found: Sequence[Row]) -> Any:
    """Table d: frames a millisecond over the number of streams; None without rows."""
    mine = [r for r in found if r.table == "d"]
    if not mine:
        return None
    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    for k, system in enumerate(dict.fromkeys(r.system for r in mine)):
        points = sorted((r.B, r.B * r.T / r.p50_ms) for r in mine if r.system == system)
        axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=COLORS[k], label=system)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    _sizes(axes.xaxis, {r.B for r in mine})
    _plain(axes.yaxis)
    axes.set_xlabel("streams")
    axes.set_ylabel("frames a millisecond, forward and backward")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def growth(pyplot: Any, found: Sequence[Row]) -> Any:
    """Table f: milliseconds over each size that grows; None without rows."""
    lines = series([r for r in found if r.table == "f" and r.pass_ != "plan"])
    axes_names = list(dict.fromkeys(axis for axis, _, _ in lines))
    if not axes_names:
        return None
    figure, axes = pyplot.subplots(1, len(axes_names), figsize=(3 * len(axes_names), 3.2), squeeze=False)
    systems = list(dict.fromkeys(system for _, system, _ in lines))
    for axis, system, rows in lines:
        place = axes[0][axes_names.index(axis)]
        color = COLORS[systems.index(system) % len(COLORS)]
        place.loglog(
            [getattr(r, axis) for r in rows], [r.p50_ms for r in rows], "o-", color=color, label=system
        )
        place.set_xlabel(axis)
        place.grid(alpha=0.3)
    for place, axis in zip(axes[0], axes_names, strict=True):
        _sizes(place.xaxis, {getattr(r, axis) for name, _, rows in lines if name == axis for r in rows})
        _plain(place.yaxis)
    axes[0][0].set_ylabel("ms, forward and backward")
    axes[0][0].legend(fontsize=7)
    return figure


def _sizes(axis: Any, measured: Iterable[int]) -> None:
    """Marks where something was measured, and nowhere else."""
    marks = sorted(measured)
    axis.set_ticks(marks, [str(mark) for mark in marks])
    axis.set_ticks([], minor=True)


def _plain(axis: Any) -> None:
    """A log axis with numbers as one reads them, 20 and not 2 x 10^1."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
