"""Rows of scripts/bench/gpu.py as two tables: times with speedups, and peak memory.

python -m scripts.bench.gpu_table scripts/bench/results/gpu.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def tables(rows: Sequence[Row]) -> str:
    """Times, then memory, in the order of the rows."""
    if not rows:
        return "no rows"
    loops = [r for r in rows if r["what"] == "loop" and "systems" in r]
    products = [r for r in rows if r["what"] == "matmul" and "systems" in r]
    parts = []
    if loops:
        parts.append("Microseconds a step, forward | forward + backward; in brackets: times faster than\n" +
                     "\n".join(_time(r) for r in loops))  # fmt: skip
        parts.append("Peak MB beyond weights and inputs, forward | forward + backward\n" +
                     "\n".join(_memory(r) for r in loops))  # fmt: skip
    if products:
        parts.append("Products, milliseconds (TFLOP/s) and peak MB\n" + "\n".join(map(_product, products)))
    return "\n\n".join(parts)


def _head(r: Row) -> str:
    return f"  {r['cell']:14s} {r['dtype']:9s} T {r['T']:<5d} B {r['B']:<4d} H {r['H']:<5d}"


def _time(r: Row) -> str:
    lines = [_head(r)]
    for name, s in r["systems"].items():
        text = f"    {name:12s} {s['forward_us_per_step']:10.2f} | {s['both_us_per_step']:10.2f}"
        over = {o: (f, s["both_speedup_over"][o]) for o, f in s.get("forward_speedup_over", {}).items()}
        against = ", ".join(f"{o} {f:.2f} | {b:.2f}" for o, (f, b) in over.items())
        lines.append(text + (f"   ({against})" if against else ""))
    lines += [f"    {name:12s} not here: {why}" for name, why in r["declined"].items()]
    return "\n".join(lines)


def _memory(r: Row) -> str:
    found = (f"{n} {s['forward_peak_mb']:.1f} | {s['both_peak_mb']:.1f}" for n, s in r["systems"].items())
    return f"{_head(r)} {',  '.join(found)}"


def _product(r: Row) -> str:
    ours, torch = r["systems"]["triton"], r["systems"]["torch"]
    head = f"  {r['way']:8s} {r['dtype']:9s} [{r['M']}, {r['K']}] x [{r['K']}, {r['N']}]"
    both = ", ".join(
        f"{name} {s['ms']:.3f} ({s['tflops']:.0f}) {s['peak_mb']:.0f} MB"
        for name, s in (("triton", ours), ("torch", torch))
    )
    return f"{head}  {both}; triton is {ours['speedup_over']['torch']:.2f} times as fast"


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    print(tables([json.loads(line) for line in text.splitlines() if line.strip()]))
