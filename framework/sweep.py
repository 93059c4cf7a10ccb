"""`python train.py -m`: goes through values of options, one run each, and goes on where it was stopped.

A sweeper of Hydra (docs/sweeps.md). Its jobs are processes of their own, or go to one of Hydra's launchers
when one is chosen (hydra/launcher=joblib, slurm). No job that fails or dies ends the sweep; sweep.json in its
folder says what has been done.
"""

from __future__ import annotations

import datetime
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from framework.config import OWN_FILES
from framework.errors import ConfigError, TrainingError
from framework.options import CONF
from framework.sweep_jobs import Ended, Processes, held
from framework.sweep_space import Choice, Interval, Tried, check, chosen, grid, propose
from framework.sweep_state import OPEN, Job, Sweep, is_sweep, quoted, read_sweep

TRAIN = CONF.parent / "train.py"
NOT_KEPT = ("hydra.mode=", "hydra.sweeper.folder=")  # of a sweep's arguments
IN_PROCESSES = "basic"  # Hydra's default launcher; here its jobs get processes of their own


class Search(Sweeper):
    """The options of conf/hydra/sweeper/search.yaml; see there."""

    hydra_context: HydraContext
    config: DictConfig

    def __init__(
        self,
        method: str,
        trials: int,
        seed: int,
        at_once: int,
        retry: bool,
        folder: str | None,
        params: Mapping[str, Any],
    ):
        self.method, self.trials, self.seed = method, trials, seed
        self.at_once, self.retry, self.folder = at_once, retry, folder
        self.params = dict(params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra gives what jobs need."""
        self.hydra_context, self.config, self.task_function = hydra_context, config, task_function
        self.launcher = None
        if config.hydra.runtime.choices["hydra/launcher"] != IN_PROCESSES:
            self.launcher = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )

    def sweep(self, arguments: list[str]) -> None:
        """Run all jobs that are not done. Raises ConfigError for a mistake, TrainingError after failures."""
        if self.at_once < 1:
            raise ConfigError("hydra.sweeper.at_once", f"{self.at_once} is too small", "Give 1 or more.")
        made = self._begin(arguments)
        with held(made.folder) as lock:
            self._settle_earlier(made)
            made.write()
            self._say(made)
            if self.launcher is None:
                self._run_processes(made, lock)
            else:
                self._launch(made)
        self._summary(made)

    # ---- what is to be done

    def _begin(self, arguments: list[str]) -> Sweep:
        """The sweep, new or as it was left, and its folder; nothing is written before all is checked."""
        given = {key: f"{key}={value}" for key, value in self.params.items()}
        given |= {argument.partition("=")[0].lstrip("+~"): argument for argument in arguments}
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(list(given.values()))
        self.space = {o.get_key_element(): domain(o) for o in overrides if o.is_sweep_override()}
        self.lines = [o.input_line or "" for o in overrides if not o.is_sweep_override()]
        fixed = [_own_file(line) for line in self.lines]
        space = {key: repr(values) for key, values in self.space.items()}
        if is_sweep(self.folder or ""):
            made = read_sweep(Path(self.folder or ""))
            if (made.fixed, made.space) != (fixed, space):
                raise ConfigError(
                    str(made.folder),
                    "the sweep in it goes through other values",
                    f"Go on with python train.py resume={made.folder}, or give another folder.",
                )
            self.trials = max(self.trials, len(made.jobs) if made.method != "grid" else 0)
            check(self.space, made.method, self.trials)
            return made
        check(self.space, self.method, self.trials)
        folder = Path(self.folder or self._new_folder())
        method = chosen(self.method, self.trials)
        own = [a for a in self.config.hydra.overrides.hydra if not a.startswith(NOT_KEPT)]
        begun_with = [_own_file(a) for a in (*arguments, *own)]
        made = Sweep(folder, begun_with, fixed, space, method, self.seed)
        if method == "grid":
            made.jobs = [Job(number, values) for number, values in enumerate(grid(self.space))]
        self._check_jobs(made)
        folder.mkdir(parents=True, exist_ok=True)
        return made

    def _new_folder(self) -> str:
        name = self.config.hydra.runtime.choices.get("sweep")
        parts = [f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}", *([name] if name else []), "sweep"]
        folder, number = Path("runs") / "_".join(parts), 1
        while folder.exists():
            number += 1
            folder = Path("runs") / f"{'_'.join(parts)}-{number}"
        return str(folder)

    def _check_jobs(self, made: Sweep) -> None:
        """Compose a job for every single value: unknown choices and options are told before anything runs."""
        first = made.jobs[0].values if made.jobs else propose("random", self.space, 0, self.seed, [], True)
        jobs = [first]
        for key, values in self.space.items():
            if isinstance(values, Choice):
                jobs += [{**first, key: value} for value in values.values]
        self.validate_batch_is_legal([[*self.lines, *_lines(job)] for job in jobs])

    def _settle_earlier(self, made: Sweep) -> None:
        """What an earlier process of this sweep left open; failed jobs wait again when asked."""
        for job in made.jobs:
            if job.state == "running":
                made.settle(job, "the sweep was stopped", lost=True)
            elif job.state == "failed" and self.retry:
                job.state = "waiting"

    def _next(self, made: Sweep) -> Job | None:
        """A job to run now, marked and written down; None when there are no more."""
        waiting = [job for job in made.jobs if job.state in OPEN and job.state != "running"]
        waiting = [job for job in waiting if job.number not in self.begun]
        if waiting:
            job = waiting[0]
        elif made.method == "grid" or len(made.jobs) >= self.trials:
            return None
        else:
            tried = [Tried(j.values, math.nan if j.state == "running" else j.metric) for j in made.jobs]
            number = len(made.jobs)
            values = propose(made.method, self.space, number, made.seed, tried, made.higher)
            job = Job(number, values)
            made.jobs.append(job)
        self.begun.add(job.number)
        job.state, job.why = "running", ""
        made.write()
        return job

    # ---- how it is done

    def _run_processes(self, made: Sweep, lock: int | None) -> None:
        processes = Processes(self.at_once, lock)
        self.begun: set[int] = set()

        def work(job: Job) -> Ended:
            folder = made.run_folder(job)
            lines = [*made.fixed, *_lines(job.values), f"run_dir={quoted(folder)}"]
            if can_go_on(folder):
                lines = [f"resume={folder}"]
            command = [sys.executable, str(TRAIN), *lines]
            return processes.run(command, made.folder / f"{job.number}.txt")

        def over(job: Job, ended: Ended) -> None:
            stopped = ended.code <= 0 or processes.stopping
            made.settle(job, _cause(ended), lost=stopped)
            made.write()
            self._say_end(made, job)

        processes.all(lambda: self._next(made), work, over)

    def _launch(self, made: Sweep) -> None:
        """Give jobs to Hydra's launcher, `at_once` together."""
        self.begun = set()
        while batch := [job for _ in range(self.at_once) if (job := self._next(made))]:
            for job in batch:
                can_go_on(made.run_folder(job))
            lines = [
                [*self.lines, *_lines(job.values), f"run_dir={quoted(made.run_folder(job))}"] for job in batch
            ]
            for job, error in zip(batch, self._errors(lines, batch[0].number), strict=True):
                # Without an error and without a result it was stopped from outside, and can go on.
                why = f"{type(error).__name__}: {error}".strip().splitlines()[0] if error else "ended early"
                made.settle(job, why, lost=error is None)
                made.write()
                self._say_end(made, job)

    def _errors(self, lines: list[list[str]], first: int) -> list[Exception | None]:
        """Launch jobs, and give what stopped each; whatever it was, other jobs go on."""
        here = [str(TRAIN.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(here)  # jobs elsewhere unpickle what lies here
        found: list[Exception | None] = []
        try:
            results = cast(Any, self.launcher).launch(lines, initial_job_idx=first)
        except Exception as error:
            return [error] * len(lines)
        for result in results:
            try:
                _ = result.return_value  # raises what the job raised
                found.append(None)
            except Exception as error:
                found.append(error)
        return found

    # ---- what a person sees

    def _say(self, made: Sweep) -> None:
        done = sum(job.state == "done" for job in made.jobs)
        total = len(made.jobs) if made.method == "grid" else max(self.trials, len(made.jobs))
        jobs = f"{total} job{'s' * (total != 1)}"
        earlier = f", {done} of them done before" if done else ""
        over = ", ".join(self.space) or "nothing"
        _tell(f"sweep {made.folder}: {jobs}{earlier}, method {made.method}, over {over}")

    def _say_end(self, made: Sweep, job: Job) -> None:
        best = made.best()
        if job.state == "done":
            value = "no metric" if job.metric is None else f"{made.metric} {job.metric:.4f}"
            leader = (
                f" (best {best.metric:.4f}, job {best.number})" if best and best is not job else " (best)"
            )
            _tell(f"job {job.number}: {value}{leader}  {job.text}")
        else:
            _tell(f"job {job.number} {job.state}: {job.why}  {job.text}")

    def _summary(self, made: Sweep) -> None:
        if best := made.best():
            _tell(f"best: job {best.number}, dev {made.metric} {best.metric:.4f}: {best.text}")
        _tell(f"next: python scripts/sweep_report.py {made.folder}")
        failed = [str(job.number) for job in made.jobs if job.state == "failed"]
        open_jobs = [str(job.number) for job in made.jobs if job.state in OPEN]
        parts = [f"{len(failed)} failed ({', '.join(failed[:8])})"] if failed else []
        parts += [f"{len(open_jobs)} were killed ({', '.join(open_jobs[:8])})"] if open_jobs else []
        if parts:
            again = " hydra.sweeper.retry=true" if failed else ""
            words = f"Their words: {made.folder}/NUMBER.txt. " if self.launcher is None else ""
            fix = f"{words}Go on: python train.py resume={made.folder}{again}"
            jobs = f"{len(made.jobs)} job{'s' * (len(made.jobs) != 1)}"
            raise TrainingError(str(made.folder), f"of {jobs} {' and '.join(parts)}", fix)


def domain(override: Override) -> Choice | Interval:
    """The values of an option that a sweep goes through, of Hydra's grammar."""
    if override.is_discrete_sweep():
        return Choice(tuple(override.sweep_string_iterator()))
    interval = cast(IntervalSweep, override.value())
    low, high = interval.start, interval.end
    assert low is not None and high is not None
    whole = "int" in interval.tags or (isinstance(low, int) and isinstance(high, int))
    return Interval(float(low), float(high), log="log" in interval.tags, whole=whole)


def can_go_on(folder: Path) -> bool:
    """True when a run in `folder` has a checkpoint. The log of one that was killed before it had any goes."""
    if any((folder / name).exists() for name in ("last.pt", "last.pt.prev")):
        return True
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    return False


def _lines(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _own_file(line: str) -> str:
    """`model=mine` as it was given: `model=my/mine.yaml`."""
    return OWN_FILES.get(line, line)


def _cause(ended: Ended) -> str:
    if ended.code < 0:
        return f"killed by signal {-ended.code}"
    return ended.said if ended.code else "ended early"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
