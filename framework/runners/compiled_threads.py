"""Threads that run parts of one function at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock

_lock = Lock()
_pools: list[
    tuple[int, ThreadPoolExecutor]
] = []  # none, or the one that there is, with its number of threads


def _forget() -> None:
    """A child of a fork has none of its parent's threads, and may have copied a lock that is taken."""
    global _lock
    _lock = Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def at_once(part: Callable[[int, int], None], n: int, let_go: Callable[[], None]) -> None:
    """part(i, n) for i below n, all at the same time: they may wait for each other.

    While another call has the threads, part(0, 1) does it all. let_go: ends all waiting, of parts that have
    begun and of those that will. When something is raised in the middle (Ctrl-C), no part runs any more by
    the time that it leaves here: they write to memory that the caller then gives back.
    """
    if n < 2 or not _lock.acquire(blocking=False):
        part(0, 1)
        return
    others: list[Future[None]] = []
    try:
        pool = _pool(n - 1)
        for i in range(1, n):
            others.append(pool.submit(part, i, n))
        part(0, n)
        for other in others:
            other.result()
    except BaseException:
        let_go()
        _end(others)
        raise
    finally:
        _lock.release()


def _pool(n: int) -> ThreadPoolExecutor:
    """n threads or more, the same ones for all calls."""
    if _pools and _pools[0][0] < n:
        _end()
    if not _pools:
        _pools.append((n, ThreadPoolExecutor(n, "intrastream-loop")))
    return _pools[0][1]


def _end(others: Sequence[Future[None]] = ()) -> None:
    """End the threads once they have done all that they were given, `others` above all: a wait for these can
    be interrupted and begun again, which one for threads cannot. What interrupts it is raised then.
    """
    interrupts: list[BaseException] = []
    ended = False
    while not ended:
        try:
            wait(others)
            for _, pool in _pools:
                pool.shutdown()
            _pools.clear()
            ended = True
        except BaseException as e:
            interrupts.append(e)
    if interrupts:
        raise interrupts[0]
