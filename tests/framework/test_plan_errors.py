"""What the planner refuses: the cycle it prints is one of the graph, and the way out that it names is one."""

from __future__ import annotations

import re

import pytest

from framework.direction import reads, timing
from framework.errors import ConfigError, GraphError
from framework.graph import Graph
from framework.load import load_graph
from framework.plan import make_plan
from tests.framework.bad_graphs import BAD_PLANS, nodes

READ = re.compile(r"([\w/]+) reads ([\w/]+?)(?:\[t([+-]\d+)\])?$")


def refused(graph: Graph) -> str:
    with pytest.raises(GraphError) as caught:
        make_plan(graph)
    return caught.value.cause


def cycles(cause: str) -> list[list[tuple[str, str, int]]]:
    """Every printed cycle: (reader, read, shift)."""
    found = []
    for text in cause.partition(": ")[2].split("; "):
        matches = [READ.match(part) for part in text.split(", ")]
        found.append([(m[1], m[2], int(m[3] or 0)) for m in matches if m])
        assert all(matches) or "... " in text, text
    return found


@pytest.mark.parametrize("name", BAD_PLANS)
def test_the_printed_cycle_is_one_of_the_graph(name):
    graph = load_graph(BAD_PLANS[name])
    cause = refused(graph)
    if "against the direction" in cause:
        return
    totals = []
    for cycle in cycles(cause):
        assert cycle
        for reader, read, shift in cycle:
            assert (read, shift) in reads(graph.nodes[reader].expr), (reader, read, shift)
        if "more" not in cause:
            followers = [*cycle[1:], cycle[0]]
            assert all(read == following[0] for (_, read, _), following in zip(cycle, followers, strict=True))
        totals.append(sum(shift for _, _, shift in cycle))
    if "without delay" in cause or "add up to 0" in cause:
        assert totals == [0]
    else:
        assert "backward in time and a loop forward" in cause
        assert totals[0] > 0 > totals[1], "the first runs backward: it reads ahead"


def test_every_kind_of_refusal_is_among_the_bad_graphs():
    causes = [refused(load_graph(text)) for text in BAD_PLANS.values()]
    for kind in ("without delay", "add up to 0", "in time and a loop forward", "against the direction"):
        assert sum(kind in cause for cause in causes) >= 2, kind
    whole = [cause for cause in causes if "more" not in cause]
    assert max(cause.count(" reads ") for cause in whole) >= 5, "a ring of five nodes"


@pytest.mark.parametrize(
    ("bad", "moved"),
    [
        ("a: {size: 4, is: 'full(h[t+1])'}\nh: {size: 4, is: 'a[t-3] + x'}",
         "a: {size: 4, is: 'full(h)'}\nh: {size: 4, is: 'a[t-2] + x'}"),
        ("a: {size: 4, is: 'full(h[t-1])'}\nh: {size: 4, is: 'a[t+4] + x'}",
         "a: {size: 4, is: 'full(h)'}\nh: {size: 4, is: 'a[t+3] + x'}"),
    ],
)  # fmt: skip
def test_the_way_out_of_a_read_against_the_direction(bad, moved):
    with pytest.raises(GraphError) as caught:
        make_plan(load_graph(nodes(bad)))
    pairs = re.findall(r"'([^']+)' becomes '([^']+)'", caught.value.fix)
    assert len(pairs) == 2
    text = bad
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    assert text == moved
    assert len(make_plan(load_graph(nodes(moved))).components) == 1


def test_the_delay_that_the_error_suggests_is_a_way_out():
    bad = load_graph(nodes("a: {size: 4, is: full(b)}\nb: {size: 4, is: tanh(h)}\nh: {size: 4, is: x + a}"))
    with pytest.raises(GraphError, match=re.escape("e.g. 'a[t-1]' in 'h'")):
        make_plan(bad)
    good = nodes("a: {size: 4, is: full(b)}\nb: {size: 4, is: tanh(h)}\nh: {size: 4, is: 'x + a[t-1]'}")
    assert make_plan(load_graph(good)).components[0].delay == 1


def test_dead_nodes_may_be_wrong():
    """A cycle that no output needs is dropped with its nodes, before anybody asks for its direction."""
    plan = make_plan(load_graph(nodes("a: {size: 4, is: b}\nb: {size: 4, is: a}\nh: {size: 4, is: x}")))
    assert not plan.components


def test_a_huge_wrong_loop_is_refused_without_recursion_and_in_one_line():
    n = 3000
    ring = {f"n{i}": [(f"n{i - 1}", 0)] for i in range(1, n)}
    for first, kind in (
        ([(f"n{n - 1}", 0)], "without delay"),
        ([(f"n{n - 1}", -1), (f"n{n - 1}", 1)], "backward in time and a loop forward"),
        ([(f"n{n - 1}", -2)], "against the direction"),
    ):
        edges = {"n0": first, **ring}
        if "against" in kind:
            edges["n7"] = [("n6", 1)]
        with pytest.raises(GraphError) as caught:
            timing(list(edges), edges, {v: f"nodes.{v}" for v in edges})
        assert kind in str(caught.value) and len(str(caught.value)) < 600


def test_runner_that_does_not_exist():
    with pytest.raises(ConfigError, match=r"runner: no runner 'cuda'\. There are: auto, "):
        make_plan(load_graph("lstm"), runner="cuda")
