"""Timings on a GPU as rows of JSON: our runners against cuDNN and an eager loop, our matmul against torch's.

    python -m scripts.bench.gpu --out scripts/bench/results/gpu.jsonl [--limit 120] [--commit NAME] [--tiny]

A row for each case, the most telling cases first. Cases whose row is there already, for this commit, GPU and
these versions, are skipped: run it again to go on. A case is not timed when a result is further from float64
than it may be. Systems take turns; speedups are medians over rounds. Needs torch and triton only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.bench.gpu_cases import Case, Contest, Row, cases, contest, tiny
from scripts.bench.gpu_measure import Device, Run, refusals, relative, speedup, take_turns
from scripts.bench.gpu_table import tables

SAME = ("commit", "gpu", "torch", "triton")  # of two rows that need not be measured twice


def git(*args: str) -> str:
    """What git answers; "" without git or a repository."""
    try:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def here(device: Device, commit: str) -> Row:
    """What all rows of a run have in common. `commit`: given by hand, where there is no .git."""
    import triton

    gpu = torch.cuda.get_device_name() if device.kind == "cuda" else "none: interpreted, measures nothing"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or git("rev-parse", "--short", "HEAD"),
        "dirty": not commit and bool(git("status", "--porcelain", "-uno")),
        "gpu": gpu,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def done_before(path: Path, info: Row) -> list[Row]:
    """The rows in the file that count as measured now; those of an unknown or changed commit never do."""
    if not path.is_file() or not info["commit"] or info["dirty"]:
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [r for r in rows if all(r.get(k) == info[k] for k in SAME) and not r.get("dirty")]


def loop(case: Case, device: Device, seconds: float) -> Row:
    """Forward, and forward + backward, of one layer."""
    sizes = dict(case.sizes)
    shape = (sizes["T"], sizes["B"], sizes["H"])
    kind = getattr(torch, case.dtype)
    made = contest(case.cell, sizes["H"], device.kind, case.dtype)
    row: Row = {"declined": made.declined}
    g = torch.Generator(device.kind).manual_seed(1)
    data: dict[str, Tensor] = {}

    def fresh() -> None:
        for name in ("x", "dy"):
            data[name] = torch.randn(shape, generator=g, device=device.kind).to(kind)
        data["x"].requires_grad_()
        for s in made.systems:
            s.module.zero_grad(set_to_none=True)

    errors = errors_of(made, fresh, data)
    row["errors"] = errors
    row["refused"] = refusals(errors, made.yardsticks, torch.finfo(kind).eps)
    if row["refused"]:
        return row

    def forward(run: Any) -> Run:
        def once() -> None:
            with torch.no_grad():
                run(data["x"])

        return once

    def both(run: Any) -> Run:
        return lambda: run(data["x"]).backward(data["dy"])

    row["systems"] = {s.name: {} for s in made.systems}
    for name, way in (("forward", forward), ("both", both)):
        runs = {s.name: way(s.run) for s in made.systems}
        times = take_turns(device, runs, seconds, fresh)
        for system, run in runs.items():
            ms = statistics.median(times[system])
            fresh()
            row["systems"][system] |= {
                f"{name}_ms": round(ms, 4),
                f"{name}_us_per_step": round(ms * 1e3 / sizes["T"], 3),
                f"{name}_peak_mb": round(device.peak_mb(run), 2),
            }
            if system in made.ours:
                found = {o: round(speedup(times, system, o), 3) for o in runs if o != system}
                row["systems"][system][f"{name}_speedup_over"] = found
        row[f"{name}_rounds"] = len(next(iter(times.values())))
    return row


def errors_of(made: Contest, fresh: Run, data: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Relative errors of output and input gradient of each system, on the same numbers."""
    fresh()
    x = data["x"].detach().double().requires_grad_()
    y, _ = made.truth(x)
    assert isinstance(y, Tensor)
    (dx,) = torch.autograd.grad(y, x, data["dy"].double())
    out = {}
    for s in made.systems:
        got = s.run(data["x"])
        (slope,) = torch.autograd.grad(got, data["x"], data["dy"])
        out[s.name] = {"y": relative(got.detach(), y.detach()), "dx": relative(slope, dx)}
    return out


def product(case: Case, device: Device, seconds: float) -> Row:
    """One hoisted product, or a gradient of it, against torch's (cuBLAS)."""
    from kernels import matmul, matmul_dw, matmul_dx

    m, n, k = (size for _, size in case.sizes)
    kind = getattr(torch, case.dtype)
    g = torch.Generator(device.kind).manual_seed(1)
    a, b, dy = (torch.randn(*s, generator=g, device=device.kind).to(kind) for s in ((m, k), (k, n), (m, n)))
    ours, theirs, left, right = {
        "forward": (lambda: matmul(a, b), lambda: a @ b, a, b),
        "dx": (lambda: matmul_dx(dy, b), lambda: dy @ b.T, dy, b.T),
        "dw": (lambda: matmul_dw(a, dy), lambda: a.T @ dy, a.T, dy),
    }[case.way]
    exact = left.double() @ right.double()
    errors = {"triton": {"out": relative(ours(), exact)}, "torch": {"out": relative(theirs(), exact)}}
    row: Row = {"errors": errors, "refused": refusals(errors, {"torch"}, torch.finfo(kind).eps)}
    if row["refused"]:
        return row
    runs: dict[str, Run] = {"triton": ours, "torch": theirs}
    times = take_turns(device, runs, seconds, lambda: None, least=20)
    row["systems"] = {
        name: {
            "ms": round(statistics.median(times[name]), 4),
            "tflops": round(2 * m * n * k / statistics.median(times[name]) / 1e9, 1),
            "peak_mb": round(device.peak_mb(run), 2),
        }
        for name, run in runs.items()
    }
    row["systems"]["triton"]["speedup_over"] = {"torch": round(speedup(times, "triton", "torch"), 3)}
    row["rounds"] = len(times["torch"])
    return row


def measure(todo: list[Case], device: Device, info: Row, out: Path, args: argparse.Namespace) -> list[str]:
    """Measure and append a row for each case; what went wrong, in words."""
    problems: list[str] = []
    end = time.perf_counter() + args.limit
    for i, case in enumerate(todo):
        if time.perf_counter() > end:
            print(f"{args.limit:.0f} s are over, {len(todo) - i} cases are left. Run it again to go on.")
            break
        try:
            row = (loop if case.what == "loop" else product)(case, device, args.seconds)
        except Exception:  # one case must not cost the others theirs; it is told, and the run fails
            traceback.print_exc()
            problems.append(f"{case}: raised, see above")
            try:
                device.check()
            except RuntimeError as error:
                problems.append(f"the device does not answer any more ({error}): nothing after that ran")
                break
            continue
        line = json.dumps(info | case.key | row)
        print(f"{i + 1}/{len(todo)} {case}: {'REFUSED' if row['refused'] else 'measured'}", flush=True)
        problems += [f"{case}: not timed. {why}" for why in row["refused"]]
        if not row["refused"]:
            with out.open("a", encoding="utf-8") as f:
                f.write(line + "\n")
    return problems


def main() -> int:
    """Measure what is missing, print the tables. Returns 1 when a case was refused or raised."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, required=True, help="rows are appended to this file")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no case is begun")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each pass of a case")
    parser.add_argument("--commit", default="", help="what is measured, where there is no .git to ask")
    parser.add_argument("--only", default="", help="cases that hold this text, e.g. 'lstm bfloat16'")
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU under Triton's interpreter")
    args = parser.parse_args()
    device = Device("cpu" if args.tiny else "cuda")
    if args.tiny:
        if os.environ.get("TRITON_INTERPRET") != "1":  # it is too late for this process: triton is imported
            again = [sys.executable, "-m", "scripts.bench.gpu", *sys.argv[1:]]
            return subprocess.run(again, env={**os.environ, "TRITON_INTERPRET": "1"}, check=False).returncode
        from tests.interpreter import install

        install()
    elif not torch.cuda.is_available():
        raise SystemExit("scripts.bench.gpu: no GPU here, nothing was measured. --tiny rehearses on a CPU.")
    torch.backends.cuda.matmul.allow_tf32 = False
    info = here(device, args.commit)
    if not info["commit"]:
        print("the commit is unknown: all cases run again each time. Say it with --commit.", file=sys.stderr)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    known = done_before(args.out, info)
    wanted = [c for c in (tiny() if args.tiny else cases()) if args.only in str(c)]
    todo = [c for c in wanted if not any(c.key.items() <= r.items() for r in known)]
    print(f"{len(wanted) - len(todo)} of {len(wanted)} cases are in {args.out} already", flush=True)
    problems = measure(todo, device, info, args.out, args)
    print(tables(done_before(args.out, {**info, "dirty": False})))
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
