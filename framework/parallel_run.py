"""Decides in how many processes a run runs: this one, workers of its own, or those that others started."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from framework.errors import ConfigError, DataError, UserError
from framework.parallel_launch import supervise
from framework.parallel_place import Ended, Place, outer_place


def start(values: Mapping[str, Any], workers: int, gpus: int, restarts: int) -> float | None:
    """Run `framework.run.run(**values)`, in several processes where told, and return the best dev metric.

    workers: processes on this machine (0: as many as gpus, or one); gpus: the same, each on a GPU of its own;
    restarts: see `supervise`. Under torchrun or Slurm this process is one of theirs, and both must be 0 or
    what is there. Raises UserError; in all but one process of a group `Ended`.
    """
    values = dict(values)
    if gpus:
        values["train"] = {**values["train"], "device": _gpu(values["train"]["device"])}
        if workers not in (0, gpus):
            cause = f"{workers} workers for {gpus} GPUs, of which each has one"
            raise ConfigError("train.workers", cause, "Leave it out.")
    count = gpus or workers
    place = outer_place(os.environ)
    if place is not None:
        if count > 1 and count != place.local_world:
            cause = f"{count}, and {place.local_world} process(es) were started on this machine"
            raise ConfigError("train.gpus" if gpus else "train.workers", cause, "Leave it out.")
        if place.world > 1:
            with _told_once(place.rank):
                return run_in(place, values)
    elif count > 1:
        return supervise(values, count, restarts)
    from framework.run import run  # torch takes a second to load

    return run(**values)


def run_in(
    place: Place, values: Mapping[str, Any], folder_known: Callable[[Path], None] = lambda folder: None
) -> float | None:
    """Run as one of a group of processes; `folder_known` is told the run's folder."""
    from framework.assemble import find_device
    from framework.parallel import Workers
    from framework.run import run

    values = dict(values)
    run_dir = values["run_dir"]
    if place.restarted and values["resume_from"] is None and run_dir and (run_dir / "last.pt").exists():
        values["resume_from"] = run_dir / "last.pt"  # torchrun and Slurm give the same command again
    group = Workers(place, find_device(values["train"]["device"]))
    result = run(**values, group=group, folder_known=folder_known)
    group.close()  # not after an error: others may be gone, and wait for nobody
    return result


def _gpu(device: str) -> str:
    if device not in ("auto", "cuda"):
        raise ConfigError("train.gpus", f"train.device={device} is no GPU", "Use train.workers=N there.")
    return "cuda"


@contextlib.contextmanager
def _told_once(rank: int) -> Iterator[None]:
    """What all processes of a group find is told by the first; broken data by the one that reads them."""
    try:
        yield
    except UserError as error:
        if rank and not isinstance(error, DataError):
            raise Ended(str(error)) from error
        raise
    except Ended as error:
        if not rank:
            print(f"worker 0 ends: {error}", file=sys.stderr, flush=True)
        raise
