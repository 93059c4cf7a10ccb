"""Progress of a run for a person: a bar with the time to go on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from tqdm import tqdm

from framework.logging import say

SHOWN = (
    "accuracy",
    "bits_per_character",
    "per",
    "pinball",
    "mse",
    "mae",
)  # the metrics worth a place on a narrow line; accuracy_39 starts so


class Console:
    """A log that prints. `total`: updates in all, where known (0: not known); `first`: updates done before.

    On a terminal the bar moves at every update; otherwise a line is printed at most every `seconds`, and at
    every evaluation.
    """

    def __init__(self, total: int = 0, first: int = 0, seconds: float = 10.0, stream: TextIO | None = None):
        self.total, self.first, self.seconds = total, first, seconds
        self.stream = stream or sys.stderr
        self.begun = time.monotonic()
        self.printed = float("-inf")
        self.bar = None
        if self.stream.isatty():
            self.bar = tqdm(
                total=total or None,
                initial=first,
                file=self.stream,
                unit="update",
                dynamic_ncols=True,
                mininterval=0.2,
            )

    def tick(self, step: int) -> None:
        """Update number `step` is done."""
        with self._screen():
            if self.bar is not None:
                self.bar.update(step - self.bar.n)

    def write(self, record: Mapping[str, Any]) -> None:
        """Show a record of `step` or `eval`."""
        kind = record["kind"]
        if kind == "step" and self.bar is not None:
            with self._screen():
                self.bar.set_postfix_str(summary(record, ", "))
        elif kind == "step" and time.monotonic() - self.printed >= self.seconds:
            self._line(
                f"epoch {record['epoch']} update {record['step']}{self._of()}  {summary(record)}  "
                f"{record['frames_per_s']:,.0f} frames/s{self._left(record['step'])}"
            )
        elif kind == "eval":
            best = "  best" if record.get("best") else ""
            lower = "  learning rate lowered" if record.get("lr_lowered") else ""
            where = f"epoch {record['epoch']} update {record['step']}"
            self._line(f"{where}  {record['split']}: {summary(record)}{best}{lower}")

    def close(self) -> None:
        """Leave the bar as it is."""
        with self._screen():
            if self.bar is not None:
                self.bar.close()

    @contextlib.contextmanager
    def _screen(self) -> Iterator[None]:
        """A terminal that is gone ends no run: there is no bar from then on."""
        try:
            yield
        except OSError:
            assert self.bar is not None, "only the bar writes here"
            self.bar.disable, self.bar = True, None  # a disabled one does not write when it is collected

    def _line(self, text: str) -> None:
        with self._screen():
            if self.bar is not None:
                self.bar.write(text, file=self.stream)
                self.printed = time.monotonic()
                return
        say(text, self.stream)
        self.printed = time.monotonic()

    def _of(self) -> str:
        return f" of {self.total}" if self.total else ""

    def _left(self, step: int) -> str:
        """The time to go, from the pace so far."""
        if not self.total or step <= self.first:
            return ""
        pace = (time.monotonic() - self.begun) / (step - self.first)
        return f"  {clock(pace * max(self.total - step, 0))} to go"


def summary(record: Mapping[str, Any], between: str = "  ") -> str:
    """The loss and the metrics of a record on one line."""
    shown = [f"loss {record['loss']:.4f}"]
    shown += [
        f"{key.replace('_', ' ')} {value:.4f}" for key, value in record.items() if key.startswith(SHOWN)
    ]
    return between.join(shown)


def clock(seconds: float) -> str:
    """Seconds as 12s, 3m05s or 2h10m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
