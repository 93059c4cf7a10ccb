"""Measure what is missing: cases of the tables, all systems in turns, rows appended case by case.

    python -m scripts.bench.run --tables cpu --minutes 20          # run it again to go on where it stopped
    python -m scripts.bench.run --tables a,b --only "lstm T=128 B=8" --again
    python -m scripts.bench.run --tables gpu --tiny                # rehearse under Triton's interpreter

A case is skipped when the rows of all its systems are in the file for this code (a hash of what decides our
speed), machine, threads and these versions. It is refused, and the run fails, when any result is further from
float64 than it may be. Systems that are not installed or cannot compute a case are named in its rows. Needs
torch, triton and what the network needs, nothing of training. Afterwards: python -m scripts.bench.page
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from framework.errors import UserError
from framework.script import tell
from scripts.bench import contest, limits, rows, where
from scripts.bench.agree import Disagreement
from scripts.bench.bench import Bench
from scripts.bench.cases import Case
from scripts.bench.fit import fit
from scripts.bench.measure import Device
from scripts.bench.peers import BY_NAME
from scripts.bench.planning import planning
from scripts.bench.products import product
from scripts.bench.start import start
from scripts.bench.system import OURS, Declined
from scripts.bench.tables import SETS, select
from scripts.bench.train_step import train_step
from scripts.bench.where import package
from scripts.bench.workers import workers

# Case.what -> how it is measured.
MEASURES: Mapping[str, Callable[[Case, Bench], list[rows.Row]]] = {
    "network": contest.run,
    "product": product,
    "planning": planning,
    "fit": fit,
    "start": start,
    "train step": train_step,
    "workers": workers,
}
SAME = ("code", "cpu", "threads", "gpu", "torch", "triton")  # of rows that need not be measured twice


def version_of(entry: str, code: str) -> str:
    """The version that a row of this entry must have; "" where it is not installed."""
    if entry.split()[0] == OURS:
        return code
    return package(BY_NAME[entry].distribution) if entry in BY_NAME else torch.__version__


def missing(case: Case, known: Iterable[rows.Row], info: Mapping[str, object]) -> list[str]:
    """Entries of a case without a row of now in one of its passes: "entry, pass". Rows say who declined."""
    mine = [
        r
        for r in known
        if (r.table, r.case, r.dtype) == (case.table, case.name, case.dtype)
        and all(getattr(r, key) == info[key] for key in SAME)
    ]
    there = {(r.entry, r.pass_) for r in mine if r.version == version_of(r.entry, str(info["code"]))}
    # Who was not installed and is now, takes part.
    declined = {
        entry
        for r in mine
        for entry, why in r.declined.items()
        if "not installed" not in why or not version_of(entry, "")
    }
    wanted = ((entry, pass_) for entry in case.systems if entry not in declined for pass_ in case.passes)
    return [f"{entry}, {pass_}" for entry, pass_ in wanted if (entry, pass_) not in there]


def tiny(case: Case) -> Case:
    """The same at sizes for a rehearsal."""
    own = case.F not in (case.H, case.H * 3, case.H * 4)
    small = {"T": min(case.T, 5), "B": min(case.B, 2), "H": 8, "F": 6 if own else 0}
    if case.what == "product":
        small = {"T": 33, "B": 1, "H": 20, "F": 17}
    options = tuple((k, min(v, 40) if isinstance(v, int) else v) for k, v in case.options)
    return replace(case, **small, options=options)


class Begun:
    """A file that names the case at which a run is, so that the next one leaves what hung to the end."""

    def __init__(self, out: Path):
        self.path = out.with_suffix(".begun")

    def order(self, todo: Sequence[Case]) -> list[Case]:
        """The cases, with the one at which an earlier run ended behind all others."""
        stuck = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        if any(str(case) == stuck for case in todo):
            print(f"An earlier run ended in {stuck}: it comes last.", flush=True)
        return sorted(todo, key=lambda case: str(case) == stuck)

    def at(self, case: Case) -> None:
        """This one begins."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(str(case), encoding="utf-8")

    def over(self) -> None:
        """The run has ended by itself."""
        self.path.unlink(missing_ok=True)


def measure(todo: Sequence[Case], bench: Bench, out: Path, end: float) -> tuple[list[str], int]:
    """Measure and append the rows of each case; what went wrong, in words, and how many cases are left."""
    problems: list[str] = []
    for number, case in enumerate(todo, 1):
        if time.perf_counter() > end:
            left = len(todo) - number + 1
            print(f"The time is over, {left} cases are left. Run it again to go on.")
            return problems, left
        begun = time.perf_counter()
        Begun(out).at(case)
        try:
            found = MEASURES[case.what](case, bench)
        except Declined as why:
            print(f"{number}/{len(todo)} {case}: nobody takes part: {why}", flush=True)
            continue
        except Disagreement as why:
            problems.append(f"{case}: not timed. {why}")
            print(f"{number}/{len(todo)} {case}: REFUSED", flush=True)
            continue
        except Exception:  # one case must not cost the others theirs; it is told, and the run fails
            traceback.print_exc()
            problems.append(f"{case}: raised, see above")
            try:
                bench.device.check()
            except RuntimeError as error:
                problems.append(f"the device does not answer any more ({error}): nothing after that ran")
                return problems, 0
            continue
        rows.append(out, found)
        print(f"{number}/{len(todo)} {case}: {time.perf_counter() - begun:.1f} s{shown(found)}", flush=True)
    return problems, 0


def shown(found: Sequence[rows.Row]) -> str:
    """The rows of a case on lines of their own."""
    lines = []
    for r in found:
        least = f", {r.limit:.1%} of what the machine can" if r.limit else ""
        lines.append(f"\n    {r.pass_:16s} {r.system:44s} {r.p50_ms:10.3f} ms{least}")
    return "".join(lines)


def device_of(asked: str, rehearse: bool) -> Device:
    """Where to measure. Raises SystemExit when it is not there."""
    kind = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and rehearse:
        return Device("cpu", cold=False)
    if kind == "cuda" and not torch.cuda.is_available():
        raise SystemExit("scripts.bench.run: no GPU here, nothing was measured. --tiny rehearses on a CPU.")
    return Device(kind, cold=not rehearse)


def interpreted(arguments: Sequence[str]) -> int | None:
    """Begin again under Triton's interpreter, which is asked for before triton is imported; then None."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        again = [sys.executable, "-m", "scripts.bench.run", *arguments]
        return subprocess.run(again, env={**os.environ, "TRITON_INTERPRET": "1"}, check=False).returncode
    from tests.interpreter import install

    install()
    return None


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--tables", default="", help=f"letters with commas, or one of {', '.join(SETS)}; all here"
    )
    parser.add_argument("--out", type=Path, default=rows.KEPT, help="rows are appended to this file")
    parser.add_argument("--minutes", type=float, default=1e6, help="after which no case is begun")
    parser.add_argument("--limit", type=float, default=1e9, help="the same in seconds")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each pass of a case")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="", help="cuda where there is one")
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU")
    parser.add_argument("--only", default="", help="cases that hold this text, e.g. 'lstm T=128 B=8'")
    parser.add_argument("--commit", default="", help="what is measured, where no repository can be asked")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--list", action="store_true", help="say what is missing, measure nothing")
    parser.add_argument("--tiny", action="store_true", help="rehearse: sizes that measure nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing. Returns 1 when a case was refused or raised, 2 for wrong options, 75 when the
    time was over before all was measured.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = parse(given)
    begun = time.perf_counter()
    if args.tiny and args.out == rows.KEPT:
        args.out = where.ROOT / ".cache" / "bench" / "tiny.jsonl"
    try:
        kind, wanted = select(args.tables, args.device)
    except UserError as error:
        tell(error)
        return 2
    if kind == "cuda" and args.tiny and (status := interpreted(given)) is not None:
        return status
    device = device_of(kind, args.tiny)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    info = where.here(device.kind, args.commit)
    if args.tiny:
        info["gpu"] = "none: rehearsed, measures nothing"
    small = {str(c): c for c in map(tiny, wanted)}  # many sizes become one
    cases = [c for c in (small.values() if args.tiny else wanted) if args.only in str(c)]
    if not cases:
        print(f"--only: no case of these tables holds {args.only!r}. --list names them.", file=sys.stderr)
        return 2
    known = [] if args.again else rows.read(args.out)
    todo = [c for c in cases if missing(c, known, info)]
    print(f"{len(cases) - len(todo)} of {len(cases)} cases are in {args.out} already", flush=True)
    if args.list or not todo:
        print("".join(f"{case}\n" for case in todo), end="")
        return 0
    dtypes = {c.kind for c in todo}
    machine = limits.measure(device.kind, dtypes, *((0.0, 0.05) if args.tiny else (0.3,)))
    bench = Bench(device, 0.0 if args.tiny else args.seconds, info, machine, args.tiny)
    stuck = Begun(args.out)
    problems, left = measure(stuck.order(todo), bench, args.out, begun + min(60 * args.minutes, args.limit))
    stuck.over()
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 75 if left else 0


if __name__ == "__main__":
    sys.exit(main())
