"""Processor time of one layer on one thread, the least of some calls: rows that predictions are held against.

    python -m scripts.bench.processor [--out scripts/bench/results/times.jsonl]

Wall time on a machine that others use says little about a model of it; the processor time of a single thread
leaves out when others ran, not that they empty its caches.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from framework import Network
from scripts.bench.predicted import BOTH, layer
from scripts.bench.where import here

STEPS, TURNS = 64, 12
CELLS = {
    "torch": ("lstm", "gru_cudnn", "lstm_peephole", "rhn", "lstm_norm", "sru"),
    "torch-fused": ("lstm", "gru_cudnn", "rnn_tanh"),
}
SHAPES = ((1, 128), (8, 128), (32, 128), (1, 512), (8, 512))


def milliseconds(net: Network, lanes: int, units: int, train: bool) -> float:
    """The least processor time of a call on random inputs."""
    found = []
    for _ in range(TURNS + 1):
        x = torch.randn(STEPS, lanes, units, requires_grad=train)
        net.zero_grad()
        start = time.process_time()
        with torch.set_grad_enabled(train):
            y = net(x)[0]
            assert isinstance(y, torch.Tensor)
            if train:
                y.sum().backward()
        found.append(time.process_time() - start)
    return min(found[1:]) * 1e3


def rows() -> Iterator[dict[str, Any]]:
    """A row for each case, forward, and forward and backward."""
    for runner, cells in CELLS.items():
        for cell in cells:
            for lanes, units in SHAPES:
                net = Network(layer(cell, units, runner).graph, runner=runner)
                assert net.plan.choices[0].runner == runner, net.plan.choices
                for passes, train in (("forward", False), (BOTH, True)):
                    ms = milliseconds(net, lanes, units, train)
                    case = {"runner": runner, "cell": cell, "T": STEPS, "B": lanes, "H": units}
                    yield {**here("cpu"), **case, "pass": passes, "ms": round(ms, 4)}


def main() -> None:
    """Measure, print, append rows."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, help="append the rows to this JSONL file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    for row in rows():
        print(row["runner"], row["cell"], row["B"], row["H"], row["pass"], f"{row['ms']:.3f} ms", flush=True)
        if args.out:
            with args.out.open("a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
