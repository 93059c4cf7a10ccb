"""What the present machine can do at most: the constants by which framework/cost.py predicts times.

    python -m scripts.bench.ceilings [--threads 2] [--out scripts/bench/results/ceilings.jsonl]
    python -m scripts.bench.ceilings --show           # the rows there as framework/cost_cpus.py has them

Each constant is the best of several short turns: a ceiling, which what else runs on the machine lowers least.
It takes some twenty seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.cost_constants import CpuConstants, Rate
from framework.runners.products import step_product, times_t
from scripts.bench.where import here

RESULTS = Path(__file__).parent / "results" / "ceilings.jsonl"
STEPS = 128
COPY = 96 << 20  # bytes that no cache holds
# Products of a step and of a chunk: rows, times weights [4 H, H].
ROWS = (1, 8, 32, 256, 1024)
UNITS = (128, 512)
TURNS = 25
UNITS_OF_AN_OP = 1 << 14


def best(run: Callable[[], object], times: int = 1, turns: int = TURNS) -> float:
    """Microseconds of one of `times` equal things that `run` does, in the fastest of `turns` after one."""
    # One thread's own time leaves out when others had the processor; that of several counts their waiting.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    run()
    found = []
    for _ in range(turns):
        start = clock()
        run()
        found.append(clock() - start)
    return min(found) * 1e6 / times


def rates(ours: bool) -> tuple[Rate, ...]:
    """FLOP per microsecond of x [rows, H] by w [4 H, H] as a loop adds it to its sums, in turns over fresh x.

    ours: by the library that the torch runner takes; else by torch.addmm as it comes.
    """
    out = []
    for units in UNITS:
        w = torch.randn(4 * units, units)
        for rows in ROWS:
            xs = [torch.randn(rows, units) for _ in range(4)]
            y = torch.zeros(rows, 4 * units)
            flops = 2.0 * rows * w.numel()
            count = 4 * max(1, min(16, int(1e7 / flops)))
            out.append(Rate(rows, w.numel(), flops / best(product(w, xs, y, ours, count), count)))
    return tuple(out)


def product(w: Tensor, xs: list[Tensor], y: Tensor, ours: bool, count: int) -> Callable[[], object]:
    """`count` times y += x w^T over the x in turn; for a whole chunk ours makes a new y."""
    wt, rows = w.t(), y.shape[0]
    add: Callable[..., object] = lambda out, x: out.addmm_(x, wt)  # noqa: E731 (one of three forms)
    if ours:
        step = step_product(w, rows)["add"]
        add = (lambda out, x: times_t(x, w)) if rows > 32 else step

    def run() -> None:
        for k in range(count):
            add(y, xs[k % len(xs)])

    return run


def repeated(call: Callable[[Tensor], object], x: Tensor, count: int = 200) -> float:
    """Microseconds of one of `count` calls on x."""

    def run() -> None:
        for _ in range(count):
            call(x)

    return best(run, count)


def elements(call: Callable[..., object], units: int = UNITS_OF_AN_OP) -> float:
    """Microseconds of each number of an op on x, y and z in a cache: what many take longer than eight."""

    def of(size: int) -> float:
        x, y, z = (torch.rand(size) for _ in range(3))
        return repeated(lambda a: call(a, y, z), x, 50)

    return max(0.0, of(units) - of(8)) / units


def recorded() -> tuple[float, float]:
    """Microseconds of one small op that autograd records, and of it with its derivative."""
    x = torch.rand(1, 8, requires_grad=True)

    def chain() -> Tensor:
        y = x
        for _ in range(200):
            y = y * x
        return y.sum()

    return best(chain, 200), best(lambda: chain().backward(), 200)


def stepping(layer: nn.Module) -> tuple[float, float]:
    """Microseconds of a step of a layer of 8 units, forward and with backward: no work, only calling."""
    x = torch.randn(STEPS, 1, 8, requires_grad=True)

    def forward() -> Tensor:
        return layer(x)[0]

    def both() -> None:
        forward().sum().backward()

    with torch.no_grad():
        once = best(forward, STEPS)
    return once, best(both, STEPS)


def calling() -> tuple[float, float]:
    """Microseconds of a call of a network whose loop has one step of one lane: forward and with backward."""
    from framework import lstm

    net, x = lstm(8, 8, runner="torch"), torch.randn(1, 1, 8, requires_grad=True)

    def forward() -> Tensor:
        y = net(x)[0]
        assert isinstance(y, Tensor)
        return y

    with torch.no_grad():
        once = best(forward, turns=30)
    return once, best(lambda: forward().sum().backward(), turns=30)


def dispatching() -> float:
    """Microseconds of calling one op on views of a step, one step after the other."""
    x, y, z = (torch.rand(STEPS, 1, 64).unbind(0) for _ in range(3))

    def run() -> None:
        for t in range(STEPS):
            torch.mul(x[t], y[t], out=z[t])
            z[t].addcmul_(x[t], y[t])

    return best(run, 2 * STEPS)


def fresh(size: int = 64 << 20) -> None:
    """Write to memory that nobody has had."""
    torch.empty(size, dtype=torch.int8).zero_()


def of_cpu() -> CpuConstants:
    """The constants of this CPU with the threads that torch has now."""
    rows = torch.rand(32, 512)
    source, result = (torch.zeros(COPY, dtype=torch.int8) for _ in range(2))
    return CpuConstants(
        threads=torch.get_num_threads(),
        dispatch=dispatching(),
        view=best(lambda: rows.expand(STEPS, 32, 512).unbind(0), STEPS),
        recorded=recorded(),
        call=calling(),
        cheap=elements(lambda x, y, z: torch.mul(x, y, out=z)),
        sigmoid=elements(lambda x, y, z: x.sigmoid_()),
        tanh=elements(lambda x, y, z: x.tanh_()),
        rows=elements(lambda x, y, z: torch.nn.functional.layer_norm(x.view(8, -1), (x.numel() // 8,))),
        products=rates(True),
        plain=rates(False),
        copy=2 * COPY / best(lambda: result.copy_(source)),
        fresh=(64 << 20) / best(fresh),
        fused=stepping(nn.LSTM(8, 8)),
        gru=stepping(nn.GRU(8, 8)),
        rnn=stepping(nn.RNN(8, 8)),
    )


def best_of(rows: Sequence[Mapping[str, Any]]) -> CpuConstants:
    """Constants from measured rows of one machine: the best of each, which others lower least."""

    def pick(name: str, better: Callable[[Any], Any]) -> Any:
        values = [row[name] for row in rows]
        if isinstance(values[0], list):
            return tuple(map(better, zip(*values, strict=True)))
        return better(values)

    def rates(name: str) -> tuple[Rate, ...]:
        tables = [[Rate(*r) for r in row[name]] for row in rows]
        return tuple(max(same, key=lambda r: r.flops) for same in zip(*tables, strict=True))

    lowest = (
        "dispatch",
        "view",
        "recorded",
        "call",
        "cheap",
        "sigmoid",
        "tanh",
        "rows",
        "fused",
        "gru",
        "rnn",
    )
    return CpuConstants(
        threads=rows[0]["threads"],
        **{name: pick(name, min) for name in lowest},
        **{name: pick(name, max) for name in ("copy", "fresh")},
        products=rates("products"),
        plain=rates("plain"),
    )


def as_code(k: CpuConstants) -> str:
    """The constants as Python, with three digits."""

    def number(x: float) -> str:
        return repr(float(f"{x:.3g}"))

    def value(x: object) -> str:
        if isinstance(x, Rate):
            return f"Rate({x.rows}, {x.weights}, {number(x.flops)})"
        if isinstance(x, tuple):
            return f"({', '.join(value(part) for part in x)})"
        return number(x) if isinstance(x, float) else str(x)

    return f"CpuConstants({', '.join(f'{f.name}={value(getattr(k, f.name))}' for f in fields(k))})"


def show(path: Path) -> str:
    """The constants of all numbers of threads in a file of rows, as code."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    threads = sorted({row["threads"] for row in rows})
    best = [best_of([row for row in rows if row["threads"] == n]) for n in threads]
    return "".join(f"    {as_code(k)},\n" for k in best)


def main() -> None:
    """Measure, print, append a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, help="append the row to this JSONL file")
    parser.add_argument("--show", action="store_true", help="print the constants that are kept")
    args = parser.parse_args()
    if args.show:
        print(show(RESULTS), end="")
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    row: dict[str, Any] = {**here("cpu"), "device": "cpu"}
    found = asdict(of_cpu())
    print(json.dumps(found, indent=1))
    if args.out:
        with args.out.open("a", encoding="utf-8") as f:
            f.write(json.dumps({**row, **found}) + "\n")


if __name__ == "__main__":
    main()
