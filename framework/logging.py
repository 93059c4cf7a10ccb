"""What a run writes down: one JSON object per line, always, and beside it other logs (framework.wandb_log).

The JSON log is the truth of a run: it is flushed after every line, and a resumed run first cuts it back to
where its checkpoint was written, so no step is in it twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

import torch

from framework.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from framework.showcase import Showcase

Record = Mapping[str, Any]


class Log(Protocol):
    """Takes records; `kind` in a record says what it is: start, step, eval, resume or end."""

    def write(self, record: Record) -> None:
        """Write one record down."""
        ...

    def close(self) -> None:
        """Bring everything to its place; called once, also after a failure."""
        ...


class JsonLog:
    """`metrics.jsonl`: a JSON object per line, given to the system before `write` returns to the caller.

    `position` bytes of an earlier run are kept, what lies behind them is cut off (exact resume). The file is
    locked until it is closed or the process ends, whatever ends it: of two runs in a folder the second one is
    refused. Raises ConfigError for that, and where the file cannot be opened or is too short.
    """

    def __init__(self, path: Path, position: int = 0):
        self.path = path
        try:
            self.file = open(path, "ab", buffering=0)  # nothing is left to be written when it is closed
        except OSError as error:
            cause = f"it cannot be written: {error.strerror or error}"
            raise ConfigError(str(path), cause, "Give another folder: run_dir=FOLDER.") from error
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.close()
            fix = "Wait until it is over, or give this one another folder: run_dir=FOLDER."
            raise ConfigError(str(path.parent), "another run is writing into this folder", fix) from error
        except OSError as error:  # a file system without locks
            warn(f"{path} cannot be locked ({error.strerror}): start no other run in its folder.")
        if self.file.tell() < position:
            self.file.close()
            raise ConfigError(
                str(path),
                f"it has lost lines: the checkpoint was written at byte {position}",
                "Resume from a copy of the whole folder.",
            )
        self.file.truncate(position)

    def write(self, record: Record) -> None:
        """Append one line. Raises TrainingError when it cannot be written."""
        line = json.dumps(_plain(record), allow_nan=False).encode() + b"\n"
        with self._named():
            while line:  # a disk that fills up takes a part of a line, and refuses the next part
                line = line[self.file.write(line) :]

    def position(self) -> int:
        """Bytes written so far."""
        return self.file.tell()

    def sync(self) -> None:
        """Bring the lines to the disk itself, before a checkpoint points behind them."""
        with self._named():
            os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file, and let others lock it."""
        with self._named():
            self.file.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Turns what the system refuses into a TrainingError."""
        try:
            yield
        except OSError as error:
            raise TrainingError(
                str(self.path),
                f"cannot write the log: {error.strerror or error}",
                "Make room and resume the run.",
            ) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """All records of a JSON log; a last line that was cut short by a crash is left out."""
    records = []
    for line in path.read_bytes().split(b"\n"):
        if line:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def warn(text: str) -> None:
    """One line to the user on the error stream."""
    say(f"warning: {text}", sys.stderr)


def say(text: str, stream: TextIO) -> None:
    """Print for the user. A screen that is gone (a closed pipe or terminal, a full disk) ends no run."""
    with contextlib.suppress(OSError):  # there is nobody to tell
        print(text, file=stream, flush=True)


def peak_bytes(device: str) -> int:
    """Most memory used so far: the device's own, or this process's resident set."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, Linux KiB


class Logs:
    """The JSON log and whatever logs stand beside it, as one."""

    def __init__(self, json_log: JsonLog, *others: Log | None):
        self.json = json_log
        self.others = [log for log in others if log is not None]

    def write(self, record: Record) -> None:
        """Write to all; the JSON log comes first."""
        self.json.write(record)
        for log in self.others:
            log.write(record)

    def show(self, name: str, make: Callable[[], Showcase]) -> None:
        """Make pictures and texts where a log takes them; a failure is a warning, not the end of a run."""
        takers = [log for log in self.others if hasattr(log, "show")]
        if not takers:
            return
        try:
            made = make()
        except Exception as error:
            warn(f"nothing of {name} is shown ({type(error).__name__}: {error}): going on without it.")
            return
        for log in takers:
            cast(Any, log).show(name, made)

    def tick(self, step: int) -> None:
        """Update number `step` is done; only a progress bar wants to know."""
        for log in self.others:
            getattr(log, "tick", lambda step: None)(step)

    def sync(self) -> None:
        """Bring the JSON log to the disk."""
        self.json.sync()

    def position(self) -> int:
        """Bytes in the JSON log."""
        return self.json.position()

    def close(self) -> None:
        """Close all."""
        for log in self.others:
            log.close()
        self.json.close()


class SilentLogs(Logs):
    """Writes nothing: of several processes one has the logs."""

    def __init__(self) -> None:
        self.others = []

    def write(self, record: Record) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def position(self) -> int:
        """There are no bytes."""
        return 0

    def close(self) -> None:
        """Nothing."""
