"""Every YAML block of docs/language.md loads and plans; its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from framework.errors import GraphError
from framework.expand import CELL_KEYS, CELL_NODE_KEYS
from framework.load import GRAPH_KEYS, load_graph
from framework.names import FUNCTIONS
from framework.plan import make_plan

TEXT = (Path(__file__).parents[2] / "docs" / "language.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_block_loads_and_plans(block):
    assert make_plan(load_graph(block)).steps


def test_the_loop_of_the_text():
    loops = next(block for block in BLOCKS if "for:" in block)
    graph = load_graph(loops, depth=5, input={"vocab": 96})
    assert graph.nodes["h5"].size == 64 // 5 and graph.weights["h0:full(x)"].shape == (64, 96)


def test_the_inputs_of_the_text():
    graph = load_graph(next(block for block in BLOCKS if "clockwork" in block))
    assert str(graph.nodes["deep/x"].expr) == "concat(x, slow/h)" and "both2/y" in graph.nodes


def test_the_outermost_start_value_wins():
    graph = load_graph(next(block for block in BLOCKS if "count[t-1]" in block))
    assert [graph.nodes[name].init for name in ("count", "l1/c", "l1/h")] == [-1.0, "learned", 0.5]


def test_the_error_of_the_text():
    nodes = {"l1": {"cell": "lstm", "size": 2, "in": "x"}, "l2": {"cell": "lstm", "size": 2, "in": "l1x"}}
    wrong = {"inputs": {"x": {"size": 4}}, "outputs": ["l2"], "nodes": nodes}
    with pytest.raises(GraphError) as caught:
        load_graph(wrong)
    assert str(caught.value) in TEXT


def test_tables_are_whole():
    assert all(f"`{name}`" in TEXT or f"`{name}(" in TEXT for name in FUNCTIONS), "every function"
    keys = (*GRAPH_KEYS, *CELL_KEYS, *CELL_NODE_KEYS)
    assert [key for key in keys if f"`{key}`" not in TEXT] == []
    named = {name for row in re.findall(r"^\| ((?:`\w+(?:\([^`]*\))?`[ ,]*)+) \|", TEXT, re.MULTILINE)
             for name in re.findall(r"`(\w+)", row)}
    assert named - FUNCTIONS - {*keys, "s", "l1"} == set(), "a function in the table that there is not"
