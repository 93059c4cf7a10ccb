"""Starts the processes of a run on this machine, watches them, and starts them again where one dies.

The process that the user started does no more than that; its workers run `framework.parallel_worker`. They
meet through a file, and gloo and NCCL are told to stay on the loopback interface: no port is chosen, nothing
leaves the machine. The checkpoint on the disk is whole at every moment, so workers need not be asked to end:
when one is gone the others are killed, and all go on from the last checkpoint.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.errors import TrainingError, UserError
from framework.interrupt import noted
from framework.parallel_place import Place

ENDED = 70  # exit code of a worker that ends because of another one
MISTAKE = 2  # that of a worker that has written down an error of the user's
PATIENCE = 5.0  # seconds for the true cause to show itself after a worker that ended because of another
RESULT, FOLDER = "result", "folder"  # files that workers leave; with their rank, and without
WORKER = "framework.parallel_worker"
TAIL = 20  # lines shown of what a worker other than the first has said


@dataclass(frozen=True)
class Job:
    """What a worker is given: arguments of `run`, its place, and a folder for what it has to tell."""

    values: Mapping[str, Any]
    place: Place
    told: Path


def supervise(values: Mapping[str, Any], count: int, restarts: int) -> float | None:
    """Run `framework.run.run(**values)` in `count` processes and return what it returns.

    A worker that dies restarts all of them from the last checkpoint, at most `restarts` times without a new
    checkpoint in between. Raises the UserError that a worker found, TrainingError when they keep dying, and
    KeyboardInterrupt when a signal ended them before they could save.
    """
    values, tries, restarted = dict(values), 0, False
    while True:
        before = _state(values["resume_from"])
        with tempfile.TemporaryDirectory(prefix="intrastream-") as told:
            crew = Crew(values, count, Path(told), restarted)
            try:
                with noted(crew.interrupt):
                    died = crew.wait()
            finally:
                crew.kill()
            if not died:
                return crew.result(0)
            if (error := crew.mistake()) is not None:
                raise error
            if crew.interrupted:
                raise KeyboardInterrupt
            folder, said = crew.folder(), crew.last_words()
        print(f"{said}{died}", file=sys.stderr, flush=True)
        last = folder / "last.pt" if folder else values["resume_from"]
        if last is not None and not last.exists():
            raise TrainingError("train.workers", died, "There was no checkpoint yet: start the run again.")
        tries = 1 if last is not None and _state(last) != before else tries + 1
        if tries > restarts:
            how = f"{died}, and {restarts} restarts since the last checkpoint did not help"
            go_on = f"Go on with resume={last.parent}." if last is not None else "Nothing was saved yet."
            raise TrainingError("train.workers", how, go_on)
        print(
            f"all {count} workers start again" + (f" from {last}" if last else ""),
            file=sys.stderr,
            flush=True,
        )
        values["resume_from"], restarted = last, True


def _state(checkpoint: Path | None) -> tuple[Path, int, int] | None:
    """What a new checkpoint changes; no clock is asked, since that of the disk may be another machine's."""
    if checkpoint is None or not checkpoint.exists():  # a crash may have left only the one before it
        return None
    found = checkpoint.stat()
    return checkpoint, found.st_mtime_ns, found.st_ino


class Crew:
    """`count` workers of one start; each in a session of its own, so that a Ctrl-C reaches them once."""

    def __init__(self, values: Mapping[str, Any], count: int, told: Path, restarted: bool):
        self.told, self.interrupted = told, ""
        self.ends: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.workers: list[subprocess.Popen[bytes]] = []
        home = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        own = {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
        env = own | dict(os.environ) | {"PYTHONPATH": path}
        for rank in range(count):
            place = Place(rank, count, rank, count, f"file://{told / 'meeting'}", restarted)
            with open(self._log(rank), "wb") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", WORKER],
                    stdin=subprocess.PIPE,
                    stdout=log if rank else None,
                    stderr=log if rank else None,
                    env=env,
                    start_new_session=True,
                )
            self.workers.append(worker)
            assert worker.stdin is not None
            try:
                worker.stdin.write(pickle.dumps(Job(values, place, told)))
                worker.stdin.flush()  # and left open: its end tells the worker that we are gone
            except BrokenPipeError:
                pass  # it is dead already, which `wait` will say
            threading.Thread(target=self._watch, args=(rank,), daemon=True).start()

    def wait(self) -> str:
        """Wait until all have ended well: "". Or until one died: which one and how."""
        left, after = set(range(len(self.workers))), None
        while left:
            try:
                rank = self.ends.get(timeout=None if after is None else PATIENCE)
            except queue.Empty:
                return f"worker {after} lost the others"
            left.discard(rank)
            code = self.workers[rank].returncode
            if code and code != MISTAKE and (self.told / f"{RESULT}{rank}").exists():
                continue  # its work was done; what went wrong on its way out is no loss
            if code == ENDED:
                after = rank
            elif code:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return f"worker {rank} died ({how})"
        return "" if after is None else f"worker {after} lost the others"

    def interrupt(self, name: str) -> None:
        """Pass a signal on."""
        self.interrupted = name
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.Signals[name])

    def kill(self) -> None:
        """End those that still run, at once."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            if worker.stdin is not None:
                worker.stdin.close()

    def result(self, rank: int) -> Any:
        """What a worker has written down: what `run` returned, or a UserError; None if nothing."""
        path = self.told / f"{RESULT}{rank}"
        return pickle.loads(path.read_bytes()) if path.exists() else None

    def mistake(self) -> UserError | None:
        """The first error of the user's that a worker found."""
        found = (self.result(rank) for rank in range(len(self.workers)))
        return next((each for each in found if isinstance(each, UserError)), None)

    def folder(self) -> Path | None:
        """The run's folder, once it is known."""
        path = self.told / FOLDER
        return Path(path.read_text(encoding="utf-8")) if path.exists() else None

    def last_words(self) -> str:
        """The ends of what workers other than the first have printed: theirs is shown only now."""
        said = ""
        for rank in range(1, len(self.workers)):
            lines = self._log(rank).read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
            said += "".join(f"worker {rank}: {line}\n" for line in lines)
        return said

    def _log(self, rank: int) -> Path:
        return self.told / f"log{rank}"

    def _watch(self, rank: int) -> None:
        self.workers[rank].wait()
        self.ends.put(rank)
