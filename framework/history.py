"""Runs as their folders tell them: options, curves and results, read without torch and without trust.

What cannot be read is named in `History.problems` and left out: one broken line hides no run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LOG = "metrics.jsonl"
SHOWN_PROBLEMS = 5  # of one file; the others are counted
KINDS = ("start", "resume", "step", "eval", "end")
Value = str | int | float | bool | None


@dataclass
class History:
    """One run. `options`: its config, flat (`optimizer.lr`), without the graphs; `start` and `end`: records.

    steps and evals: the records of training and of dev, in the order of updates; of a resumed run the last
    word on each update counts.
    """

    folder: Path
    options: dict[str, Value] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def metric(self) -> str:
        """What decides which of two runs is better: said by the run, or the first one of its evaluations."""
        if "metric" in self.start:
            return str(self.start["metric"])
        beside = ("step", "epoch", "loss", "seconds", "best", "lr_lowered")
        found = [key for record in self.evals[:1] for key in numbers(record) if key not in beside]
        return found[0] if found else "loss"

    @property
    def higher(self) -> bool:
        """True when more of the metric is better."""
        return self.start.get("better", "higher" if "accuracy" in self.metric else "lower") == "higher"

    @property
    def best(self) -> tuple[float, int] | None:
        """The best finite value of the metric on dev and its update; None before the first evaluation."""
        found = [(r[self.metric], int(r["step"])) for r in map(numbers, self.evals) if self.metric in r]
        found = [each for each in found if math.isfinite(each[0])]
        if not found:
            return None
        return max(found, key=lambda each: each[0] if self.higher else -each[0])

    @property
    def last_step(self) -> int:
        """The last update that anything is known of."""
        return max((int(r["step"]) for r in (*self.steps[-1:], *self.evals[-1:], self.end) if r), default=0)


def find_runs(root: Path) -> list[Path]:
    """Folders at or below `root` that hold a log, in the order of their names. Links are not followed."""
    found = [Path(folder) for folder, _, files in os.walk(root) if LOG in files]
    return sorted(found, key=lambda path: _natural(str(path.relative_to(root))))


def _natural(text: str) -> list[tuple[int, int, str]]:
    """A key for which 2 comes before 10."""
    parts: list[tuple[int, int, str]] = []
    for part in text.replace("\\", "/").split("/"):
        parts.append((0, int(part), "") if part.isdecimal() else (1, 0, part))
    return parts


def read_run(folder: Path) -> History:
    """Everything that is known of the run in `folder`; never raises for what is in the files."""
    run = History(folder)
    run.options = _read_options(folder / "config.yaml", run.problems)
    steps: dict[int, dict[str, Any]] = {}
    evals: dict[int, dict[str, Any]] = {}
    for record in read_records(folder / LOG, run.problems):
        kind, step = record["kind"], record["step"]
        if kind in ("start", "resume"):
            run.start, run.end = record, {}
        elif kind == "end":
            run.end = record
        else:
            (steps if kind == "step" else evals)[step] = record
    run.steps, run.evals = ([each[step] for step in sorted(each)] for each in (steps, evals))
    return run


def read_records(path: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """The records of a JSON log; lines that are none are named in `problems`.

    A last line without its end is what a killed run leaves, or one that is writing just now: no problem.
    """
    bad = 0
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}")
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        record, cause = _parsed(line)
        if not cause:
            yield record
        elif number < len(lines):
            bad += 1
            if bad <= SHOWN_PROBLEMS:
                problems.append(f"{path.name} line {number}: {cause}")
    if bad > SHOWN_PROBLEMS:
        problems.append(f"{path.name}: {bad - SHOWN_PROBLEMS} more lines like these")


def _parsed(line: bytes) -> tuple[dict[str, Any], str]:
    """A record, and what is wrong with it ("" for nothing)."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}, "it is no JSON"
    if not isinstance(record, dict):
        return {}, "it is no JSON object"
    if record.get("kind") not in KINDS:
        return {}, "it has no known kind"
    step = record.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return {}, "it has no update number"
    return record, ""


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record; `"nan"` and `"inf"` are numbers again, texts and truths are left out."""
    found = {}
    for key, value in record.items():
        if value in ("nan", "inf", "-inf"):
            found[key] = float(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = value
    return found


def _read_options(path: Path, problems: list[str]) -> dict[str, Value]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError):
        problems.append(f"{path.name} is no YAML")
        return {}
    if not isinstance(config, dict):
        problems.append(f"{path.name} holds no options")
        return {}
    return flat_options(config)


def flat_options(config: Mapping[str, Any]) -> dict[str, Value]:
    """A run's config with one key an option, e.g. `optimizer.lr`.

    `model`, `cell` and `data` are names; of a graph its params stay (`model.params.size`); lists are texts.
    """
    choices = config.get("choices")
    found: dict[str, Value] = dict(choices) if isinstance(choices, Mapping) else {}
    for group, value in config.items():
        if group in ("model", "cell"):
            params = value.get("params") if isinstance(value, Mapping) else None
            found |= _flat(params or {}, f"{group}.params.")
        elif group not in ("choices", "run_dir", "resume"):
            found |= _flat({group: value}, "")
    if found.get("data.name") == found.get("data"):
        found.pop("data.name", None)  # one column of a table is enough
    return found


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            plain = value is None or isinstance(value, str | int | float)
            found[f"{prefix}{key}"] = value if plain else str(value)
    return found


def differing(runs: Sequence[History]) -> list[str]:
    """Options that are not the same in all runs; an option that a run does not have is another value."""
    keys = dict.fromkeys(key for run in runs for key in run.options)
    return [key for key in keys if len({repr(run.options.get(key, ...)) for run in runs}) > 1]
