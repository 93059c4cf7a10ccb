"""Folders in which something is made before it gets its name; those of makers that were killed are removed.

Each has a lock file beside it, which its maker holds: the system lets go of it when the maker ends, however
that is. So a folder whose lock is free belongs to nobody. The lock is there before the folder and goes after
it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK = ".lock"
OTHERS = 86400.0  # seconds: some network disks keep locks from other machines; those are given a day


@contextlib.contextmanager
def scratch(base: Path, kind: str) -> Iterator[Path]:
    """A new folder `.kind-...` in `base`; what is left of it when the block ends is removed.

    Removes those of makers that are gone, too. Raises OSError where nothing can be written.
    """
    sweep(base)
    lock, path = _take(base, kind)
    with lock:
        work = path.with_suffix("")
        try:
            lock.write(platform.node())
            lock.flush()
            work.mkdir()
            yield work
        finally:
            _remove(work, path)


def sweep(base: Path) -> None:
    """Remove the folders in `base` whose makers are gone."""
    for path in base.glob(f".*{LOCK}"):
        try:
            with open(path, "r+", encoding="utf-8", errors="replace") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = lock.read() == platform.node()
                if ours or time.time() - os.fstat(lock.fileno()).st_mtime > OTHERS:
                    _remove(path.with_suffix(""), path)
        except OSError:
            continue  # in use, gone by now, of another user, or a disk without locks: not ours to remove


def _take(base: Path, kind: str) -> tuple[IO[str], Path]:
    """A lock file that is held by this process, for the caller to close, and where it is."""
    while True:
        number, name = tempfile.mkstemp(prefix=f".{kind}-", suffix=LOCK, dir=base)
        lock = open(number, "w", encoding="utf-8")
        with contextlib.suppress(OSError):  # a disk without locks: nothing is ever swept there
            fcntl.flock(lock, fcntl.LOCK_EX)
        path = Path(name)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(number)):
            return lock, path
        lock.close()  # swept in the moment before it was held


def _remove(work: Path, path: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)  # gone already where it has got its name
    if not work.exists():
        path.unlink(missing_ok=True)
