"""Making many small objects that stay: the garbage collector would walk them again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Loading and planning large graphs spend half their time in the collector otherwise."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if gc.get_freeze_count() == 0:  # move all that was made to the old generation, unseen
                gc.freeze()
                gc.unfreeze()
            gc.enable()
