"""Write docs/kernels.md: what the compiler makes of every kernel, for chips that need not be there.

    python -m scripts.kernel_report [--only TEXT] [--out docs/kernels.md]

About two minutes for all of it on one slow core; answers are kept by content under .cache/kernel_report.
`--only` compiles the cases whose title holds TEXT and takes the others from the page as it stands. Ends with
1 when something is wrong that is not in DEFECTS: registers in local memory, a plan that takes what does not
fit.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from framework.choose import choose
from framework.machine import Machine
from framework.plan import make_plan
from kernels.launch import chip_name
from tests.gpu.cases import DENSE, graph_of
from tests.kernels.compiled import Compiler, Kernel
from tests.kernels.fake_driver import CHIPS
from tests.kernels.inspect_code import ATOMIC, GLOBAL_LOAD, GLOBAL_STORE, SPILL, TENSOR_CORE

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "kernels.md"
NO_FIT, NOT_TAKEN = "does not fit", "not taken"  # in the place of a kernel's name
NOT_THERE = "-"  # in the page: a kernel without a loop, no tensor core


@dataclass(frozen=True)
class Case:
    """Launches to compile. `loop`: which loop is counted, and `turn` what one turn of it does."""

    title: str
    call: str
    options: dict[str, Any]
    loop: Literal["time", "dot"] = "dot"
    turn: str = "one block of the reduction"


def _gemm(title: str, call: str = "forward", **options: Any) -> Case:
    return Case(f"matmul, {title}", f"tests.kernels.gemm_cases:{call}", options)


def _loop(runner: str, cell: str, turn: str, dtype: str = "bfloat16", **options: Any) -> Case:
    masked = ", lengths and resets" if options.get("masked") else ""
    title = f"{runner}, {cell}, {dtype}, B {options['lanes']}, H {options['units']}{masked}"
    given = {"runner": runner, "cell": cell, "dtype": dtype, **options}
    return Case(title, "tests.kernels.loop_cases:chunk", given, "time", turn)


def _many(runner: str, cell: str, units: int, dtype: str = "bfloat16") -> Case:
    """A loop whose weights are spread over many programs, or come from L2 (some or all: `streamed`)."""
    case = _loop(runner, cell, "1 step", dtype, lanes=16, units=units)
    return replace(case, title=f"{case.title}, many programs")


# One line for each case. The products meet every kind of row of the launch table.
LAYER = {"m": 16384, "n": 1024, "k": 1024}
CASES: tuple[Case, ...] = (
    _gemm("bfloat16, [16384, 1024] x [1024, 1024]", dtype="bfloat16", **LAYER),
    _gemm("bfloat16, its gradients dx and dw", "backward", dtype="bfloat16", **LAYER),
    _gemm("bfloat16, 512 columns", m=16384, n=512, k=1024, dtype="bfloat16"),
    _gemm("bfloat16, 61 columns", m=16384, n=61, k=1024, dtype="bfloat16"),
    _gemm("bfloat16, rows by index", m=16384, n=1024, k=1024, dtype="bfloat16", rows=True),
    _gemm("bfloat16, 64 rows", m=64, n=1024, k=1024, dtype="bfloat16"),
    _gemm("bfloat16, 16 rows", m=16, n=256, k=4096, dtype="bfloat16"),
    _gemm("float16, 39 features: narrow loads", m=4000, n=1024, k=39, dtype="float16"),
    _gemm("float32 as tf32", dtype="float32", precision="tf32", **LAYER),
    _gemm("float32 as tf32, its gradients dx and dw", "backward", dtype="float32", precision="tf32", **LAYER),
    _gemm("float32, ieee", dtype="float32", precision="ieee", **LAYER),
    Case("lookup, bfloat16, 96 symbols", "tests.kernels.gemm_cases:table",
         {"m": 16384, "n": 1024, "vocab": 96, "dtype": "bfloat16"}, turn="one block of rows"),
    Case("activation_backward and column_sum, bfloat16", "tests.kernels.gemm_cases:rest",
         {"m": 16384, "n": 1024, "dtype": "bfloat16"}, turn="one part"),
    _loop("elementwise", "sru", "4 steps", lanes=16, units=512),
    _loop("elementwise", "sru", "4 steps", lanes=16, units=512, masked=True),
    _loop("elementwise", "indrnn", "4 steps", lanes=16, units=512),
    _loop("elementwise", "mingru", "4 steps", lanes=16, units=512),
    _loop("elementwise", "minlstm", "4 steps", lanes=16, units=512),
    *(_loop("persistent", cell, "1 step", lanes=16, units=64) for cell in DENSE),
    _loop("persistent", "lstm", "1 step", lanes=16, units=64, masked=True),
    _loop("persistent", "lstm", "1 step", "float32", lanes=16, units=64),
    _loop("persistent", "lstm", "1 step", lanes=16, units=128),
    _loop("persistent", "lstm_peephole", "1 step", lanes=16, units=128),
    _loop("persistent", "gru_cudnn", "1 step", lanes=16, units=128),
    _many("persistent", "lstm", 512),
    _many("persistent", "lstm", 1024),
    _many("persistent", "gru", 512),
    _many("persistent", "lstm_norm", 256),
    _many("persistent", "lstm", 256, "float32"),
    _many("streamed", "lstm", 2048),
    _many("streamed", "gru", 8192),
)  # fmt: skip


# Known defects: (title, chip) that spills, or that a plan takes and that does not fit.
# Two registers each, before or behind the loop, none in it.
DEFECTS = {
    ("elementwise, sru, bfloat16, B 16, H 512, lengths and resets", "sm_120"),
    *(("persistent, lstm_norm, bfloat16, B 16, H 64", chip) for chip in ("sm_80", "sm_86", "sm_120")),
}


@dataclass(frozen=True)
class Row:
    """One compiled kernel as a line of the page; all numbers as text. Counts are of one turn of the loop."""

    chip: str
    kernel: str
    programs: str
    warps: str
    registers: str
    spilled: str
    shared: str
    instructions: str = NOT_THERE
    tensor_core: str = NOT_THERE
    loads: str = NOT_THERE
    stores: str = NOT_THERE
    atomics: str = NOT_THERE
    local: str = NOT_THERE


TITLES = {  # headings where they are not the field's name
    "registers": "registers a thread", "spilled": "spilled, B a thread", "shared": "shared, B",
    "tensor_core": "tensor core", "loads": "global loads", "stores": "global stores",
    "local": "local loads and stores",
}  # fmt: skip
HEADINGS = [TITLES.get(f.name, f.name) for f in fields(Row)]


@dataclass
class Report:
    """What the page says: rows by title of a case, the versions they belong to."""

    triton: str
    date: str
    rows: dict[str, list[Row]] = field(default_factory=dict)


def row(case: Case, chip: str, kernel: Kernel) -> Row:
    """A compiled launch in words."""
    grid = " x ".join(str(n) for n in kernel.grid if n > 1) or "1"
    head = (chip, kernel.name.strip("_"), grid, kernel.warps, kernel.registers, kernel.stack, kernel.shared)
    if not kernel.loops:
        return Row(*map(str, head))
    loop = kernel.time_loop if case.loop == "time" else kernel.dot_loop
    cores = ", ".join(f"{n} {name}" for name, n in loop.kinds(*TENSOR_CORE).items()) or NOT_THERE
    counts = [loop.count(*kind) for kind in (GLOBAL_LOAD, GLOBAL_STORE, ATOMIC, SPILL)]
    return Row(*map(str, head), str(loop.size), cores, *map(str, counts))


def measure(compiler: Compiler, case: Case) -> Iterator[Row]:
    """Rows of a case: each launch on each chip, or that plans do not take it there, or that it does not fit.

    Raises AssertionError when it does not compile.
    """
    for chip in CHIPS:
        if refused(case, chip):
            yield Row(chip, NOT_TAKEN, *[NOT_THERE] * 5)
            continue
        try:
            kernels = compiler(case.call, chip, **case.options)
        except AssertionError as error:
            found = re.search(r"out of resource: shared memory, Required: (\d+)", str(error))
            if found is None:
                raise
            yield Row(chip, NO_FIT, *[NOT_THERE] * 4, found[1])
            continue
        for kernel in kernels:
            yield row(case, chip, kernel)


def refused(case: Case, chip: str) -> bool:
    """Whether the plan of a network on this chip would take another runner."""
    if "runner" not in case.options:
        return False
    there = CHIPS[chip]
    dtype = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[case.options["dtype"]]
    name = chip_name(there.backend, there.arch)
    on = Machine("cuda", name, dtype, there.shared, there.units)
    plan = make_plan(graph_of(case.options["cell"], case.options["units"]))
    runner = case.options["runner"]
    return any(choose(c, runner, on).runner != runner for c in plan.components)


HEAD = """# Kernels as compiled

Written by `python -m scripts.kernel_report`. Do not edit: a test compares it with the script.

Read from compiled code with Triton {triton} on {date}: SASS by `nvdisasm`, resources by `cuobjdump`,
AMD's assembly and its metadata. **Nothing here was measured**: no kernel ran for this page, and no GPU was
there. It says what fits and what the instructions are, not how fast they are.

- A line is one launch. *programs*: the grid. *spilled*: the stack of a thread, which is where registers go
  that do not fit. *shared*: what one program asks for. *not taken*: plans for this chip take another
  runner, because the weights are too large for it. *many programs*: each has a part of the units and of the
  weights; one turn then holds the barriers between them, and loads of what others have stored.
- From *instructions* on, the counts are of one turn of one loop: of products the innermost one, over the
  reduction; of loops through time the one over steps, inner loops included. Above each table stands what one
  turn does. Instructions are counted as they stand in the code, once for each warp. {none}: no loop, or no
  such instruction.
- *local loads and stores* in a loop are registers that did not fit. Nothing should spill, least of all there,
  and what plans take must fit. Known defects, to be mended:
{known}
- Loads before the loop (weights that stay on chip, inputs of the first steps) are not counted.

## Limits

| chip | as in | registers a thread | shared memory of a program, B | multiprocessors |
|---|---|---|---|---|
{limits}

Sources: CUDA C++ Programming Guide (compute capabilities), NVIDIA's data sheets, AMD's CDNA3 instruction set
guide (vector registers and accumulators together). The launch table was asked for these multiprocessors.
"""


def page(report: Report) -> str:
    """The page as text."""
    known = "\n".join(f"  - {title}, on {chip}" for title, chip in sorted(DEFECTS)) or "  none"
    limits = (
        f"| {name} | {c.product} | {c.registers} | {c.shared:,} | {c.units} |" for name, c in CHIPS.items()
    )
    out = [
        HEAD.format(
            known=known,
            triton=report.triton,
            date=report.date,
            none=f"`{NOT_THERE}`",
            limits="\n".join(limits),
        )
    ]
    for case in CASES:
        out.append(f"## {case.title}\n\nA turn: {case.turn}.\n")
        out.append("| " + " | ".join(HEADINGS) + " |\n" + "|---" * len(HEADINGS) + "|")
        out += ["| " + " | ".join(astuple(r)) + " |" for r in report.rows[case.title]]
        out.append("")
    return "\n".join(out)


def parse(text: str) -> Report:
    """What a written page says. Raises ValueError where it does not look like one."""
    head = re.search(r"with Triton (\S+) on (\d{4}-\d\d-\d\d):", text)
    if head is None:
        raise ValueError(
            f"{PAGE.name}: no line 'with Triton VERSION on DATE'. Write it again without --only."
        )
    report = Report(head[1], head[2])
    for part in re.split(r"^## ", text, flags=re.M)[2:]:  # the head, the limits
        title, *lines = part.splitlines()
        cells = [[x.strip() for x in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
        if not cells or cells[0] != HEADINGS:
            raise ValueError(
                f"{PAGE.name}: '{title}' has other columns. Write the page again without --only."
            )
        report.rows[title] = [Row(*values) for values in cells[1:]]
    return report


def defects(report: Report) -> list[str]:
    """What of the page is a defect that is not known; then known ones that are none any more."""
    found: dict[tuple[str, str], str] = {}
    for title, rows in report.rows.items():
        for r in rows:
            if r.kernel == NO_FIT:
                found[title, r.chip] = f"{title}: plans take it on {r.chip}, where it does not fit"
            elif not {r.local, r.spilled} <= {NOT_THERE, "0"}:
                why = f"{r.kernel} on {r.chip} spills {r.spilled} B, {r.local} instructions of its loop"
                found[title, r.chip] = f"{title}: {why}"
    gone = [
        f"{title} on {chip} is well now: take it out of DEFECTS"
        for title, chip in sorted(DEFECTS)
        if title in report.rows and (title, chip) not in found
    ]
    return [text for at, text in found.items() if at not in DEFECTS] + gone


def main() -> int:
    """Compile, and write the page. Returns 1 when a loop goes through local memory."""
    import triton

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--only", default="", metavar="TEXT", help="compile cases with TEXT in their title")
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    wanted = [case for case in CASES if args.only in case.title]
    report = Report(triton.__version__, datetime.now(UTC).date().isoformat())
    if len(wanted) < len(CASES):
        old = parse(args.out.read_text(encoding="utf-8"))
        missing = [c.title for c in CASES if c not in wanted and c.title not in old.rows]
        if old.triton != report.triton or missing:
            why = f"{args.out} is of Triton {old.triton} and lacks: {', '.join(missing) or 'nothing'}"
            raise SystemExit(f"--only: {why}. Write all of it with Triton {report.triton}: leave out --only.")
        report.rows = old.rows
    cache = ROOT / ".cache" / "kernel_report"
    cache.mkdir(parents=True, exist_ok=True)
    compiler = Compiler(cache)
    try:
        for case in wanted:
            report.rows[case.title] = list(measure(compiler, case))
            print(f"{case.title}: {len(report.rows[case.title])} kernels", flush=True)
    finally:
        compiler.close()
    args.out.write_text(page(report), encoding="utf-8")
    problems = defects(report)
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
