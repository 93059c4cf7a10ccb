"""Whole networks whose loops `persistent` runs: errors against the float64 oracle beside those of torch."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from framework import Network, load_graph
from framework.cells import CONF
from framework.graph import Graph
from framework.runners.triton_persistent import PersistentLoop
from tests.kernels.persistent_graphs import CELLS, of_cell
from tests.kernels.pooled_errors import worse_than_torch

LANES, UNITS = 16, 128
# Calls forward: with lengths and resets; against time: plain.
CALLS = {False: (3,), True: (0,)}
# Cells that, with NODES, hold all kinds of ops of the others; those are compared with -m slow.
SOME = ("lstm_peephole", "lstm_projection", "nas", "rhn")
# Expressions with t-1 run forward; with t+1 in its place against time.
FAR = "masks, far reads"
NODES: dict[str, dict[str, Any]] = {
    FAR: {
        "g": {"size": UNITS, "is": "dropout(sigmoid(full(x) + full(l[t-5]) + diag(g[t-2]) + bias), 0.1)"},
        "l": {"size": UNITS, "is": "zoneout(g * tanh(full(x) + block(l[t-1], 4) + bias), l[t-1], 0.2)"},
    },
    "attention": {
        "a": {"size": UNITS, "is": "softmax(full(l[t-1]) + full(x))"},
        "s": {"size": 1, "is": "sigmoid(full(l[t-1]))"},
        "n": {"size": UNITS, "is": "norm(full(a)) + full(concat(l[t-2][0:7], x))"},
        "l": {"size": UNITS, "is": "s * l[t-1] + (1 - s) * tanh(n)"},
    },
}


def graph_of(case: str, backward: bool) -> Graph:
    """A cell's relu is a softplus here: whether a rounding makes its slope jump is luck, also torch's."""
    if case in CELLS:
        smooth = (CONF / "cell" / f"{case}.yaml").read_text(encoding="utf-8").replace("relu(", "softplus(")
        source = of_cell(case, UNITS, backward, features=32, clocks=UNITS)
        return load_graph(source | {"cells": {case: yaml.safe_load(smooth)}})
    turned = {
        name: {**node, "is": node["is"].replace("t-", "t+") if backward else node["is"]}
        for name, node in NODES[case].items()
    }
    return load_graph({"inputs": {"x": {"size": 32}}, "nodes": turned, "outputs": ["l"]})


def compare(case: str) -> None:
    def check(net: Network) -> None:
        assert net.loops and all(isinstance(x, PersistentLoop) for x in net.loops)

    graphs = [(graph_of(case, backward), seeds) for backward, seeds in CALLS.items()]
    wrong = worse_than_torch("persistent", graphs, 10 if case == FAR else 5, LANES, check)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("case", [*SOME, *NODES])
def test_errors_are_at_most_twice_those_of_torch(case: str):
    """Outputs at every step and over all, and all gradients, in three dtypes."""
    compare(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [cell for cell in CELLS if cell not in SOME])
def test_errors_of_the_other_cells(case: str):
    compare(case)
