"""How long loading and planning take, and how they grow with the graph.

    python -m scripts.bench.planning [--sizes 100,1000,10000] [--repeat 3] [--shapes chain,ring] [--profile]
                                     [--out scripts/bench/results/planning.jsonl]

For each shape and number of nodes: milliseconds of CPU time (the best of --repeat) to load the graph from a
dict, to plan it, and to write the plan as text; what else runs disturbs CPU time less than the time on the
clock. The slope is that of log(time) over log(nodes) between the two largest sizes: 1 is linear growth. The
first line says how fast this machine counts, to compare with. --profile prints where planning the largest
graph of each shape spends its time.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import math
import platform
import pstats
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from framework.load import load_graph
from framework.plan import make_plan

Spec = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """Milliseconds for one graph of `nodes` nodes."""

    shape: str
    nodes: int
    load_ms: float
    plan_ms: float
    text_ms: float


def graph(nodes: Spec, outputs: Sequence[str], **more: Any) -> Spec:
    """A graph over x of 4 features, all nodes of 4 units."""
    sized = {name: {"size": 4, "is": is_} if isinstance(is_, str) else is_ for name, is_ in nodes.items()}
    return {"inputs": {"x": {"size": 4}}, "nodes": sized, "outputs": list(outputs), **more}


def joined(n: int) -> Spec:
    """Outputs of a wide graph: the nodes n0, n1, ... side by side."""
    return {"y": {"size": 4 * n, "is": f"concat({', '.join(f'n{i}' for i in range(n))})"}}


def chain(n: int) -> Spec:
    """No loop at all, each node reads the one before."""
    nodes = {"n0": "tanh(full(x) + bias)"}
    nodes |= {f"n{i}": f"tanh(full(n{i - 1}) + bias)" for i in range(1, n)}
    return graph(nodes, [f"n{n - 1}"])


def loops(n: int) -> Spec:
    """A chain of loops of one node each."""
    nodes = {f"n{i}": f"tanh(full({f'n{i - 1}' if i else 'x'}) + full(n{i}[t-1]) + bias)" for i in range(n)}
    return graph(nodes, [f"n{n - 1}"])


def ring(n: int) -> Spec:
    """One loop through all nodes, closed by a delay of 1."""
    nodes = {"n0": f"tanh(full(x) + full(n{n - 1}[t-1]) + bias)"}
    nodes |= {f"n{i}": f"tanh(full(n{i - 1}) + bias)" for i in range(1, n)}
    return graph(nodes, [f"n{n - 1}"])


def delays(n: int) -> Spec:
    """One loop in which every read is delayed, by 2 or 3 in turn: no cycle is shorter than the whole ring."""
    nodes = {f"n{i}": f"tanh(full(n{(i - 1) % n}[t-{2 + i % 2}]) + diag(x) + bias)" for i in range(n)}
    return graph(nodes, [f"n{n - 1}"])


def states(n: int) -> Spec:
    """One loop through all nodes, each of which also reads itself 2 steps back, and the loop closed by 3."""
    nodes = {f"n{i}": f"tanh(full(n{i - 1}) + diag(n{i}[t-2]) + bias)" for i in range(1, n)}
    return graph({"n0": f"tanh(full(x) + full(n{n - 1}[t-3]) + bias)", **nodes}, [f"n{n - 1}"])


def wide(n: int) -> Spec:
    """Nodes side by side that all read x, joined in the end."""
    return graph({f"n{i}": "tanh(full(x) + bias)" for i in range(n)} | joined(n), ["y"])


def wide_loops(n: int) -> Spec:
    """Loops side by side that all read x, joined in the end."""
    return graph({f"n{i}": f"tanh(full(x) + full(n{i}[t-1]) + bias)" for i in range(n)} | joined(n), ["y"])


def gates(n: int) -> Spec:
    """One loop of n gates that all read one state, which is a product with all of them, joined."""
    nodes: Spec = {f"n{i}": "sigmoid(full(x) + full(h[t-1]) + bias)" for i in range(n)}
    return graph({**nodes, **joined(n), "h": "tanh(full(y))"}, ["h"])


def lstms(n: int) -> Spec:
    """A stack of LSTM layers, 6 nodes each."""
    return graph({"l": {"cell": "lstm", "size": 4, "in": "x", "layers": max(1, n // 6)}}, ["l"])


def fed_back(n: int) -> Spec:
    """A stack of LSTM layers whose top is fed back to the bottom: one loop."""
    top = max(2, n // 6)
    bottom = {"size": 4, "is": f"full(x) + full(l{top}[t-1])"}
    return graph({"below": bottom, "l": {"cell": "lstm", "size": 4, "in": "below", "layers": top}}, ["l"])


SHAPES: dict[str, Callable[[int], Spec]] = {
    f.__name__: f
    for f in (chain, loops, ring, delays, states, wide, wide_loops, gates, lstms, fed_back)
}


def seconds(run: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """The best time of `repeat` runs, and what the last one returned."""
    best, out = math.inf, None
    for _ in range(repeat):
        out = None
        gc.collect()
        start = time.process_time()
        out = run()
        best = min(best, time.process_time() - start)
    return best, out


def measure(shape: str, n: int, repeat: int) -> Row:
    """One row of the table."""
    spec = SHAPES[shape](n)
    load, made = seconds(lambda: load_graph(spec), repeat)
    plan, planned = seconds(lambda: make_plan(made), repeat)
    text, _ = seconds(lambda: str(planned), 1)
    return Row(shape, len(made.nodes), 1e3 * load, 1e3 * plan, 1e3 * text)


def slope(rows: Sequence[Row], column: str) -> float:
    """Growth between the two largest sizes: 1 is linear."""
    a, b = sorted(rows, key=lambda row: row.nodes)[-2:]
    return math.log(getattr(b, column) / getattr(a, column)) / math.log(b.nodes / a.nodes)


def profile(shape: str, n: int) -> None:
    """Where planning spends its time."""
    made = load_graph(SHAPES[shape](n))
    profiler = cProfile.Profile()
    profiler.runcall(make_plan, made)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(12)


def counting() -> int:
    """Ten million additions."""
    total = 0
    for i in range(10_000_000):
        total += i
    return total


def write(path: Path, rows: Sequence[Row], count_ms: float) -> None:
    """Append the rows as JSON lines, with what they were measured on."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    where = {"commit": git.stdout.strip(), "python": platform.python_version(), "count_ms": count_ms}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(row) | where) + "\n" for row in rows)


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", default="100,1000,10000")
    p.add_argument("--shapes", default=",".join(SHAPES))
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--profile", action="store_true")
    p.add_argument("--out", type=Path)
    asked = p.parse_args()
    sizes = [int(n) for n in asked.sizes.split(",")]
    everything: list[Row] = []
    count_ms = 1e3 * seconds(counting, asked.repeat)[0]
    print(f"python {platform.python_version()} counts to ten million in {count_ms:.0f} ms here")
    columns = ("load_ms", "plan_ms", "text_ms")
    heads = "".join(f"{c.replace('_', ' '):>10s}" for c in columns)
    print(f"{'shape':12s} {'nodes':>7s}{heads}   slopes")
    for shape in asked.shapes.split(","):
        rows: list[Row] = []
        for n in sizes:
            row = measure(shape, n, asked.repeat)
            rows.append(row)
            end = ""
            if len(rows) == len(sizes) > 1:
                end = " ".join(f"{slope(rows, c):5.2f}" for c in columns)
            times = "".join(f"{getattr(row, c):10.1f}" for c in columns)
            print(f"{shape:12s} {row.nodes:7d}{times}   {end}".rstrip(), flush=True)
        everything += rows
        if asked.profile:
            profile(shape, max(sizes))
    if asked.out:
        write(asked.out, everything, count_ms)


if __name__ == "__main__":
    main()
