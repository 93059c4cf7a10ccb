"""Threads that run parts of one function at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

_lock = Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def _forget() -> None:
    """A child of a fork has none of its parent's threads, and may have copied a lock that is taken."""
    global _lock
    _lock = Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def at_once(part: Callable[[int, int], None], n: int) -> None:
    """part(i, n) for i below n, all at the same time: they may wait for each other.

    While another call has the threads, part(0, 1) does it all.
    """
    if n < 2 or not _lock.acquire(blocking=False):
        part(0, 1)
        return
    try:
        if n not in _pools:
            _pools[n] = ThreadPoolExecutor(n - 1, "intrastream-loop")
        others = [_pools[n].submit(part, i, n) for i in range(1, n)]
        part(0, n)
        for other in others:
            other.result()
    finally:
        _lock.release()
