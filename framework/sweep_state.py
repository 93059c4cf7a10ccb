"""What a sweep knows of itself, in sweep.json: its arguments and its jobs. Folders of runs tell the rest."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.errors import ConfigError, TrainingError
from framework.history import read_run

FILE = "sweep.json"
VERSION = 1
OPEN = ("waiting", "running", "killed")  # a resumed sweep goes on with these


@dataclass
class Job:
    """One run of a sweep. state: waiting, running, done, failed, or killed, which goes on when resumed.

    values: option -> value as text; metric: the best on dev; why: in words, how it ended.
    """

    number: int
    values: dict[str, str]
    state: str = "waiting"
    metric: float | None = None
    why: str = ""

    @property
    def text(self) -> str:
        """Its values as they stand on a command line."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())


@dataclass
class Sweep:
    """A sweep in `folder`; `arguments`: of the command line it began with; `space`: as text, to compare."""

    folder: Path
    arguments: list[str]
    fixed: list[str]
    space: dict[str, str]
    method: str
    seed: int
    jobs: list[Job] = field(default_factory=list)
    metric: str = ""
    higher: bool = True

    def write(self) -> None:
        """Bring it to the disk, whole or not at all. Raises TrainingError when it cannot be written."""
        content = dataclasses.asdict(self) | {"version": VERSION}
        del content["folder"]
        partial = self.folder / f".{FILE}.partial"
        try:
            with open(partial, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.folder / FILE)
        except OSError as error:
            cause = f"cannot be written: {error.strerror or error}"
            raise TrainingError(str(self.folder / FILE), cause, "Make room and resume the sweep.") from error

    def run_folder(self, job: Job) -> Path:
        """Where a job's run is."""
        return self.folder / str(job.number)

    def settle(self, job: Job, why: str = "", lost: bool = False) -> None:
        """Take from the job's folder how it ended; `why` and `lost` are of one that left no result.

        lost: it was killed or asked to stop, and can go on.
        """
        folder = self.run_folder(job)
        run = read_run(folder) if (folder / "metrics.jsonl").exists() else None
        best = run.best if run else None
        if run and run.end:
            job.state, job.why = "done", str(run.end.get("why", ""))
            job.metric = best[0] if best else None
            self.metric, self.higher = run.metric, run.higher
        else:
            job.state, job.why = ("killed" if lost else "failed"), why
            job.metric = None

    def best(self) -> Job | None:
        """The best job so far."""
        done = [job for job in self.jobs if job.metric is not None]
        return max(done, key=lambda job: (job.metric or 0.0) * (1 if self.higher else -1), default=None)


def is_sweep(folder: str) -> bool:
    """True when `folder` holds a sweep that can be resumed."""
    return bool(folder) and (Path(folder) / FILE).is_file()


def read_sweep(folder: Path) -> Sweep:
    """The sweep in `folder`. Raises ConfigError when its file is broken or of another version."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("version")
        jobs = [Job(**job) for job in content.pop("jobs")]
        made = Sweep(folder=folder, jobs=jobs, **content)
    except OSError as error:
        raise ConfigError(
            str(path), f"it cannot be read: {error.strerror}", "Give a sweep's folder."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(str(path), f"it is no sweep's file ({error})", "Start a new sweep.") from error
    if version != VERSION:
        raise ConfigError(str(path), f"it is of version {version}, not {VERSION}", "Start a new sweep.")
    return made


def resumed_arguments(folder: str, changes: Iterable[str]) -> list[str]:
    """The command line that goes on with the sweep in `folder`; `changes` may be of hydra.sweeper alone."""
    for change in changes:
        if not change.startswith(("hydra.sweeper.", "hydra.launcher.", "hydra/launcher=")):
            fix = "Start a new sweep, or change hydra.sweeper.trials, .at_once or .retry."
            raise ConfigError(change.partition("=")[0], "a resumed sweep keeps it", fix)
    made = read_sweep(Path(folder))
    return ["-m", *made.arguments, *changes, f"hydra.sweeper.folder={quoted(folder)}"]


def quoted(text: Any) -> str:
    """A text as one value of Hydra's grammar, whatever stands in it."""
    inner = re.sub(r"(\\*)'", r"\1\1\\'", str(text))  # backslashes count only before a quote
    return "'" + re.sub(r"(\\+)$", r"\1\1", inner) + "'"
