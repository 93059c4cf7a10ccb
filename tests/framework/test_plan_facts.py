"""What the planner says about loops: kind, phases, direction, smallest delay, common factor. By hand."""

from __future__ import annotations

from typing import Any

import pytest

from framework.load import load_graph
from framework.plan import Plan, make_plan
from tests.framework.small_graphs import graph
from tests.framework.test_plan_golden import CELLS, stack


def facts(plan: Plan) -> list[tuple[str, str, int, int, int, int]]:
    """(name, kind, phases, direction, delay, factor) of every loop."""
    return [(c.name, c.kind, c.phases, c.direction, c.delay, c.factor) for c in plan.components]


# By the equations. A dense product in the loop is a phase; a product of what another one gave is one more.
OF_CELLS: dict[str, list[tuple[str, str, int]]] = {
    "lstm": [("l", "dense", 1)],
    "lstm_peephole": [("l", "dense", 1)],
    "lstm_cifg": [("l", "dense", 1)],
    "lstm_norm": [("l", "dense", 3)],  # h W; its statistics; those of c
    "lstm_projection": [("l", "dense", 2)],  # h W; the projection
    "gru": [("l", "dense", 2)],  # r before the product: W (r * h) waits for r
    "gru_cudnn": [("l", "dense", 1)],  # r after it
    "rnn_tanh": [("l/h", "dense", 1)],
    "rnn_relu": [("l/h", "dense", 1)],
    "mgu": [("l", "dense", 2)],
    "ugrnn": [("l", "dense", 1)],
    "mlstm": [("l", "dense", 2)],  # m = (x W) * (h W); the gates read m
    "indrnn": [("l/h", "elementwise", 0)],
    "sru": [("l", "elementwise", 0)],
    "mingru": [("l/h", "linear", 0)],
    "minlstm": [("l/h", "linear", 0)],
    "rhn": [("l", "dense", 3)],  # depth 3
    "nas": [("l", "dense", 1)],
    "scrn": [("l/s", "linear", 0), ("l/h", "dense", 1)],  # the slow context does not read the fast layer
    "clockwork": [("l", "dense", 1)],
}


def test_the_table_has_every_cell():
    assert sorted(OF_CELLS) == CELLS


@pytest.mark.parametrize("cell", CELLS)
def test_shared_cell(cell):
    found = facts(make_plan(load_graph(stack(cell))))
    assert found == [(name, kind, phases, 1, 1, 1) for name, kind, phases in OF_CELLS[cell]]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_phases_of_a_deep_transition(depth):
    spec = stack("rhn")
    spec["nodes"]["l"]["depth"] = depth  # type: ignore[index]
    assert facts(make_plan(load_graph(spec)))[0][1:3] == ("dense", depth)


LOOPS: dict[str, tuple[dict[str, Any], list[tuple[str, str, int, int, int, int]]]] = {
    "one node": ({"h": "tanh(full(x) + full(h[t-1]))"}, [("h", "dense", 1, 1, 1, 1)]),
    "backward in time": ({"h": "tanh(full(x) + full(h[t+1]))"}, [("h", "dense", 1, -1, 1, 1)]),
    "two steps back": ({"h": "tanh(full(x) + full(h[t-2]))"}, [("h", "dense", 1, 1, 2, 2)]),
    "two and four steps ahead": (
        {"h": "tanh(full(x) + full(h[t+2]) + full(h[t+4]))"}, [("h", "dense", 1, -1, 2, 2)]),
    "two and three steps": (
        {"h": "tanh(full(x) + full(h[t-2]) + full(h[t-3]))"}, [("h", "dense", 1, 1, 2, 1)]),
    "delays add up along a ring": (
        {"a": "full(b[t-2]) + x", "b": "tanh(a[t-3])"}, [("a+b", "dense", 1, 1, 5, 5)]),
    "two rings through one node": (
        {"a": "tanh(full(b[t-2]) + diag(d[t-1]))", "b": "tanh(x + a[t-4])", "d": "tanh(a[t-2])"},
        [("a+b+d", "dense", 1, 1, 3, 3)]),
    "a ring of three phases": (
        {"a": "full(d[t-1]) + x", "b": "full(a)", "d": "full(b)"}, [("a+b+d", "dense", 3, 1, 1, 1)]),
    "a leaky sum": ({"h": "0.9 * h[t-1] + 0.1 * x"}, [("h", "linear", 0, 1, 1, 1)]),
    "a gated sum": (
        {"g": "sigmoid(full(x))", "h": "g * h[t-1] + (1 - g) * x"}, [("h", "linear", 0, 1, 1, 1)]),
    "affine by a learned vector": ({"h": "diag(h[t-1]) + x"}, [("h", "linear", 0, 1, 1, 1)]),
    "two states, affine in both": (
        {"a": "0.5 * b[t-1] + x", "b": "diag(a[t-1]) - a"}, [("a+b", "linear", 0, 1, 1, 1)]),
    "a product of states": ({"h": "h[t-1] * h[t-2] + x"}, [("h", "elementwise", 0, 1, 1, 1)]),
    "a function of the state": ({"h": "tanh(diag(h[t-1]) + x)"}, [("h", "elementwise", 0, 1, 1, 1)]),
    "blocks": ({"h": "tanh(block(h[t-1], 2) + x)"}, [("h", "dense", 1, 1, 1, 1)]),
    "a norm in the loop": ({"h": "norm(h[t-1] + x)"}, [("h", "dense", 1, 1, 1, 1)]),
    "softmax of a product": ({"h": "softmax(full(h[t-1]) + x)"}, [("h", "dense", 2, 1, 1, 1)]),
    "units move without a matrix": (
        {"h": "concat(h[t-1][2:], x[:2])"}, [("h", "dense", 0, 1, 1, 1)]),
    "a matrix before the loop": ({"z": "full(x)", "h": "0.5 * h[t-1] + z"}, [("h", "linear", 0, 1, 1, 1)]),
    "two loops one after the other": (
        {"a": "tanh(full(a[t-1]) + x)", "h": "0.5 * h[t-3] + a"},
        [("a", "dense", 1, 1, 1, 1), ("h", "linear", 0, 1, 3, 3)]),
    "both directions": (
        {"a": "tanh(full(a[t-1]) + x)", "b": "tanh(full(b[t+1]) + x)", "h": "a + b"},
        [("a", "dense", 1, 1, 1, 1), ("b", "dense", 1, -1, 1, 1)]),
    "no loop at all": ({"a": "tanh(full(x[t-1]))", "h": "a + a[t-1]"}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_loop(name):
    nodes, expected = LOOPS[name]
    sized = {n: {"size": 4, "is": text} for n, text in nodes.items()}
    assert facts(make_plan(graph(sized))) == expected


def test_loops_of_one_cell_have_names_of_their_own():
    """Two loops of two nodes each inside the cell node l."""
    two = {"out": "y", "nodes": {"a": "tanh(full(x) + b[t-1])", "b": "0.5 * a", "c": "tanh(full(x) + d[t-1])",
                                 "d": "0.5 * c", "y": "b + d"}}  # fmt: skip
    plan = make_plan(graph({"l": {"cell": "two", "size": 4, "in": "x"}}, cells={"two": two}))
    assert [c.name for c in plan.components] == ["l", "l#2"]
    assert [set(c.nodes) for c in plan.components] == [{"l/a", "l/b"}, {"l/c", "l/d"}]


def test_what_a_loop_carries():
    plan = make_plan(graph({"l": {"cell": "lstm_peephole", "size": 4, "in": "x"},
                            "y": {"size": 4, "is": "l/c[t-3] + l[t-2]"}}))  # fmt: skip
    assert plan.components[0].states == {"l/h": 1, "l/c": 1}, "reads from outside the loop are not its own"
    assert plan.history == {"l/h": 2, "l/c": 3}, "but a chunk hands on as many steps as anybody reads"
