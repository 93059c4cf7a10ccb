"""Runner torch-fused (torch's own LSTM, GRU, RNN) against ours, in turns: rows for framework/measured.py.

    python -m scripts.bench.fused [--kind lstm] [--device cuda] [--dtype bf16] [--out FILE] [--threads 2]

A ratio is how many times longer our runner takes for the same layer with the same weights, product of the
input included: the median over neighbouring turns, for forward and backward, and for the forward alone. A row
counts for `auto` once its line is in framework/measured.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework import Network, from_torch
from framework.machine import ITEMSIZE
from framework.runners.place import DTYPES, machine_of
from scripts.bench.cpu import where

KINDS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda a, b: nn.RNN(a, b, nonlinearity="relu"),
}
SIZES = {"cpu": (32, 128, 512), "cuda": (128, 256, 512, 1024, 2048)}
LANES = {"cpu": (1, 8, 32), "cuda": (1, 16, 64, 256)}


def seconds(net: Network, x: Tensor, train: bool) -> float:
    """One forward, or forward and backward."""
    for p in net.parameters():
        p.grad = None
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    with torch.set_grad_enabled(train):
        y = net(x)[0]
        assert isinstance(y, Tensor)
        if train:
            y.backward(torch.ones_like(y))
    wait()
    return time.perf_counter() - start


def compare(
    kind: str, size: int, lanes: int, steps: int, device: str, dtype: torch.dtype, turns: int
) -> dict[str, Any]:
    """One row. Raises SystemExit when the two do not compute the same."""
    torch.manual_seed(0)
    theirs = KINDS[kind](size, size).to(device, dtype)
    ours = from_torch(theirs, runner="persistent" if device == "cuda" else "torch")
    fused = from_torch(theirs, runner="torch-fused")
    assert fused.plan.choices[0].runner == "torch-fused", fused.plan.choices
    row: dict[str, Any] = {"kind": kind, "size": size, "lanes": lanes, "steps": steps}
    row["against"] = ours.plan.choices[0].runner
    for name, train in (("ratio", True), ("forward", False)):
        pairs = []
        for turn in range(turns + 1):
            x = torch.randn(steps, lanes, size, device=device, dtype=dtype, requires_grad=train)
            pairs.append((seconds(ours, x, train), seconds(fused, x, train)))
            if not turn:
                a, b = ours(x)[0], fused(x)[0]
                assert isinstance(a, Tensor) and isinstance(b, Tensor)
                if not (a - b).norm() <= 0.02 * a.norm():
                    raise SystemExit(f"{kind} {size} {lanes}: the two differ, not timed")
        rest = pairs[1:]  # the first turn warms up
        row[name] = round(statistics.median(a / b for a, b in rest), 2)
        row[f"{name}_ms"] = round(statistics.median(b for _, b in rest) * 1e3, 3)
    machine = machine_of(fused.like)
    return {**row, "place": machine.chip or machine.device, "dtype": machine.dtype}


def main() -> None:
    """Measure, print lines for the table, append rows."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--kind", choices=KINDS, help="only this one")
    parser.add_argument("--device", choices=SIZES, default="cpu")
    parser.add_argument("--dtype", choices=[d for d in ITEMSIZE if d != "tf32"], default="fp32")
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, help="append the rows to this JSONL file")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    dtype = next(t for t, name in DTYPES.items() if name == args.dtype)
    here = {k: v for k, v in where().items() if k not in ("dtype", "pass")}
    if args.device == "cuda":
        here["gpu"] = torch.cuda.get_device_name()
    for kind in [args.kind] if args.kind else KINDS:
        for size in SIZES[args.device]:
            for lanes in LANES[args.device]:
                row = compare(kind, size, lanes, args.steps, args.device, dtype, args.turns)
                place, number = row["place"], row["dtype"]
                figures = f"{size}, {lanes}, {row['ratio']}, {row['forward']}"
                print(f'    Row("{place}", "{number}", "{kind}", {figures}),', flush=True)
                if args.out:
                    with args.out.open("a") as f:
                        f.write(json.dumps({**here, **row}) + "\n")


if __name__ == "__main__":
    main()
