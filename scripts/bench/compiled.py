"""Runner compiled against the torch runner on this machine's CPU, in turns: rows for framework/measured.py.

    python -m scripts.bench.compiled [--cell lstm] [--size 128] [--out scripts/bench/results/compiled.jsonl]

A ratio is how many times longer the torch runner takes for the same layer with the same weights, product of
the input included: the median over neighbouring turns, for forward and backward, and for the forward alone.
Both run on one thread, and what is taken is the processor's time for them: a machine that others use, too,
changes it little. A row counts for `auto` once its line is in framework/measured.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework import Network, lstm
from scripts.bench import where

CELLS = ("lstm", "gru", "lstm_peephole", "lstm_norm", "rhn", "mgu", "indrnn", "sru", "mingru", "minlstm")
SIZES = (64, 128, 512)
LANES = (1, 8, 32)


def seconds(net: Network, x: Tensor, train: bool) -> float:
    """The processor's time for one forward, or forward and backward."""
    for p in net.parameters():
        p.grad = None
    start = time.process_time()
    with torch.set_grad_enabled(train):
        y = net(x)[0]
        assert isinstance(y, Tensor)
        if train:
            y.backward(torch.ones_like(y))
    return time.process_time() - start


def compare(cell: str, size: int, lanes: int, steps: int, turns: int) -> dict[str, Any]:
    """One row. Raises SystemExit when the two do not compute the same."""
    torch.manual_seed(0)
    nets = [lstm(size, size, cell=cell, runner=runner) for runner in ("torch", "compiled")]
    nets[1].load_state_dict(nets[0].state_dict())
    assert [net.plan.choices[0].runner for net in nets] == ["torch", "compiled"]
    kind = nets[0].plan.components[0].kind
    row: dict[str, Any] = {"cell": cell, "kind": kind, "size": size, "lanes": lanes, "steps": steps}
    for name, train in (("ratio", True), ("forward", False)):
        pairs = []
        for turn in range(turns + 1):
            x = torch.randn(steps, lanes, size, requires_grad=train)
            pairs.append([seconds(net, x, train) for net in nets])
            if not turn:
                a, b = (net(x)[0] for net in nets)
                assert isinstance(a, Tensor) and isinstance(b, Tensor)
                if not (a - b).norm() <= 1e-4 * a.norm():
                    raise SystemExit(f"{cell} {size} {lanes}: the two differ, not timed")
        rest = pairs[1:]  # the first turn compiles
        row[name] = round(statistics.median(a / b for a, b in rest), 2)
        row[f"{name}_ms"] = round(statistics.median(b for _, b in rest) * 1e3, 3)
    return row


def main() -> None:
    """Measure, print lines for the table, append rows."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--cell", choices=CELLS, help="only this one")
    parser.add_argument("--size", type=int, choices=SIZES, help="only this one")
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, help="append the rows to this JSONL file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    here = {**where.here("cpu"), "clock": "processor time"}
    for cell in [args.cell] if args.cell else CELLS:
        for size in [args.size] if args.size else SIZES:
            for lanes in LANES:
                row = compare(cell, size, lanes, args.steps, args.turns)
                figures = f"{size}, {lanes}, {row['ratio']}, {row['forward']}"
                print(f'    Compiled("{cell}", "{row["kind"]}", {figures}),', flush=True)
                if args.out:
                    with args.out.open("a") as f:
                        f.write(json.dumps({**here, **row}) + "\n")


if __name__ == "__main__":
    main()
