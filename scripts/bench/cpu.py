"""Forward + backward on this machine's CPU: ours against torch's modules and eager loops, interleaved.

    python -m scripts.bench.cpu [--quick] [--out scripts/bench/results/cpu.jsonl] [--threads 2]

Every case is refused unless outputs and input gradients agree; then the systems take turns (A B C A B C ...)
on fresh random data, and the figures are medians of the ratios of neighbouring turns. Peak memory counts the
bytes of all tensors alive at once during one forward + backward, weights not included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.bench.memory import peak_bytes
from scripts.bench.systems import System, make

T = 128
CELLS = ("lstm", "gru", "lstm_peephole", "rhn")
CASES = [(cell, b, h) for cell in CELLS for h in (128, 512) for b in (1, 8, 32)]


def fresh(b: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random input and output gradient [T, B, size]; never the same twice."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(T, b, size, generator=g).requires_grad_(), torch.randn(T, b, size, generator=g)


def turn(system: System, x: Tensor, dy: Tensor) -> float:
    """Seconds of one forward + backward."""
    for p in system.module.parameters():
        p.grad = None
    start = time.perf_counter()
    system.run(x).backward(dy)
    return time.perf_counter() - start


def check(systems: list[System], b: int, h: int) -> None:
    """All systems compute the same function: outputs and input gradients to fp32 rounding."""
    results = []
    for s in systems:
        x, dy = fresh(b, h, 1)
        y = s.run(x)
        y.backward(dy)
        assert x.grad is not None
        results.append((y.detach(), x.grad))
    for s, (y, dx) in zip(systems, results, strict=True):
        for ours, first in ((y, results[0][0]), (dx, results[0][1])):
            error = ((ours - first).norm() / first.norm()).item()
            if not error < 1e-4:
                raise SystemExit(f"{s.name} disagrees with {systems[0].name} by {error:.1e}: not timed")


def measure(cell: str, b: int, h: int, seconds: float) -> dict[str, Any]:
    """One row: median milliseconds and pairwise ratios of a case."""
    torch.manual_seed(0)
    systems = make(cell, h, h)
    check(systems, b, h)
    times: dict[str, list[float]] = {s.name: [] for s in systems}
    end, seed = time.perf_counter() + seconds, 2
    while time.perf_counter() < end or seed < 7:
        for s in systems:
            times[s.name].append(turn(s, *fresh(b, h, seed)))
        seed += 1
    ours = times["intrastream"][1:]
    row: dict[str, Any] = {"cell": cell, "T": T, "B": b, "H": h, "turns": len(ours)}
    for s in systems:
        rest = times[s.name][1:]  # the first turn warms up
        row[s.name] = {
            "ms": round(statistics.median(rest) * 1e3, 3),
            "speedup": round(statistics.median(t / o for t, o in zip(rest, ours, strict=True)), 3),
            "peak_mb": round(peak_bytes(lambda s=s: turn(s, *fresh(b, h, 1))) / 2**20, 2),
        }
    return row


def where() -> dict[str, Any]:
    """What the figures belong to."""
    def git(*args: str) -> str:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=False).stdout.strip()

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "unknown")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "-uno")),
        "cpu": model,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": "float32",
        "pass": "forward+backward",
    }


def rows(cases: list[tuple[str, int, int]], seconds: float) -> Iterator[dict[str, Any]]:
    """Rows as they are measured."""
    here = where()
    for cell, b, h in cases:
        yield {**here, **measure(cell, b, h, seconds)}


def main() -> None:
    """Run all cases, print a table, append rows."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--quick", action="store_true", help="H = 128 only, half a second a case")
    parser.add_argument("--cell", help="only this cell")
    parser.add_argument("--out", type=Path, help="append the rows to this JSONL file")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each case")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    cases = [c for c in CASES if (not args.quick or c[2] == 128) and args.cell in (None, c[0])]
    print("cell            B    H   ours ms     MB    eager     MB   torch.nn    MB")
    vendor: list[float] = []
    for row in rows(cases, 0.5 if args.quick else args.seconds):
        ours, eager = row["intrastream"], row["eager"]
        own = row.get("nn.LSTM") or row.get("nn.GRU")
        text = f"{own['speedup']:7.2f}x {own['peak_mb']:6.1f}" if own else ""
        print(
            f"{row['cell']:14s} {row['B']:3d} {row['H']:4d}  {ours['ms']:8.2f} {ours['peak_mb']:6.1f}   "
            f"{eager['speedup']:5.2f}x {eager['peak_mb']:6.1f}   {text}",
            flush=True,
        )
        if row["cell"] == "lstm" and own:
            vendor.append(own["speedup"])
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            with args.out.open("a") as f:
                f.write(json.dumps(row) + "\n")
    if vendor:
        print(f"median over the LSTM cases: {statistics.median(vendor):.2f}x nn.LSTM")


if __name__ == "__main__":
    main()
