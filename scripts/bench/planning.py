"""How long loading and planning take, and how they grow with the graph, in ten shapes of graphs.

Times are CPU time: what else runs disturbs it less than time on the clock.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

from framework.load import load_graph
from framework.plan import make_plan
from scripts.bench.bench import Bench, Entrant
from scripts.bench.cases import Case
from scripts.bench.rows import Row

Spec = dict[str, Any]


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
    f.__name__: f for f in (chain, loops, ring, delays, states, wide, wide_loops, gates, lstms, fed_back)
}


def milliseconds(run: Callable[[], Any], turns: int) -> tuple[list[float], Any]:
    """CPU time of each of `turns` runs, and what the last one returned."""
    found: list[float] = []
    out = None
    for _ in range(turns):
        out = None
        gc.collect()
        start = time.process_time()
        out = run()
        found.append(1e3 * (time.process_time() - start))
    return found, out


def planning(case: Case, bench: Bench) -> list[Row]:
    """The row of one graph; options: shape, nodes. Its time is that of planning; figures: load and text."""
    turns = 1 if bench.tiny else 3
    spec = SHAPES[str(case.option("shape"))](int(case.option("nodes")))
    load, made = milliseconds(lambda: load_graph(spec), turns)
    plan, planned = milliseconds(lambda: make_plan(made), turns)
    text, _ = milliseconds(lambda: str(planned), 1)
    figures = {"nodes": len(made.nodes), "load_ms": round(min(load), 3), "text_ms": round(min(text), 3)}
    name = case.systems[0]
    one = Entrant(name, name, bench.version)
    return [bench.row(case, one, "plan", {name: plan}, (0.0, 0.0), figures=figures)]
