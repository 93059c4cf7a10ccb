"""What is left of a run for a person: curves.png and a few lines of text."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from framework.console import clock
from framework.logging import read_log, warn


def draw_curves(folder: Path, metric: str) -> Path | None:
    """Draw loss, the task's metric and frames/s over updates from metrics.jsonl into curves.png.

    Returns the picture's path, or None while there is nothing to draw.
    """
    records = [_numbers(record) for record in read_log(folder / "metrics.jsonl")]
    steps = [r for r in records if r["kind"] == "step"]
    evals = [r for r in records if r["kind"] == "eval"]
    if not steps and not evals:
        return None
    # Figure, not pyplot: no window system, no global state. Lazily: matplotlib takes a second to load.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    loss, score, speed = figure.subplots(1, 3)
    _line(loss, steps, "loss", "train", alpha=0.6)
    _line(loss, evals, "loss", "dev", marker="o")
    shown = [metric, *sorted({k for r in evals for k in r if k.startswith(metric + "_")})]
    _line(score, steps, metric, "train", alpha=0.6)
    for name in shown:
        _line(score, evals, name, f"dev {name}" if len(shown) > 1 else "dev", marker="o")
    _line(speed, steps, "frames_per_s", "train")
    for axes, title in ((loss, "loss"), (score, metric.replace("_", " ")), (speed, "frames per second")):
        axes.set_title(title)
        axes.set_xlabel("update")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend()
    speed.set_ylim(bottom=0)
    partial = folder / ".curves.partial.png"
    try:
        figure.savefig(partial, dpi=110)
        return partial.replace(folder / "curves.png")
    finally:
        partial.unlink(missing_ok=True)  # what a full disk cut short takes no room


class Curves:
    """A log that keeps curves.png fresh: after evaluations, at most once in `seconds`, and at the end."""

    def __init__(self, folder: Path, metric: str, seconds: float = 60.0):
        self.folder, self.metric, self.seconds = folder, metric, seconds
        self.drawn = time.monotonic()

    def write(self, record: Mapping[str, Any]) -> None:
        """Draw when the record is an evaluation and the picture is old."""
        if record["kind"] == "eval" and time.monotonic() - self.drawn >= self.seconds:
            self.close()

    def close(self) -> None:
        """Draw. A picture is not worth a run: a failure is a warning."""
        try:
            draw_curves(self.folder, self.metric)
        except OSError as error:
            warn(f"curves.png cannot be drawn: {error}")
        self.drawn = time.monotonic()


def _line(axes: Any, records: Sequence[Mapping[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(r["step"], r[key]) for r in records if key in r]
    if len(points) == 1:
        style.setdefault("marker", "o")  # a single point has no line
    if points:
        axes.plot(*zip(*points, strict=True), label=label, markersize=3, linewidth=1.2, **style)


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the names of NaN and infinity as numbers again."""
    return {k: float(v) if v in ("nan", "inf", "-inf") else v for k, v in record.items()}


def final_summary(
    folder: Path,
    why: str,
    test: Mapping[str, float],
    best: float | None,
    best_step: int,
    metric: str,
    seconds: float,
    generates: bool,
    limit: str,
) -> str:
    """The last words of a run: how it ended, its metrics, where it lies, and what to type next.

    limit: the option of train that has ended it, e.g. epochs; "" when it was interrupted.
    """
    shown = "  ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in test.items())
    lines = [
        f"end:  {why}, {clock(seconds)} of training.",
        f"dev:  best {metric.replace('_', ' ')} {best:.4f} at update {best_step}."
        if best is not None
        else "",
        f"test: {shown}  (weights of best.pt)" if test else "",
        f"run:  {folder}  (curves.png, metrics.jsonl, plan.txt, config.yaml, best.pt, last.pt)",
        f"next: python scripts/eval.py checkpoint={folder}/best.pt",
        f"      python scripts/generate.py checkpoint={folder}/best.pt prompt='def '" if generates else "",
        f"      python train.py resume={folder}{f' train.{limit}=...' if limit else ''}   (goes on)",
    ]
    return "\n".join(line for line in lines if line)
