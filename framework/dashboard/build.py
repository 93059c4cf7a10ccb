"""From run folders to one HTML file: what the page knows, thinned out, and everything written into it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from framework.history import History, differing, find_runs, numbers, read_run

PARTS = Path(__file__).parent
POINTS = 1_200_000  # of all curves together: about 16 MB of page, which browsers still open at once
CURVE_POINTS = (40, 600)  # of one curve: fewest and most; 600 is about the pixels of a chart
NO_CURVE = {"step", "epoch", "seconds", "best_step"}
TEXT_LIMIT = 20_000  # characters of a plan that the page carries
SCRIPTS = ("words.js", "chart.js", "table.js", "page.js")


def build_page(root: Path, made: str, title: str = "") -> tuple[str, list[History]]:
    """The page of all runs at or below `root`, and the runs; `made` says when it was written.

    The page holds at most about `POINTS` points: curves of many or long runs are thinned out, with their
    highest and lowest values kept.
    """
    runs = [read_run(folder) for folder in find_runs(root)]
    data = page_data(runs, root, made)
    page = (PARTS / "page.html").read_text(encoding="utf-8")
    fills = {
        "TITLE": _escaped(title or f"Runs of {root.name or root.resolve().name}"),
        "STYLE": (PARTS / "page.css").read_text(encoding="utf-8"),
        "SCRIPT": "".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "DATA": _in_script(data),
    }
    return re.sub("@(TITLE|STYLE|SCRIPT|DATA)@", lambda match: fills[match[1]], page), runs


def page_data(runs: Sequence[History], root: Path, made: str) -> dict[str, Any]:
    """What the page's script reads: `runs` with their facts and curves, `differing` options, `made`."""
    curves = sum(len(_names(run.steps)) + len(_names(run.evals)) for run in runs)
    fewest, most = CURVE_POINTS
    points = max(fewest, min(most, POINTS // max(curves, 1)))
    plans = list(dict.fromkeys(_plan(run) for run in runs))  # runs of a sweep often share theirs
    return {
        "made": made,
        "differing": differing(runs),
        "points": points,
        "plans": plans,
        "runs": [_run(run, root, points) | {"plan": plans.index(_plan(run))} for run in runs],
    }


def _plan(run: History) -> str:
    return str(run.start.get("plan", ""))[:TEXT_LIMIT]


def _run(run: History, root: Path, points: int) -> dict[str, Any]:
    best, start, end = run.best, run.start, run.end
    name = str(run.folder.relative_to(root)) if run.folder != root else (run.folder.resolve().name)
    last = run.steps[-1] if run.steps else {}
    test = {k: v for k, v in numbers(end).items() if k not in ("step", "best", "best_step", "seconds")}
    return {
        "name": name,
        "state": str(end.get("why", "done")) if end else "unfinished",
        "done": bool(end),
        "metric": run.metric,
        "higher": run.higher,
        "best": _short(best[0]) if best else None,
        "best_step": best[1] if best else None,
        "test": {key: _short(value) for key, value in test.items()},
        "step": run.last_step,
        "seconds": _short(end.get("seconds")),
        "loss": _short(numbers(last).get("loss")),
        **{key: _median(run, key) for key in ("frames_per_s", "cpu_use", "gpu_use")},
        "peak_bytes": max((int(numbers(r).get("peak_bytes", 0)) for r in run.steps), default=0) or None,
        "predicted_bytes": _kept(run),
        "weights": start.get("weights"),
        "device": start.get("device"),
        "about": start.get("data"),
        "options": run.options,
        "problems": run.problems,
        "clock": _clock(run.steps, points),
        "curves": _curves(run.steps, "train", points) + _curves(run.evals, "dev", points),
    }


def _median(run: History, key: str) -> float | None:
    """The middle one of a number of the step records."""
    found = sorted(each[key] for each in map(numbers, run.steps) if key in each)
    return _short(found[len(found) // 2]) if found else None


def _kept(run: History) -> float | None:
    """Bytes that an update keeps for its backward, by the plan and the median update's frames."""
    each = numbers(run.start).get("predicted_bytes_per_frame")
    found = [numbers(record) for record in run.steps]
    frames = sorted(r["frames_per_s"] * r["step_s"] for r in found if {"frames_per_s", "step_s"} <= set(r))
    return _short(each * frames[len(frames) // 2]) if each and frames else None


def _names(records: Iterable[dict[str, Any]]) -> list[str]:
    """What has a curve: the numbers of any record."""
    return [key for key in dict.fromkeys(k for r in records for k in numbers(r)) if key not in NO_CURVE]


def _curves(records: Sequence[dict[str, Any]], split: str, points: int) -> list[dict[str, Any]]:
    """A curve for every number of the records: its key, and x (updates) and y as long as each other."""
    found = []
    for key in _names(records):
        known = [(int(r["step"]), numbers(r)[key]) for r in records if key in numbers(r)]
        kept = thinned(known, points)
        xs, ys = [x for x, _ in kept], [_short(y) for _, y in kept]
        found.append({"key": key, "split": split, "x": xs, "y": ys})
    return found


def _clock(records: Sequence[dict[str, Any]], points: int) -> list[list[float]]:
    """Updates and the seconds of training until then, evaluations left out: the other axis of the curves."""
    done, seconds, found = 0, 0.0, [(0, 0.0)]
    for record in records:
        step, each = int(record["step"]), numbers(record).get("step_s", 0.0)
        seconds += max(each, 0.0) * (step - done) if math.isfinite(each) else 0.0
        done = step
        found.append((step, round(seconds, 2)))
    kept = [found[round(i * (len(found) - 1) / (points - 1))] for i in range(points)]
    kept = list(dict.fromkeys(kept)) if len(found) > points else found
    return [[x for x, _ in kept], [y for _, y in kept]]


def thinned(curve: Sequence[tuple[int, float]], points: int) -> list[tuple[int, float]]:
    """At most `points` points of a curve: of each stretch the lowest and the highest, and both ends.

    A value that is not finite counts as higher than any other: a loss that became NaN stays visible.
    """
    if len(curve) <= points:
        return list(curve)
    inner, stretches = curve[1:-1], max(1, (points - 2) // 2)
    kept = [curve[0]]
    for i in range(stretches):
        part = inner[i * len(inner) // stretches : (i + 1) * len(inner) // stretches]
        order = sorted(range(len(part)), key=lambda j: part[j][1] if math.isfinite(part[j][1]) else math.inf)
        kept += [part[j] for j in sorted({order[0], order[-1]})]
    return [*kept, curve[-1]]


def _short(value: Any) -> float | int | None:
    """A number with five digits; None for what is no finite number, which JSON does not have."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.5g}")


def _in_script(data: Any) -> str:
    """JSON that stands safely inside a script element."""
    text = json.dumps(_finite(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """The same with names in the place of numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
