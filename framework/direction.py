"""Which way a loop runs in time, its smallest delay, and the errors of loops that have no meaning."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd

from framework.errors import GraphError
from framework.expr import Expr
from framework.scc import components, topological

Edges = Mapping[str, Sequence[tuple[str, int]]]  # node -> what it reads: (node, shift), t + shift
Cycle = list[tuple[str, int]]  # each node with the delay at which it reads the next; the last reads the first
SHOWN = 8  # reads of a cycle that are printed


@dataclass(frozen=True, slots=True)
class Timing:
    """direction: +1 forward in time, -1 backward. `delay`: of the shortest cycle; `factor`: gcd of all."""

    direction: int
    delay: int
    factor: int


def reads(e: Expr) -> list[tuple[str, int]]:
    """(name, shift) of everything an expression reads."""
    out: list[tuple[str, int]] = []
    todo = [e]
    while todo:
        x = todo.pop()
        if x.op == "ref":
            out.append((x.name, x.shift))
        todo.extend(x.args)
    return out


def timing(nodes: Sequence[str], edges: Edges, where: Mapping[str, str]) -> Timing:
    """Direction and delays of one cyclic component. Raises GraphError that prints the offending cycle."""
    inside = set(nodes)
    # The delay of an edge is how many steps back it reads: s[t-1] has delay 1.
    local = {v: [(w, -s) for w, s in edges[v] if w in inside] for v in nodes}
    signs = {(d > 0) - (d < 0) for reads in local.values() for _, d in reads}
    zero = _zero_cycle(nodes, {v: [w for w, d in reads if d == 0] for v, reads in local.items()})
    if zero:
        raise GraphError(
            where[zero[0][0]],
            f"a loop without delay: {show(zero)}",
            "Read one of these nodes at another step, e.g. "
            f"'{zero[0][0].split('/')[-1]}[t-1]' in '{zero[-1][0]}'.",
        )
    if {1, -1} <= signs:
        _refuse_mixed(nodes, local, where)
    direction = 1 if 1 in signs else -1
    delays = {v: [(w, abs(d)) for w, d in reads] for v, reads in local.items()}
    factor = _factor(nodes, delays)
    return Timing(direction, _shortest(nodes, delays, factor), factor)


def show(cycle: Cycle) -> str:
    """A cycle in words: `h reads c, c reads h[t-1]`; the middle of a long one is left out."""
    following = [name for name, _ in [*cycle[1:], cycle[0]]]
    words = [
        f"{v} reads {_at(w, delay)}"
        for (v, delay), w in zip(cycle, following, strict=True)
    ]
    if len(words) > SHOWN:
        words[SHOWN - 3 : -2] = [f"... {len(words) - SHOWN + 1} more"]
    return ", ".join(words)


def _zero_cycle(nodes: Sequence[str], edges: Mapping[str, Sequence[str]]) -> Cycle:
    """A cycle through `edges`, which have no delay, or []: the shortest through one outer node."""
    place = {v: i for i, v in enumerate(nodes)}
    found = components([[place[w] for w in edges[v]] for v in nodes])
    group = next((g for g in found if len(g) > 1 or nodes[g[0]] in edges[nodes[g[0]]]), None)
    if group is None:
        return []
    inside = dict.fromkeys(nodes[i] for i in group)
    start = min(inside, key=lambda v: v.count("/"))
    reader: dict[str, str] = {}  # node -> who reads it on the shortest way from `start`
    todo = deque([start])
    while start not in reader:
        v = todo.popleft()
        for w in edges[v]:
            if w in inside and w not in reader:
                reader[w] = v
                todo.append(w)
    way = [reader[start]]
    while way[-1] != start:
        way.append(reader[way[-1]])
    return [(v, 0) for v in reversed(way)]


def _nonpositive_cycle(
    nodes: Sequence[str], delays: Mapping[str, Sequence[tuple[str, int]]], sign: int
) -> Cycle:
    """A cycle whose total of sign * delay is <= 0, or [].

    That is a negative one over the weights n * delay - 1. Bellman-Ford with a queue; a negative cycle shows
    up in the parents (Cherkassky & Goldberg 1999, Negative-cycle detection algorithms), where it is looked
    for once in n turns. Readers come first in the queue, so that a chain without delays takes one pass.
    """
    n, place = len(nodes), {v: i for i, v in enumerate(nodes)}
    order = topological(range(n), [[place[w] for w, d in delays[v] if d == 0] for v in nodes])
    distance = dict.fromkeys(nodes, 0)
    parent: dict[str, tuple[str, int]] = {}  # who reads it on the shortest way, and at which delay
    queue = deque(nodes[i] for i in reversed(order))
    waiting, turns = set(nodes), 0
    while queue:
        v = queue.popleft()
        waiting.discard(v)
        for w, d in delays[v]:
            through = distance[v] + (n + 1) * sign * d - 1
            if through < distance[w]:
                distance[w], parent[w] = through, (v, d)
                if w not in waiting:
                    waiting.add(w)
                    queue.append(w)
        turns += 1
        if turns % n == 0 and (cycle := _cycle_of_parents(parent)):
            return cycle
    return []


def _cycle_of_parents(parent: Mapping[str, tuple[str, int]]) -> Cycle:
    seen: dict[str, str] = {}  # node -> from where it was first reached
    for start in parent:
        v = start
        while v in parent and v not in seen:
            seen[v] = start
            v, _ = parent[v]
        if seen.get(v) == start and v in parent:
            cycle = [parent[v]]
            while cycle[-1][0] != v:
                cycle.append(parent[cycle[-1][0]])
            return cycle[::-1]
    return []


def _refuse_mixed(
    nodes: Sequence[str],
    delays: Mapping[str, Sequence[tuple[str, int]]],
    where: Mapping[str, str],
) -> None:
    """Raise the right error for a component that reads both back and ahead."""
    ahead = _nonpositive_cycle(nodes, delays, 1)
    back = _nonpositive_cycle(nodes, delays, -1)
    for cycle in (ahead, back):
        if cycle and sum(delay for _, delay in cycle) == 0:
            raise GraphError(
                where[cycle[0][0]],
                f"a loop whose delays add up to 0: {show(cycle)}",
                "A loop needs a positive total delay (forward in time) or a negative one (backward).",
            )
    if ahead and back:
        raise GraphError(
            where[ahead[0][0]],
            "one component has a loop backward in time and a loop forward in time: "
            f"{show(ahead)}; {show(back)}",
            "Split it: neither of the two directions may depend on the other's result of the same loop.",
        )
    v, w, d = next((v, w, d) for v in nodes for w, d in delays[v] if (d < 0) == bool(back))
    reader = next(r for u in nodes for r in delays[u] if r[0] == v and u != v)
    steps = f"{abs(d)} step{'s' * (abs(d) > 1)}"
    ways = ("earlier", "later") if d < 0 else ("later", "earlier")
    raise GraphError(
        where[v],
        f"'{v}' reads '{_at(w, d)}' against the direction of the loop they are in",
        f"Move '{v}' in time: write all that it reads {steps} {ways[0]} ('{_at(w, d)}' becomes '{w}'), "
        f"and all reads of '{v}' {steps} {ways[1]} ('{_at(*reader)}' becomes '{_at(v, reader[1] + d)}').",
    )


def _at(name: str, delay: int) -> str:
    """`h[t-1]` for a delay of 1."""
    return f"{name}[t{-delay:+d}]" if delay else name


def _factor(nodes: Sequence[str], delays: Mapping[str, Sequence[tuple[str, int]]]) -> int:
    """Greatest common divisor of the total delays of all cycles (potentials along one spanning tree)."""
    potential = {nodes[0]: 0}
    todo = [nodes[0]]
    while todo:
        v = todo.pop()
        for w, d in delays[v]:
            if w not in potential:
                potential[w] = potential[v] + d
                todo.append(w)
    common = 0
    for v in nodes:
        for w, d in delays[v]:
            common = gcd(common, potential[v] + d - potential[w])
    return common


def _shortest(nodes: Sequence[str], delays: Mapping[str, Sequence[tuple[str, int]]], factor: int) -> int:
    """Total delay of the shortest cycle; stops at `factor`, which no cycle can be shorter than.

    For every node with a delayed read the shortest way round; then the node is left out. Nodes that are on no
    cycle any more are left out whenever the search has cost as much as finding them.
    """
    best, spent = 0, 0
    left = set(nodes)
    for v in nodes:
        if v not in left or not any(d for _, d in delays[v]):
            continue
        total, looked = _round(v, delays, left, best)
        best = total or best
        if best == factor:
            return best
        left.discard(v)
        spent += looked
        if spent > len(left):
            left, spent = _cyclic(left, delays), 0
    assert best
    return best


def _round(
    start: str, delays: Mapping[str, Sequence[tuple[str, int]]], left: set[str], limit: int
) -> tuple[int, int]:
    """(smallest total delay of a cycle through `start` inside `left`, 0 if not under `limit`; its cost)."""
    seen: set[str] = set()
    heap = [(0, start)]
    while heap:
        total, v = heapq.heappop(heap)
        if v == start and total:
            return total, len(seen)
        if v in seen:
            continue
        seen.add(v)
        for w, d in delays[v]:
            if (w in left and w not in seen) or w == start:
                if not limit or total + d < limit:
                    heapq.heappush(heap, (total + d, w))
    return 0, len(seen)


def _cyclic(left: set[str], delays: Mapping[str, Sequence[tuple[str, int]]]) -> set[str]:
    """The nodes of `left` that are on a cycle inside it."""
    nodes = sorted(left)
    place = {v: i for i, v in enumerate(nodes)}
    edges = [[place[w] for w, _ in delays[v] if w in place] for v in nodes]
    return {nodes[i] for g in components(edges) if len(g) > 1 or g[0] in edges[g[0]] for i in g}
