"""Which way a loop runs in time, its smallest delay, and the errors of loops that have no meaning."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd

from framework.errors import GraphError
from framework.expr import Expr

Edges = Mapping[str, Sequence[tuple[str, int]]]  # node -> what it reads: (node, shift), t + shift
Cycle = list[tuple[str, int]]  # each node with the delay at which it reads the next; the last reads the first


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
    zero = _cycle(nodes, {v: [(w, 0) for w, d in reads if d == 0] for v, reads in local.items()})
    if zero:
        raise GraphError(
            where[zero[0][0]],
            f"a loop without delay: {show(zero)}",
            "Read one of these nodes at another step, e.g. "
            f"'{zero[0][0].split('/')[-1]}[t-1]'.",
        )
    if {1, -1} <= signs:
        _refuse_mixed(nodes, local, where)
    direction = 1 if 1 in signs else -1
    delays = {v: [(w, abs(d)) for w, d in reads] for v, reads in local.items()}
    factor = _factor(nodes, delays)
    return Timing(direction, _shortest(nodes, delays, factor), factor)


def show(cycle: Cycle) -> str:
    """A cycle in words: `h reads c, c reads h[t-1]`."""
    following = [name for name, _ in [*cycle[1:], cycle[0]]]
    return ", ".join(
        f"{v} reads {w}" + (f"[t{-delay:+d}]" if delay else "")
        for (v, delay), w in zip(cycle, following, strict=True)
    )


def _cycle(nodes: Sequence[str], edges: Mapping[str, Sequence[tuple[str, int]]]) -> Cycle:
    """Some cycle through `edges`, all of delay 0, or []; iterative depth-first search."""
    state = dict.fromkeys(nodes, 0)
    for root in nodes:
        if state[root]:
            continue
        path = [(root, iter(edges[root]))]
        state[root] = 1
        while path:
            v, rest = path[-1]
            for w, _ in rest:
                if state[w] == 1:
                    names = [u for u, _ in path]
                    return [(name, 0) for name in names[names.index(w) :]]
                if state[w] == 0:
                    state[w] = 1
                    path.append((w, iter(edges[w])))
                    break
            else:
                state[v] = 2
                path.pop()
    return []


def _nonpositive_cycle(
    nodes: Sequence[str], delays: Mapping[str, Sequence[tuple[str, int]]], sign: int
) -> Cycle:
    """A cycle whose total of sign * delay is <= 0, or [] (Bellman-Ford on n * delay - 1)."""
    n = len(nodes)
    distance = dict.fromkeys(nodes, 0)
    parent: dict[str, tuple[str, int]] = {}  # who reads it on the shortest way, and at which delay
    changed = None
    for _ in range(n + 1):
        changed = None
        for v in nodes:
            for w, d in delays[v]:
                through = distance[v] + (n + 1) * sign * d - 1
                if through < distance[w]:
                    distance[w], parent[w], changed = through, (v, d), w
        if changed is None:
            return []
    assert changed is not None
    for _ in range(n):
        changed, _ = parent[changed]
    cycle = [parent[changed]]
    while cycle[-1][0] != changed:
        cycle.append(parent[cycle[-1][0]])
    return cycle[::-1]


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
    raise GraphError(
        where[v],
        f"'{v}' reads '{w}[t{-d:+d}]' against the direction of the loop they are in",
        "Rewrite the loop so that all its reads go one way: let the node read an earlier step of "
        "the other nodes instead, which shifts the node itself in time.",
    )


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
    """Total delay of the shortest cycle: for every delayed edge the way back; stops at `factor`."""
    best = 0
    for v in nodes:
        for w, d in delays[v]:
            if d == 0 or (best and d >= best):
                continue
            back = _distance(w, v, delays, best - d if best else 0)
            if back is not None and (not best or d + back < best):
                best = d + back
            if best == factor:
                return best
    assert best
    return best


def _distance(
    start: str, goal: str, delays: Mapping[str, Sequence[tuple[str, int]]], limit: int
) -> int | None:
    """Smallest total delay from `start` to `goal`, or None when it is not under `limit` (0: no limit)."""
    seen: set[str] = set()
    heap = [(0, start)]
    while heap:
        total, v = heapq.heappop(heap)
        if v == goal:
            return total
        if v in seen:
            continue
        seen.add(v)
        for w, d in delays[v]:
            if w not in seen and not (limit and total + d >= limit):
                heapq.heappush(heap, (total + d, w))
    return None
