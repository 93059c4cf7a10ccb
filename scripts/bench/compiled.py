"""Runner compiled against the torch runner on this machine's CPU, in turns: for framework/measured_rows.py.

    python -m scripts.bench.compiled [--dtype bf16] [--cell lstm] [--size 128] [--out FILE]

FILE is scripts/bench/results/compiled.jsonl for rows that are kept.

A ratio is how many times longer the torch runner takes for the same layer with the same weights, product of
the input included: the median over neighbouring turns, for forward and backward, and for the forward alone.
Both run on one thread, and what is taken is the processor's time for them: a machine that others use, too,
changes it little. A row counts for `auto` once its line is in framework/measured_rows.py.
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
SIZES = (32, 64, 128, 512)
LANES = (1, 8, 32)
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
# How far apart two runs may be, of the size of the whole: a norm makes much of some roundings.
APART = {"fp32": 1e-4, "fp64": 1e-9, "bf16": 0.2, "fp16": 2e-2}


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


def compare(dtype: str, cell: str, size: int, lanes: int, steps: int, turns: int) -> dict[str, Any]:
    """One row. Raises SystemExit when the two do not compute the same."""
    torch.manual_seed(0)
    nets = [lstm(size, size, cell=cell, runner=runner).to(DTYPES[dtype]) for runner in ("torch", "compiled")]
    nets[1].load_state_dict(nets[0].state_dict())
    assert [net.plan.choices[0].runner for net in nets] == ["torch", "compiled"]
    kind = nets[0].plan.components[0].kind
    row: dict[str, Any] = {"dtype": dtype, "cell": cell, "kind": kind}
    row |= {"size": size, "lanes": lanes, "steps": steps}
    for name, train in (("ratio", True), ("forward", False)):
        pairs = []
        for turn in range(turns + 1):
            x = torch.randn(steps, lanes, size, dtype=DTYPES[dtype], requires_grad=train)
            pairs.append([seconds(net, x, train) for net in nets])
            if not turn:
                a, b = (net(x)[0] for net in nets)
                assert isinstance(a, Tensor) and isinstance(b, Tensor)
                if not (a - b).norm() <= APART[dtype] * a.norm():
                    raise SystemExit(f"{dtype} {cell} {size} {lanes}: the two differ, not timed")
        rest = pairs[1:]  # the first turn compiles
        row[name] = round(statistics.median(a / b for a, b in rest), 2)
        row[f"{name}_ms"] = round(statistics.median(b for _, b in rest) * 1e3, 3)
    return row


def main() -> None:
    """Measure, print lines for the table, append rows."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
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
            rows = [compare(args.dtype, cell, size, lanes, args.steps, args.turns) for lanes in LANES]
            figures = ", ".join(f"({row['lanes']}, {row['ratio']}, {row['forward']})" for row in rows)
            head = f'"{args.dtype}", "{cell}", "{rows[0]["kind"]}", {size}'
            print(f"    Compiled({head}, ({figures})),", flush=True)
            if args.out:
                with args.out.open("a") as f:
                    f.writelines(json.dumps({**here, **row}) + "\n" for row in rows)


if __name__ == "__main__":
    main()
