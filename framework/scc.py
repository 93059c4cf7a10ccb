"""Strongly connected components (Tarjan 1972, iterative), linear in nodes and edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def components(edges: Sequence[Sequence[int]]) -> list[list[int]]:
    """Components of the graph in which `edges[v]` lists what v depends on; dependencies come first.

    Nodes inside a component are sorted. Iterative, so that a chain of 10,000 nodes needs no deep stack.
    """
    n = len(edges)
    order = [0] * n  # 0: not seen yet; else the 1-based time of the first visit
    low = [0] * n
    on_stack = [False] * n
    stack: list[int] = []
    found: list[list[int]] = []
    time = 0
    for root in range(n):
        if order[root]:
            continue
        work = [(root, 0)]
        while work:
            v, at = work.pop()
            if at == 0:
                time += 1
                order[v] = low[v] = time
                stack.append(v)
                on_stack[v] = True
            targets = edges[v]
            descended = False
            for i in range(at, len(targets)):
                w = targets[i]
                if not order[w]:
                    work.append((v, i + 1))
                    work.append((w, 0))
                    descended = True
                    break
                if on_stack[w]:
                    low[v] = min(low[v], order[w])
            if descended:
                continue
            if low[v] == order[v]:
                members = []
                while True:
                    w = stack.pop()
                    on_stack[w] = False
                    members.append(w)
                    if w == v:
                        break
                found.append(sorted(members))
            if work:
                parent = work[-1][0]
                low[parent] = min(low[parent], low[v])
    return found


def topological(
    nodes: Sequence[int], edges: Sequence[Sequence[int]] | Mapping[int, Sequence[int]]
) -> list[int]:
    """`nodes` ordered so that what each depends on (through `edges`, inside `nodes`) comes first.

    Ties keep the order given. A cycle is an error of ours: the planner has looked for it before.
    """
    inside = set(nodes)
    done: set[int] = set()
    out: list[int] = []
    for root in nodes:
        work = [(root, False)]
        while work:
            v, ready = work.pop()
            if v in done:
                continue
            if ready:
                done.add(v)
                out.append(v)
                continue
            work.append((v, True))
            work.extend((w, False) for w in reversed(edges[v]) if w in inside and w not in done)
    assert len(out) == len(inside)
    return out
