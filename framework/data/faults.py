"""Data that cannot be used: refused, or left out and said, as `data.on_error` tells."""

from __future__ import annotations

import json
from pathlib import Path

from framework.data.cache import damaged
from framework.data.options import one_of
from framework.errors import DataError
from framework.logging import warn

SHOWN = 10  # lines; a corpus on a broken disk would fill the screen
FILE = "skipped.json"


class Faults:
    """What was wrong with the data. on_error: `stop` raises the first DataError, `skip` notes all of them."""

    def __init__(self, on_error: str = "stop"):
        one_of("on_error", on_error, ("stop", "skip"))
        self.on_error = on_error
        self.found: list[str] = []
        self.said = False

    def add(self, error: DataError) -> None:
        """Raise it, or note it: what it names is left out."""
        if self.on_error == "stop":
            raise error
        self.found.append(f"{error.place}: {error.cause}")
        if self.said and len(self.found) <= SHOWN:  # what is only found while it trains
            warn(_line(self.found[-1]))

    def save(self, folder: Path) -> None:
        """Keep the notes beside what was made, for those who find it made."""
        (folder / FILE).write_text(json.dumps(self.found), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take the notes of `save`."""
        path = folder / FILE
        try:
            self.found += json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise damaged(path, folder, str(error)) from error

    def say(self) -> str:
        """Warn of what was left out, one line each, the first ones of many; a sentence for `describe`."""
        self.said = True
        for line in self.found[:SHOWN]:
            warn(_line(line))
        if len(self.found) > SHOWN:
            warn(f"{len(self.found) - SHOWN} more were left out")
        return f"{len(self.found)} left out as broken." if self.found else ""


def _line(found: str) -> str:
    return f"{found}; left out (data.on_error=skip)"
