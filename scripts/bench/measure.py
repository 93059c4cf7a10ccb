"""Systems that take turns on fresh data in rotating buffers, with cold caches; how much memory they need."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from scripts.bench.memory import peak_bytes

Run = Callable[[], object]
ROUNDS = 1  # seed of their orders
GPU_L2 = 256 << 20  # more than the L2 of any chip here (B200: 126 MB)
CPU_L3 = 32 << 20  # where the system does not tell


def last_cache() -> int:
    """Bytes of the CPU's last level of cache."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    units = {"K": 1 << 10, "M": 1 << 20}
    found = [
        int(text[:-1]) * units[text[-1]]
        for text in (p.read_text().strip() for p in sizes)
        if text[-1:] in units
    ]
    return max(found, default=CPU_L3)


@dataclass
class Device:
    """Where to measure: "cuda" or "cpu"; `cold`: write over the caches before each turn."""

    kind: str
    cold: bool = True
    scrub: Tensor = field(init=False)

    def __post_init__(self) -> None:
        size = 1 if not self.cold else GPU_L2 if self.kind == "cuda" else last_cache()
        self.scrub = torch.zeros(size, dtype=torch.int8, device=self.kind)

    def milliseconds(self, run: Run) -> float:
        """One call; on a GPU between two events of its stream. Its first launches hide behind the writing."""
        self.scrub.add_(1)
        if self.kind == "cpu":
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) * 1e3
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        run()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)

    def peak(self, run: Run) -> int:
        """Most bytes alive at once during one call, beyond what was alive before."""
        if self.kind == "cpu":
            return peak_bytes(run)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def check(self) -> None:
        """Raises RuntimeError after a fault on the device, from which no process recovers."""
        if self.kind != "cpu":
            torch.cuda.synchronize()


class Buffers:
    """Inputs and output gradients of a case: each turn gets the pair used longest ago, filled anew."""

    COUNT = 3

    def __init__(
        self, inputs: tuple[int, ...], outputs: tuple[int, ...], kind: torch.dtype, device: str, seed: int
    ):
        self.random = torch.Generator(device).manual_seed(seed)
        self.pairs = [
            (torch.empty(inputs, dtype=kind, device=device), torch.empty(outputs, dtype=kind, device=device))
            for _ in range(self.COUNT)
        ]
        self.next = 0

    def fresh(self) -> tuple[Tensor, Tensor]:
        """(input that wants its gradient, gradient of the output), of new random numbers."""
        x, dy = self.pairs[self.next]
        self.next = (self.next + 1) % self.COUNT
        x.normal_(generator=self.random)
        dy.normal_(generator=self.random)
        return x.detach().requires_grad_(), dy


def take_turns(
    device: Device, systems: Mapping[str, Callable[[], Run]], seconds: float, least: int = 5, most: int = 1000
) -> dict[str, list[float]]:
    """Milliseconds of each system in rounds, A B C, B A C, ...; `systems`: name -> makes what is timed.

    Each round has an order of its own, by a fixed seed: what a system leaves behind (threads that still wait,
    caches, memory) falls on all others alike. With one order the first of a round took up to a third longer
    than the same runner in the third place. The first round warms up and is not counted; at least `least`,
    then as many as fit into `seconds`.
    """
    order = list(systems.items())
    shuffle = random.Random(ROUNDS).shuffle
    times: dict[str, list[float]] = {name: [] for name in systems}
    end = time.perf_counter() + seconds
    done = -1
    while done < least or (time.perf_counter() < end and done < most):
        shuffle(order)
        for name, ready in order:
            took = device.milliseconds(ready())
            if done >= 0:
                times[name].append(took)
        done += 1
    return times


def speedup(times: Mapping[str, Sequence[float]], name: str, over: str) -> float:
    """Median over rounds of how many times faster `name` was than `over` in the same round."""
    return statistics.median(b / a for a, b in zip(times[name], times[over], strict=True))


def quantile(times: Sequence[float], part: float) -> float:
    """The value below which `part` of the times lie, between neighbours in proportion."""
    ordered = sorted(times)
    at = part * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
