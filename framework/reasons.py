"""Why a loop is a loop: a cycle through its delays, which forbids to compute it for all steps at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from framework.direction import reads, show
from framework.expr import Expr
from framework.graph import Graph
from framework.scc import components

if TYPE_CHECKING:
    from framework.component import Component


def node_groups(graph: Graph) -> dict[str, Collection[str]]:
    """Each node with the nodes of its strongly connected component, in the order of the graph."""
    names = list(graph.nodes)
    place = {n: i for i, n in enumerate(names)}
    edges = [[place[w] for w, _ in reads(graph.nodes[n].expr) if w in place] for n in names]
    groups = [dict.fromkeys(names[i] for i in group) for group in components(edges)]
    return {n: group for group in groups for n in group}


def cycle_text(graph: Graph, c: Component, inside: Collection[str]) -> str:
    """`l1/i reads l1/h[t-1], l1/h reads l1/c, l1/c reads l1/i`: the shortest way back from one read.

    The read is one through a matrix where the loop has any: that is what makes it costly. `inside`: the
    nodes of its strongly connected component.
    """
    name, (first, shift) = next(_candidates(graph, c, inside))
    before: dict[str, tuple[str, int]] = {}  # node -> (who reads it on the shortest way from `first`, shift)
    todo = deque([first])
    while name not in before and first != name:
        v = todo.popleft()
        for w, s in reads(graph.nodes[v].expr):
            if w in inside and w not in before and w != first:
                before[w] = (v, s)
                todo.append(w)
    way: list[tuple[str, int]] = []
    at = name
    while at != first:
        at, s = before[at]
        way.append((at, -s))
    return show([(name, -shift), *reversed(way)])


def _candidates(
    graph: Graph, c: Component, inside: Collection[str]
) -> Iterator[tuple[str, tuple[str, int]]]:
    """(node, what it reads inside the loop): through matrices of the loop first, then at other steps."""
    for run in c.runs:
        for weight, _, _ in run.weights:
            node = weight.split(":", 1)[0]
            for term in _terms(graph.nodes[node].expr, weight):
                yield from ((node, read) for read in reads(term) if read[0] in inside)
    for node in inside:
        found = reads(graph.nodes[node].expr)
        yield from ((node, read) for read in found if read[1] and read[0] in inside)


def _terms(e: Expr, weight: str) -> Iterator[Expr]:
    """The part of `e` that is the product with `weight`."""
    todo = [e]
    while todo:
        x = todo.pop()
        if weight in x.weights:
            yield x
        todo.extend(x.args)
