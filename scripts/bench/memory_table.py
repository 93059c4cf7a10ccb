"""What `memory` and `chunk` cost on this CPU: peak bytes and time beside nn.LSTM, nn.GRU and an eager loop.

    python -m scripts.bench.memory_table [--quick] [--out scripts/bench/results/memory.jsonl]

All systems take turns on the same data; times are medians, figures are ratios inside one run. Peaks count all
tensors that live at once, weights and gradients included. One row for each system; `predicted`: the plan's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework import Network, lstm
from scripts.bench.memory import peak_bytes
from scripts.bench.systems import EagerCells

CASES = [("lstm", 1), ("gru", 1), ("lstm_norm", 1), ("lstm", 3)]
MODES = [("save", None), ("recompute", None), ("save", 64), ("recompute", 64)]
TORCH = {"lstm": (nn.LSTM, nn.LSTMCell), "gru": (nn.GRU, nn.GRUCell)}


class EagerStack(nn.Module):
    """Layers of `EagerCells`."""

    def __init__(self, cell: Callable[[int, int], nn.Module], inputs: int, size: int, layers: int):
        super().__init__()
        sizes = [inputs, *[size] * (layers - 1)]
        self.layers = nn.Sequential(*(EagerCells(cell(n, size), size) for n in sizes))

    def forward(self, x: Tensor) -> Tensor:
        """x [T, B, inputs] -> h [T, B, size]."""
        return self.layers(x)


def systems(cell: str, layers: int, inputs: int, size: int) -> dict[str, nn.Module]:
    """Ours in all modes, and torch's own where there are any."""
    graph = lstm(inputs, size, layers=layers, cell=cell).graph
    out: dict[str, nn.Module] = {}
    for memory, chunk in MODES:
        name = memory + (f" chunk={chunk}" if chunk else "")
        out[name] = Network(graph, runner="torch", memory=memory, chunk=chunk)  # type: ignore[arg-type]
    if cell in TORCH:
        whole, step = TORCH[cell]
        out[f"nn.{whole.__name__}"] = whole(inputs, size, layers)
        out["eager"] = EagerStack(step, inputs, size, layers)
    return out


def turn(net: nn.Module, x: Tensor, dy: Tensor) -> float:
    """Seconds of one forward and backward."""
    for p in net.parameters():
        p.grad = None
    weights = [p.detach() for p in net.parameters()]  # counted, too
    start = time.perf_counter()
    y = net(x)
    y = y[0] if isinstance(y, tuple) else y
    y.backward(dy)
    del weights
    return time.perf_counter() - start


def measure(cell: str, layers: int, steps: int, lanes: int, size: int, turns: int) -> list[dict[str, Any]]:
    """Rows of one case."""
    x, dy = torch.randn(steps, lanes, size), torch.randn(steps, lanes, size)
    made = systems(cell, layers, size, size)
    for net in made.values():
        turn(net, x, dy)
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(turns):
        for name, net in made.items():
            times[name].append(turn(net, x, dy))
    rows = []
    for name, net in made.items():
        for p in net.parameters():
            p.grad = None
        peak = peak_bytes(lambda net=net: turn(net, x, dy))
        row: dict[str, Any] = {"cell": cell, "layers": layers, "T": steps, "B": lanes, "H": size}
        row["system"] = name
        row["ms"] = round(1e3 * statistics.median(times[name]), 1)
        row["peak_mb"] = round(peak / 2**20, 2)
        if isinstance(net, Network):
            row["predicted_mb"] = round(net.peak_bytes(steps, lanes) / 2**20, 2)
        rows.append(row)
    base = rows[0]
    for row in rows:
        row["time_of_save"] = round(row["ms"] / base["ms"], 2)
        row["peak_of_save"] = round(row["peak_mb"] / base["peak_mb"], 2)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; append rows to a file."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--out", type=Path)
    asked.add_argument("--threads", type=int, default=1)
    given = asked.parse_args(arguments)
    torch.set_num_threads(given.threads)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    about = {"commit": commit.stdout.strip(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
             "torch": torch.__version__, "threads": given.threads}  # fmt: skip
    steps, size, turns = (64, 32, 1) if given.quick else (256, 256, 3)
    for cell, layers in CASES:
        for row in measure(cell, layers, steps, 16, size, turns):
            print(json.dumps(row), flush=True)
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps(about | row) + "\n")


if __name__ == "__main__":
    main()
