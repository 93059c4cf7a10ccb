"""A few small launches of each kind of kernel: under the tools of scripts/sanitize.sh they are much slower.

    python -m scripts.bench.gpu_sanitized [--only TEXT] [--list] [--tiny]

Every result is compared with float64 as in tests/gpu. New tensors are not filled here, so that a read of what
nobody has written is one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch

from tests.gpu import bodies, product_bodies

STEPS = 4
HALF, FULL = torch.bfloat16, torch.float32
# Sizes that no block divides; loops of one program and of several.
CASES: dict[str, Callable[[str], None]] = {
    "matmul float32": partial(product_bodies.product, 37, 70, 45, FULL),
    "matmul bfloat16": partial(product_bodies.product, 37, 70, 45, HALF),
    "lookup": partial(product_bodies.table, 50, 33, 11, FULL),
    "bias": partial(product_bodies.bias, 300, 65, HALF),
}  # fmt: skip
LOOPS: dict[str, tuple[str, str, int, int, torch.dtype]] = {  # runner, cell, lanes, units, dtype
    "elementwise sru": ("elementwise", "sru", 3, 129, FULL),
    "scan mingru": ("scan", "mingru", 3, 129, FULL),
    "persistent lstm": ("persistent", "lstm", 3, 40, HALF),
    "persistent rhn": ("persistent", "rhn", 3, 20, FULL),
    "persistent lstm of many programs": ("persistent", "lstm", 17, 257, HALF),
    "persistent gru of many programs": ("persistent", "gru", 3, 257, HALF),
    "persistent norm of many programs": ("persistent", "lstm_norm", 3, 257, HALF),
    "streamed lstm": ("streamed", "lstm", 17, 300, HALF),
}


def loop(runner: str, cell: str, lanes: int, units: int, kind: torch.dtype, device: str, tiny: bool) -> None:
    """One layer, forward and backward, with lengths and resets. tiny: few units."""
    bodies.agrees(runner, cell, device, STEPS, lanes, min(units, 6) if tiny else units, True, kind)


def cases(tiny: bool) -> dict[str, Callable[[str], None]]:
    """All launches by name. tiny: those that the interpreter has."""
    out = dict(CASES)
    for name, given in LOOPS.items():
        if not (tiny and (given[0] == "streamed" or "many" in name)):
            out[name] = lambda device, given=given: loop(*given, device, tiny)
    for runner, units in (("elementwise", 65), ("persistent", 40)):
        size = 6 if tiny else units
        out[f"{runner} random masks"] = lambda device, runner=runner, size=size: bodies.masks_agree(
            runner, device, STEPS, 3, size, FULL
        )
    out["both directions"] = lambda device: bodies.model_agrees(
        "auto" if tiny else "persistent", "blstm", device, STEPS, 3, 6 if tiny else 40, FULL
    )
    return out


def main() -> int:
    """Returns 0 when all agree, 1 when one does not, 3 where there is no GPU."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--only", default="", help="launches whose name holds this text")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU; needs TRITON_INTERPRET=1")
    args = parser.parse_args()
    chosen = {name: run for name, run in cases(args.tiny).items() if args.only in name}
    if args.list or not chosen:
        print("\n".join(cases(args.tiny)))
        return 0 if args.list else 2
    if args.tiny:
        from tests.interpreter import install

        install()
    elif not torch.cuda.is_available():
        print("torch sees no GPU: nothing can be launched. --tiny rehearses on a CPU.", file=sys.stderr)
        return 3
    torch.backends.cuda.matmul.allow_tf32 = False
    wrong = 0
    for name, run in chosen.items():
        try:
            run("cpu" if args.tiny else "cuda")
        except AssertionError as error:  # the others still say what the tool finds in them
            print(f"{name}: {error}", file=sys.stderr)
            wrong += 1
        else:
            print(f"{name}: agrees", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
