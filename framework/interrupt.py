"""Ctrl-C and SIGTERM: noted, so that a run can end where its state is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def noted(note: Callable[[str], None]) -> Iterator[None]:
    """Inside, the first of these signals calls `note` with its name; a second one acts as it always does.

    Outside of the main thread, where signals cannot be caught, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = (signal.SIGINT, signal.SIGTERM)
    old = {number: signal.getsignal(number) for number in names}

    def handle(number: int, frame: Any) -> None:
        note(signal.Signals(number).name)
        for each in names:
            signal.signal(each, old[each])

    for number in names:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in names:
            signal.signal(number, old[number])
