"""Jobs of a sweep as processes of their own: one that crashes, leaks or is killed harms no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from framework.errors import ConfigError

T = TypeVar("T")
LOCK = ".lock"


class Ended(NamedTuple):
    """How a process ended: its code (negative: the signal that killed it) and the last line it said."""

    code: int
    said: str


class Processes:
    """Runs commands, at most `at_once` of them; `lock` is a file descriptor that they hold open, too."""

    def __init__(self, at_once: int, lock: int | None = None):
        self.at_once, self.lock = at_once, lock
        self.running: dict[int, subprocess.Popen] = {}
        self.guard = threading.RLock()  # a signal may come while `stop` has it
        self.stopping = False

    def run(self, command: Sequence[str], output: Path) -> Ended:
        """Run one to its end; what it says is appended to the file `output`."""
        with open(output, "ab") as file:
            begin = file.tell()
            with self.guard:
                if self.stopping:
                    return Ended(-signal.SIGINT, "not started")
                # A session of its own: Ctrl-C reaches it once, by `stop`, and not from the terminal, too.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=() if self.lock is None else (self.lock,),
                )
                self.running[process.pid] = process
        code = process.wait()
        with self.guard:
            del self.running[process.pid]
        with open(output, "rb") as file:
            file.seek(begin)
            lines = file.read().decode(errors="replace").strip().splitlines()
        return Ended(code, lines[-1].strip() if lines else "")

    def stop(self) -> None:
        """Ask all to end after what they are at, and start no others."""
        with self.guard:
            self.stopping = True
            for process in self.running.values():
                process.send_signal(signal.SIGINT)

    def all(
        self, next_job: Callable[[], T | None], work: Callable[[T], Any], over: Callable[[T, Any], None]
    ) -> None:
        """Take jobs from `next_job` until it gives None, `work` on them in threads, and tell `over` each end.

        `next_job` and `over` run in this thread. Ctrl-C and SIGTERM stop all processes; once `over` was told
        of the ends of all, KeyboardInterrupt is raised.
        """
        with ThreadPoolExecutor(self.at_once) as pool, _answered(self.stop) as asked:
            futures: dict[Future, T] = {}
            try:
                while True:
                    while not self.stopping and len(futures) < self.at_once:
                        if (job := next_job()) is None:
                            break
                        futures[pool.submit(work, job)] = job
                    if not futures:
                        break
                    for future in wait(futures, return_when=FIRST_COMPLETED).done:
                        over(futures.pop(future), future.result())
            except BaseException:
                self.stop()
                raise
        if asked:
            raise KeyboardInterrupt


@contextmanager
def _answered(answer: Callable[[], None]) -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM, which batch systems send before their limit, call `answer` and are listed.

    Nothing is raised: it would come in the middle of anything, such as after a job was begun and before that
    was noted. Only the main thread can catch signals.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: Any) -> None:
        asked.append(number)
        answer()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def held(folder: Path) -> Iterator[int | None]:
    """Hold the sweep in `folder`: no second one runs in it, also not while jobs of a killed one still do.

    Gives the descriptor that jobs inherit; None where the system has no such locks. Raises ConfigError.
    """
    if sys.platform == "win32":
        yield None
        return
    import fcntl

    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            fix = "Wait for its jobs to end, or end them."
            raise ConfigError(str(folder), "this sweep is still running", fix) from error
        yield descriptor
    finally:
        os.close(descriptor)
