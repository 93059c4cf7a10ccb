"""Where torch's own LSTM, GRU and RNN are faster than ours: lines for framework/measured.py from kept rows.

    python -m scripts.bench.run --tables a            # measures
    python -m scripts.bench.fused [--rows scripts/bench/results/rows.jsonl]

A ratio is how many times longer our runner takes (on a GPU persistent, else torch) than torch-fused in the
same turns, product of the input included: forward and backward, and the forward alone. A line counts for
`auto` once it stands in framework/measured.py, with the file that it comes from.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from scripts.bench import rows
from scripts.bench.cases import BOTH, FORWARD
from scripts.bench.page_tables import DTYPES
from scripts.bench.rows import Row
from scripts.bench.system import OURS

# Our cells that torch has -> their kind in framework/vanilla.py.
KINDS = {"lstm": "lstm", "gru_cudnn": "gru", "rnn_tanh": "rnn_tanh", "rnn_relu": "rnn_relu"}


def lines(found: Iterable[Row], chip: str = "") -> list[str]:
    """One line for each case of one layer that was measured both ways; chip: of the GPU, as plans call it."""
    both: dict[tuple[str, str, int, int, int], dict[str, float]] = {}
    for row in rows.latest(found).values():
        kind = KINDS.get(str(row.options.get("cell")))
        ratio = row.ratios.get(f"{OURS} {'persistent' if row.gpu else 'torch'}")
        plain = row.layers == 1 and not row.options.get("bidirectional")
        if row.entry == f"{OURS} torch-fused" and kind and ratio and plain and bool(row.gpu) == bool(chip):
            key = (DTYPES[row.dtype], kind, row.H, row.B, row.T)
            both.setdefault(key, {})[row.pass_] = ratio
    out = []
    for (dtype, kind, size, lanes, steps), at in sorted(both.items()):
        if BOTH in at and FORWARD in at:
            head = f'Row("{chip or "cpu"}", "{dtype}", "{kind}", {size}, {lanes}, '
            out.append(f"    {head}{at[BOTH]:.2f}, {at[FORWARD]:.2f}),  # T = {steps}")
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the lines."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rows", type=Path, default=rows.KEPT)
    parser.add_argument("--chip", default="", help="rows of a GPU, and what plans call it, e.g. sm_90")
    args = parser.parse_args(arguments)
    print("\n".join(lines(rows.read(args.rows), args.chip)))


if __name__ == "__main__":
    main()
