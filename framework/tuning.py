"""Measurements of this user's GPUs, for plans: `kernels/tuning.py` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from framework.errors import ConfigError

if TYPE_CHECKING:
    from kernels.tuning import Tuning


def use(path: str | Path | None) -> None:
    """Take measurements from this file from now on; None: from the user's own. Raises ConfigError."""
    from kernels.tuning import use

    with _told():
        use(path)


def active() -> Tuning:
    """What is measured; of the user's own file, unless `use` named another. Raises ConfigError."""
    from kernels.tuning import active

    with _told():
        return active()


@contextmanager
def _told() -> Iterator[None]:
    from kernels.tuning import TuningError

    try:
        yield
    except TuningError as e:
        raise ConfigError(e.place, e.cause, e.fix) from e
