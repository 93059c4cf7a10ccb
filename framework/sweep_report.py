"""What a sweep has found, for a person: a table, and pictures of which options mattered and how."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from framework.errors import ConfigError
from framework.history import differing, find_runs, read_run
from framework.importance import FEWEST, importance
from framework.sweep_state import is_sweep, read_sweep

PATHS = 6  # options with a place in the pictures, the most important ones
IN_A_LINE = 3


@dataclass(frozen=True)
class Row:
    """One job: its values as texts, the best metric on dev, that on test, and what it cost."""

    name: str
    state: str
    values: dict[str, str]
    dev: float | None
    test: float | None
    updates: int
    seconds: float | None
    weights: int | None


@dataclass(frozen=True)
class Report:
    """A sweep: its rows, the best first, and which options were gone through."""

    folder: Path
    rows: list[Row]
    keys: list[str]
    metric: str
    higher: bool

    @property
    def done(self) -> list[Row]:
        """The rows with a result."""
        return [row for row in self.rows if row.dev is not None]

    @cached_property
    def importance(self) -> dict[str, float]:
        """Option -> the part of the results' spread that it explains; empty for too few jobs."""
        rows = self.done
        keys = [key for key in self.keys if len({row.values[key] for row in rows}) > 1]
        return importance([row.values for row in rows], [row.dev or 0.0 for row in rows], keys)


def report(folder: Path) -> Report:
    """The report of a sweep, or of any folder of runs, whose differing options are then its values.

    Raises ConfigError when there are no runs, or they have different metrics.
    """
    known = {path: read_run(path) for path in find_runs(folder)} if folder.is_dir() else {}
    if is_sweep(str(folder)):
        made = read_sweep(folder)
        keys = list(dict.fromkeys(key for job in made.jobs for key in job.values))
        jobs = [(made.run_folder(job), job.state, job.values) for job in made.jobs]
    else:
        runs = list(known.values())
        keys = differing(runs)
        jobs = [
            (r.folder, "done" if r.end else "unfinished", {k: str(r.options.get(k, "")) for k in keys})
            for r in runs
        ]
    if not jobs:
        raise ConfigError(str(folder), "there is no sweep and no run in it", "Give runs/NAME_sweep.")
    metrics = {(run.metric, run.higher) for run in known.values() if run.evals}
    if len(metrics) > 1:
        names = " and ".join(sorted(name for name, _ in metrics))
        raise ConfigError(str(folder), f"its runs have different metrics: {names}", "Give runs of one task.")
    metric, higher = next(iter(metrics), ("", True))
    rows = []
    for path, state, values in jobs:
        run = known.get(path)
        best = run.best if run else None
        test = run.end.get(metric) if run else None
        rows.append(
            Row(
                str(path.relative_to(folder)),
                state,
                values,
                best[0] if best else None,
                test if isinstance(test, int | float) else None,
                run.last_step if run else 0,
                run.end.get("seconds") if run else None,
                run.start.get("weights") if run else None,
            )
        )
    rows.sort(key=lambda row: (row.dev is None, (row.dev or 0.0) * (-1 if higher else 1)))
    return Report(folder, rows, keys, metric, higher)


# ---- tables


def table(found: Report) -> list[list[str]]:
    """Head and rows as texts."""
    head = ["job", "state", *found.keys, f"dev {found.metric}", f"test {found.metric}"]
    lines = [[*head, "weights", "updates", "seconds"]]
    for row in found.rows:
        results = ["" if value is None else f"{value:.4f}" for value in (row.dev, row.test)]
        cost = [str(row.weights or ""), str(row.updates), "" if row.seconds is None else f"{row.seconds:.0f}"]
        lines.append([row.name, row.state, *(row.values.get(key, "") for key in found.keys), *results, *cost])
    return lines


def as_csv(lines: Sequence[Sequence[str]]) -> str:
    """The table for other programs."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def as_markdown(found: Report, pictures: Sequence[Path]) -> str:
    """The whole report: what was best, what mattered, the table."""
    lines = table(found)
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rows = [f"| {' | '.join(line)} |" for line in escaped]
    failed = sum(row.state == "failed" for row in found.rows)
    parts = [f"# {found.folder.resolve().name}", ""]
    parts += [f"{len(found.done)} of {len(found.rows)} jobs have a result, {failed} failed.", ""]
    if found.done:
        best = found.done[0]
        values = " ".join(f"{key}={value}" for key, value in best.values.items())
        parts += [f"Best: job {best.name}, dev {found.metric} {best.dev:.4f}: `{values}`", ""]
    if parts_of := found.importance:
        parts += ["| option | part of the spread that it explains |", "|---|---:|"]
        parts += [f"| {key} | {value:.2f} |" for key, value in parts_of.items()] + [""]
    else:
        parts += [f"Which options mattered takes {FEWEST} different results or more to say.", ""]
    parts += [f"![{path.stem}]({path.name})" for path in pictures] + [""]
    return "\n".join([*parts, rows[0], "|" + "---|" * len(lines[0]), *rows[1:], ""])


# ---- pictures


def draw(found: Report, out: Path) -> list[Path]:
    """sweep_paths.png (parallel coordinates) and sweep_importance.png in `out`; none without results."""
    from matplotlib.figure import Figure  # lazily: it takes a second to load

    rows = found.done
    if len(rows) < 2:
        return []
    parts = found.importance
    keys = sorted(
        (k for k in found.keys if len({r.values[k] for r in rows}) > 1), key=lambda k: -parts.get(k, 0)
    )
    keys = keys[:PATHS]
    if not keys:
        return []
    paths = Figure(figsize=(2.0 * len(keys) + 3.5, 4.2), layout="constrained")
    _draw_paths(paths, found, rows, keys)
    written = [out / "sweep_paths.png", out / "sweep_importance.png"]
    paths.savefig(written[0], dpi=110)
    lines = -(-len(keys) // IN_A_LINE)
    shown = Figure(figsize=(3.6 * min(len(keys), IN_A_LINE), 3.0 * lines), layout="constrained")
    all_axes = shown.subplots(lines, min(len(keys), IN_A_LINE), sharey=True, squeeze=False).flatten()
    for axes, key in zip(all_axes, keys, strict=False):
        _draw_option(axes, found, rows, key, parts.get(key))
    for axes in all_axes[len(keys) :]:
        axes.set_visible(False)
    shown.savefig(written[1], dpi=110)
    return written


def _draw_paths(figure: Any, found: Report, rows: Sequence[Row], keys: Sequence[str]) -> None:
    """A line a job through its values, the best drawn last and brightest."""
    axes = figure.subplots()
    dev = np.array([row.dev for row in rows], dtype=float)
    heights = [_heights([row.values[key] for row in rows]) for key in keys]
    low, high = dev.min(), dev.max()
    score = (dev - low) / (high - low) if high > low else np.full(len(dev), 0.5)
    colours = _colours()
    for i in reversed(range(len(rows))):  # rows stand with the best first
        good = score[i] if found.higher else 1 - score[i]
        line = [places[i] for places, _, _ in heights] + [score[i]]
        width = 2.6 if i == 0 else 1.2
        axes.plot(
            range(len(line)), line, color=colours(good), linewidth=width, alpha=0.95 if i == 0 else 0.75
        )
    for x, (_, ticks, labels) in enumerate(heights):
        axes.axvline(x, color="0.6", linewidth=0.8)
        box = {"facecolor": "white", "alpha": 0.9, "edgecolor": "none", "pad": 1.0}
        for y, label in zip(ticks, labels, strict=True):
            axes.annotate(label, (x, y), (5, 0), textcoords="offset points", size=8, va="center", bbox=box)
    axes.axvline(len(keys), color="0.2", linewidth=1.2)
    for value in np.linspace(low, high, 5):
        y = (value - low) / (high - low) if high > low else 0.5
        axes.annotate(
            f"{value:.4g}", (len(keys), y), (6, 0), textcoords="offset points", fontsize=8, va="center"
        )
    axes.set_xticks(range(len(keys) + 1), [*map(_short, keys), f"dev {found.metric}"])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(keys) + 0.35)
    axes.set_title(f"{len(rows)} jobs, the thick line is the best", fontsize=10)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_option(axes: Any, found: Report, rows: Sequence[Row], key: str, part: float | None) -> None:
    """Results over the values of one option; words side by side."""
    places, ticks, labels = _heights([row.values[key] for row in rows])
    axes.plot(places, [row.dev for row in rows], "o", markersize=5, alpha=0.8)
    axes.set_xticks(ticks, labels, fontsize=8, rotation=20 if max(map(len, labels)) > 8 else 0)
    axes.set_xlim(-0.12, 1.12)
    axes.set_title(_short(key) + ("" if part is None else f": explains {part:.0%}"), fontsize=10)
    axes.grid(alpha=0.3)
    if axes.get_subplotspec().is_first_col():
        axes.set_ylabel(f"dev {found.metric}")


def _scale(values: Sequence[str]) -> tuple[np.ndarray | None, bool]:
    """Values as numbers (None for words), and whether they are for a log scale."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None, False
    return numbers, bool(numbers.min() > 0 and numbers.max() >= 10 * numbers.min())


def _heights(values: Sequence[str]) -> tuple[list[float], list[float], list[str]]:
    """Where values lie on an axis from 0 to 1, and its ticks with their labels."""
    numbers, log = _scale(values)
    names = sorted(set(values), key=lambda text: (float(text) if numbers is not None else 0.0, text))
    if numbers is None or len(names) <= 4:
        places = {name: i / max(len(names) - 1, 1) for i, name in enumerate(names)}
        return [places[value] for value in values], list(places.values()), names
    along = np.log10(numbers) if log else numbers
    low, high = along.min(), along.max()
    ticks = np.linspace(low, high, 4)
    labels = [f"{10**tick if log else tick:.3g}" for tick in ticks]
    return ((along - low) / (high - low)).tolist(), ((ticks - low) / (high - low)).tolist(), labels


def _colours() -> Any:
    from matplotlib import colormaps

    return colormaps["viridis_r"]


def _short(key: str) -> str:
    """The end of an option's name."""
    return key.split(".")[-1]
