"""One case on a GPU: systems that take turns, what they need of memory, how far they are from float64."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from scripts.bench.memory import peak_bytes

Run = Callable[[], object]
L2 = 256 << 20  # bytes written between turns, so that no system finds its operands in the L2 cache


@dataclass(frozen=True)
class Device:
    """Where to measure: "cuda", or "cpu" for a rehearsal that measures nothing worth knowing."""

    kind: str

    def milliseconds(self, run: Run) -> float:
        """One call; on a GPU between two events of its stream. Its first launches hide behind the writing."""
        if self.kind == "cpu":
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) * 1e3
        torch.empty(L2, dtype=torch.int8, device=self.kind).zero_()
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        run()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)

    def peak_mb(self, run: Run) -> float:
        """Most MB alive at once during one call, beyond what was alive before."""
        if self.kind == "cpu":
            return peak_bytes(run) / 2**20
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def check(self) -> None:
        """Raises RuntimeError after a fault on the device, from which no process recovers."""
        if self.kind != "cpu":
            torch.cuda.synchronize()


def take_turns(
    device: Device, systems: Mapping[str, Run], seconds: float, fresh: Run, least: int = 5
) -> dict[str, list[float]]:
    """Milliseconds of each system in rounds A B C A B C, `fresh()` before each turn.

    The first round warms up and is not counted; at least `least`, then as many as fit into `seconds`.
    """
    times: dict[str, list[float]] = {name: [] for name in systems}
    end = time.perf_counter() + seconds
    done = -1
    while done < least or time.perf_counter() < end:
        for name, run in systems.items():
            fresh()
            took = device.milliseconds(run)
            if done >= 0:
                times[name].append(took)
        done += 1
    return times


def speedup(times: Mapping[str, list[float]], name: str, over: str) -> float:
    """Median over rounds of how many times faster `name` was than `over` in the same round."""
    return statistics.median(b / a for a, b in zip(times[name], times[over], strict=True))


def relative(got: Tensor, want: Tensor) -> float:
    """Norm of the error over the norm of what is right; NaN when anything is."""
    return ((got.double() - want).norm() / want.norm()).item()


def refusals(errors: Mapping[str, Mapping[str, float]], yardsticks: set[str], eps: float) -> list[str]:
    """Why a case must not be timed. errors: system -> result -> relative error against float64.

    A system may err twice as much as the worst yardstick (torch in the same dtype), two roundings at least;
    a yardstick that errs by a quarter computes something else.
    """
    out = []
    for system, found in errors.items():
        for what, error in found.items():
            own = max((errors[y][what] for y in yardsticks), default=0.0)
            allowed = 0.25 if system in yardsticks else 2 * max(own, eps)
            if not error <= allowed:  # a NaN, too
                out.append(f"{system}: error of {what} {error:.1e}, allowed {allowed:.1e}")
    return out
