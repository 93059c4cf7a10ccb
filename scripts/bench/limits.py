"""What this machine can do at most, measured in the run that it is held against: products and bytes a second.

`scripts/bench/ceilings.py` measures more constants of the same machine, those of the model of cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from framework.runners.products import times_t

# A square product that keeps all units busy, and a copy that no cache holds: (side, megabytes).
SIZES = {"cpu": (1024, 96), "cuda": (8192, 1024)}


@dataclass(frozen=True)
class Limits:
    """`flops`: name of a dtype -> floating point operations a second of a large product by torch;
    `bandwidth`: bytes a second read and written by a large copy.
    """

    flops: dict[str, float]
    bandwidth: float

    def floor(self, dtype: str, flops: float, moved: float) -> float:
        """Seconds below which no way of computing gets: the larger of arithmetic and memory traffic.

        `moved`: bytes read and written at least. It knows nothing of steps that wait for each other.
        """
        return max(flops / self.flops[dtype], moved / self.bandwidth)


def best(run: Callable[[], object], device: str, seconds: float, least: int = 3) -> float:
    """Seconds of the shortest of at least `least` runs: a ceiling is what was reached once."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    run()
    wait()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        wait()
        found.append(time.perf_counter() - start)
    return min(found)


def product_flops(device: str, dtype: torch.dtype, seconds: float = 0.3, side: int = 0) -> float:
    """Floating point operations a second of a [side, side] product, by whichever library is faster."""
    n = side or SIZES[device][0]
    g = torch.Generator(device).manual_seed(1)
    a, b = (torch.randn(n, n, generator=g, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    ways = [lambda: torch.mm(a, b, out=out)]
    if device == "cpu":  # oneDNN beats the library behind mm on some processors
        ways.append(lambda: times_t(a, b))
    return 2 * n**3 / min(best(way, device, seconds) for way in ways)


def copy_bandwidth(device: str, seconds: float = 0.3, megabytes: int = 0) -> float:
    """Bytes a second read and written together by a copy."""
    size = (megabytes or SIZES[device][1]) << 18
    a = torch.zeros(size, device=device)
    b = torch.ones_like(a)
    return 2 * 4 * size / best(lambda: b.copy_(a), device, seconds)


def measure(device: str, dtypes: Iterable[torch.dtype], seconds: float = 0.3, scale: float = 1.0) -> Limits:
    """Of a device, "cpu" or "cuda"; `seconds`: for each figure; scale: of sizes, to rehearse."""
    side, megabytes = (max(1, round(n * scale)) for n in SIZES[device])
    flops = {
        str(d).removeprefix("torch."): product_flops(device, d, seconds, side)
        for d in sorted(dtypes, key=str)
    }
    return Limits(flops, copy_bandwidth(device, seconds, megabytes))
