"""The longest chunk whose forward and backward fit into a given amount of memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from scripts.bench import cases
from scripts.bench.bench import SEED, Bench
from scripts.bench.cases import BOTH, Case
from scripts.bench.contest import contest, passes
from scripts.bench.measure import Buffers, Device, take_turns
from scripts.bench.rows import Row
from scripts.bench.system import System

NEAR = 1 / 32  # how exactly the largest T is found, as a part of it


def largest(needs: Callable[[int], int], budget: int, first: int, most: int) -> int:
    """The largest T up to `most` with needs(T) <= budget, to a part of NEAR; 0 when `first` does not fit."""
    low, high = 0, first
    while high <= most and needs(high) <= budget:
        low, high = high, 2 * high
    if not low:
        return 0
    if high > most:
        if needs(most) <= budget:
            return most
        high = most
    while high - low > max(1, int(low * NEAR)):
        middle = (low + high) // 2
        low, high = (middle, high) if needs(middle) <= budget else (low, middle)
    return low


def need(system: System, case: Case, steps: int, device: Device) -> int:
    """Bytes of one forward and backward over `steps`, input and output gradient included; on a GPU that has
    not as much, more than it has.
    """
    try:
        turn = passes(system, BOTH, buffers(case, steps, device.kind))
        return device.peak(turn()) + 2 * steps * case.B * (case.F + case.H) * case.kind.itemsize
    except torch.OutOfMemoryError:
        return torch.cuda.mem_get_info()[1] + 1
    finally:
        system.module.zero_grad(set_to_none=True)


def buffers(case: Case, steps: int, device: str) -> Buffers:
    """Fresh inputs and output gradients of so many steps."""
    return Buffers((steps, case.B, case.F), (steps, case.B, case.H), case.kind, device, SEED)


def fit(case: Case, bench: Bench) -> list[Row]:
    """Rows with the figure `largest T`; options: megabytes, most steps. Times are at the case's T."""
    budget, most = int(case.option("megabytes")) << 20, int(case.option("most"))
    made = contest(case, bench.device.kind, bench.version)
    data = buffers(case, case.T, bench.device.kind)
    times = take_turns(bench.device, {s.name: passes(s, BOTH, data) for s in made.systems}, bench.seconds)
    rows = []
    for s in made.systems:
        steps = largest(lambda t, s=s: need(s, case, t, bench.device), budget, min(case.T, most), most)
        figures = {"largest T": steps, "rows": steps * case.B, "looked up to T": most, **s.figures}
        work = cases.work(case, made.graph, BOTH)
        peak = bench.device.peak(passes(s, BOTH, data)())
        rows.append(
            bench.row(case, s, BOTH, times, work, peak_bytes=peak, figures=figures, declined=made.declined)
        )
        s.module.zero_grad(set_to_none=True)
    return rows
