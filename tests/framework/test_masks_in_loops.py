"""Random masks that a loop takes: which they are, and who computes them."""

from __future__ import annotations

from typing import Any

import pytest

from framework import Network, load_graph, make_plan
from framework.component import Component
from framework.order import unread_maps
from framework.runners.loop import LoopRunner


def graph_of(text: str, extra: dict[str, Any] | None = None) -> Any:
    nodes = {"h": {"size": 4, "is": text}, **(extra or {})}
    return load_graph({"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": list(nodes)})


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("tanh(full(x) + full(dropout(h[t-1], 0.2)))", {0}),
        ("dropout(tanh(full(x) + diag(h[t-1])), 0.2)", {0}),
        ("zoneout(tanh(full(x) + diag(h[t-1])), h[t-1], 0.2)", {1, 2}),
        ("tanh(dropout(full(x), 0.2) + diag(h[t-1]))", set()),  # hoisted with the product
        ("tanh(full(x) + h[t-1])", set()),
    ],
)
def test_masks_of_a_component(text: str, kinds: set[int]):
    plan = make_plan(graph_of(text))
    (c,) = plan.components
    assert {op.lo for op in c.masks.values()} == kinds
    for number, mask in c.masks.items():
        assert (mask.kind, mask.value) == ("random", 0.2)
        op = plan.ops[c.ext[number]]
        assert mask.name == (op.name or plan.ops[op.args[0]].name)


class OwnMasks(LoopRunner):
    """A runner that makes masks itself; nothing runs it."""

    own_masks = True

    def __init__(self, c: Component):
        self.c = c

    def run(self, *args: Any) -> Any:
        """Not called."""
        raise AssertionError

    def gradients_of(self, *args: Any) -> Any:
        """Not called."""
        raise AssertionError


def test_masks_that_a_runner_makes_are_not_computed():
    graph = graph_of("zoneout(tanh(full(x) + diag(h[t-1])), h[t-1], 0.2)")
    plan = make_plan(graph)
    assert {plan.ops[at].kind for at in unread_maps(plan, [OwnMasks(c) for c in plan.components])} == {
        "random",
        "sum",
    }
    assert not unread_maps(plan, Network(graph, runner="torch").loops)


def test_masks_that_somebody_else_reads_are_computed():
    """One mask feeds a loop and a product outside; another only the loop."""
    text = "dropout(tanh(full(x) + diag(h[t-1])), 0.2) + dropout(x[0:1], 0.1)"
    plan = make_plan(graph_of(text))
    left = [plan.ops[at] for at in unread_maps(plan, [OwnMasks(c) for c in plan.components])]
    assert [(op.kind, op.value) for op in left] == [("random", 0.2)]
