"""The direction of a loop, its smallest delay and their common factor, against enumerating every cycle."""

from __future__ import annotations

import itertools
import math
import random
import re

import pytest

from framework.direction import timing
from framework.errors import GraphError

Edges = dict[str, list[tuple[str, int]]]


def random_component(seed: int, delays: list[int]) -> Edges:
    """Strongly connected: a ring of one to five nodes, and some more edges; node -> [(read node, shift)]."""
    pick = random.Random(seed)
    names = "abcde"[: pick.randint(1, 5)]
    edges: Edges = {v: [(names[(i + 1) % len(names)], pick.choice(delays))] for i, v in enumerate(names)}
    for _ in range(pick.randint(0, 4)):
        edge = (pick.choice(names), pick.choice(delays))
        if edge not in (reads := edges[pick.choice(names)]):
            reads.append(edge)
    return edges


def simple_cycles(edges: Edges) -> list[list[int]]:
    """The shifts along every simple cycle, one entry for each choice among parallel edges."""
    found = []
    for length in range(1, len(edges) + 1):
        for nodes in itertools.permutations(edges, length):
            if nodes[0] != min(nodes):
                continue  # the same cycle, begun elsewhere
            steps = zip(nodes, (*nodes[1:], nodes[0]), strict=True)
            choices = [[shift for read, shift in edges[v] if read == w] for v, w in steps]
            found += [list(shifts) for shifts in itertools.product(*choices)]
    return found


def expected(edges: Edges) -> tuple[int, int, int] | str:
    """(direction, smallest delay, common factor), or a piece of the error's text."""
    cycles = simple_cycles(edges)
    totals = [-sum(shifts) for shifts in cycles]
    shifts = {shift for reads in edges.values() for _, shift in reads}
    if any(not any(shifts) for shifts in cycles):
        return "a loop without delay"
    if 0 in totals:
        return "add up to 0"
    if min(totals) < 0 < max(totals):
        return "backward in time and a loop forward"
    if min(shifts) < 0 < max(shifts):
        return "against the direction"
    return (1 if totals[0] > 0 else -1), min(map(abs, totals)), math.gcd(*totals)


@pytest.mark.parametrize(
    "delays", [[0, -1], [0, -1, -2, -3], [0, -2, -4], [0, 1, 2], [-6, -4], [-1, 0, 1], [-2, -2, 1]], ids=str
)
def test_timing_equals_enumeration(delays: list[int]):
    kinds = set()
    for seed in range(400):
        edges = random_component(seed, delays)
        want = expected(edges)
        places = {name: f"nodes.{name}" for name in edges}
        if isinstance(want, str):
            kinds.add(want)
            with pytest.raises(GraphError) as error:
                timing(list(edges), edges, places)
            # A component may be wrong in two ways at once; a total of 0 is both directions' limit.
            either = {want, "add up to 0"} if "loop forward" in want else {want}
            either |= {"backward in time and a loop forward"} if want == "add up to 0" else set()
            text = str(error.value)
            assert any(piece in text for piece in either), (seed, edges, text)
            if "add up to 0" in text:
                printed = text.split("add up to 0: ")[1].split(". ")[0]
                assert sum(int(shift) for shift in re.findall(r"\[t([+-]\d+)\]", printed)) == 0, (edges, text)
        else:
            kinds.add("legal")
            got = timing(list(edges), edges, places)
            assert (got.direction, got.delay, got.factor) == want, (seed, edges)
    assert "legal" in kinds
