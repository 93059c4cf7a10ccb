"""Where torch's own LSTM, GRU or RNN was measured faster than our runners: data by which `auto` takes it."""

from __future__ import annotations

from typing import NamedTuple

from framework.component import Component
from framework.machine import Machine


class Row(NamedTuple):
    """One comparison, forward and backward of one layer, both ways with the product of the input.

    place: a chip, or "cpu"; kind, size: of the loop (see `vanilla.py`); ratio: how many times longer our own
    runner takes (above 1: torch's is faster).
    """

    place: str
    dtype: str
    kind: str
    size: int
    lanes: int
    ratio: float


# No GPU has been measured.
TABLE: tuple[Row, ...] = ()


def unproven(c: Component, machine: Machine) -> str:
    """Why `auto` does not take torch's own for a recognised loop there, or "" where it was faster.

    A loop is judged by the rows of the next larger size (or the largest one), all of them: how many lanes
    there will be is not known.
    """
    found = c.vanilla
    if isinstance(found, str):
        return found
    place = machine.chip or machine.device
    kind = f"{found.kind} with projection" if found.project else found.kind
    rows = [r for r in TABLE if (r.place, r.dtype, r.kind) == (place, machine.dtype, kind)]
    if not rows:
        return f"it was not measured: {kind}, {machine.dtype}, {place}"
    larger = [r.size for r in rows if r.size >= found.size]
    size = min(larger) if larger else max(r.size for r in rows)
    slower = [r for r in rows if r.size == size and r.ratio <= 1.0]
    if slower:
        return (
            f"it was slower with {size} units and {slower[0].lanes} lanes: {slower[0].ratio:.2f} of our speed"
        )
    return ""
