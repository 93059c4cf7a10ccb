"""Has anything become slower? Ten cases against the last rows that were kept, by hand.

    python -m scripts.bench.guard [--seconds 2] [--rows scripts/bench/results/rows.jsonl]

What is compared is the ratio of our time to an eager loop's of the same turns, forward and backward: it
does not care how fast the machine is today, but a machine that is busy with other things can still bend
it, so that a failure is measured once more before it counts. Fails over 10 %. Rows of another machine or
another number of threads are not compared with.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from scripts.bench import contest, rows, where
from scripts.bench.bench import Bench
from scripts.bench.cases import BOTH, Case
from scripts.bench.measure import Device
from scripts.bench.rows import Row
from scripts.bench.system import OURS

WORSE = 1.10  # times longer beside the eager loop
REFERENCE = "eager loop"
TABLE = "guard"
SIZES = (("lstm", 8, 128), ("lstm", 32, 512), ("gru_cudnn", 8, 128), ("lstm_peephole", 1, 128),
         ("lstm_peephole", 32, 256), ("lstm_norm", 8, 128), ("mgu", 8, 128), ("rhn", 8, 128),
         ("lstm_projection", 8, 256), ("feedback", 8, 128))  # fmt: skip
CASES = tuple(
    Case(table=TABLE, cell=cell, T=128, B=b, H=h, passes=(BOTH,), systems=(OURS, REFERENCE))
    for cell, b, h in SIZES
)


def last(known: Sequence[Row], case: Case, machine: tuple[str, str, int]) -> Row | None:
    """Our last row of a case on this machine."""
    found = [r for r in known if r.system == OURS and r.machine == machine and r.place[:3] == place(case)]
    return found[-1] if found else None


def place(case: Case) -> tuple[str, str, str]:
    """As in a row."""
    return case.table, case.name, case.dtype


def verdict(before: Row, now: Row) -> tuple[float, str]:
    """(how many times longer ours takes beside the reference than before, in words)."""
    old, new = before.ratios[REFERENCE], now.ratios[REFERENCE]
    change = old / new
    more = f"{100 * change - 100:.0f} % slower" if change > 1 else "not slower"
    return change, f"{old:.2f}x the eager loop's speed at {before.commit}, now {new:.2f}x: {more}"


def guard(bench: Bench, known: Sequence[Row], cases: Sequence[Case] = CASES) -> tuple[list[Row], list[str]]:
    """The rows of now, and what has become slower, in words. Prints a line for each case."""
    fresh: list[Row] = []
    slower: list[str] = []
    for case in cases:
        found = contest.run(case, bench)
        now = next(r for r in found if r.system == OURS)
        before = last(known, case, now.machine)
        if before is None:
            print(f"{case.name}: no row to compare with; {now.ratios[REFERENCE]:.2f}x the eager loop's speed")
        else:
            change, text = verdict(before, now)
            if change > WORSE:
                found = contest.run(case, bench)
                now = next(r for r in found if r.system == OURS)
                change, text = verdict(before, now)
            print(f"{case.name}: {text}", flush=True)
            if change > WORSE:
                slower.append(f"{case.name}: {text}")
        fresh += found
    return fresh, slower


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when a case has become more than 10 % slower."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rows", type=Path, default=rows.KEPT)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--keep", action="store_true", help="append what is measured: later runs compare with it"
    )
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    device = Device("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench(device, args.seconds, where.here(device.kind))
    fresh, slower = guard(bench, rows.read(args.rows))
    if args.keep:
        rows.append(args.rows, fresh)
    print("\n".join(["Slower:", *slower] if slower else ["Nothing has become slower."]))
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
