"""Cells in a graph: inputs, nesting, directions, layers, params, loops and start values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from framework.errors import GraphError
from framework.graph import Weight
from framework.load import load_graph
from tests.framework.small_graphs import graph, weights_of

# Cells


TWO = {"two": {"inputs": ["a", "b"], "out": "y", "nodes": {"y": "full(a) + full(b[t-1]) + full(y[t-1])"}}}


def test_in_as_name_list_and_mapping():
    g = graph({"p": {"cell": "rnn_tanh", "size": 3, "in": "x"},
               "q": {"cell": "rnn_tanh", "size": 3, "in": ["p", "x[t-1]"]},
               "r": {"cell": "two", "size": 3, "in": {"a": ["p"], "b": "q[t-2]"}},
               "s": {"cell": "rnn_tanh", "size": 3, "in": "dropout(r, 0.2)"}}, cells=TWO)
    assert str(g.nodes["q/x"].expr) == "concat(p/h, x[t-1])" and g.nodes["q/x"].size == 7
    assert weights_of(g, "q/h") == ["full(q/x)", "full(q/h[t-1])", "bias"]
    assert weights_of(g, "r/y") == ["full(p/h)", "full(q/h[t-3])", "full(r/y[t-1])"]
    dropout = g.nodes["s/x"].expr
    assert str(dropout) == "dropout(r/y, 0.2)" and dropout.name == "s/x:dropout(r/y, 0.2)"


def test_a_joined_input_may_read_what_follows():
    g = graph({"p": {"cell": "rnn_tanh", "size": 3, "in": ["x", "q[t-1]"]},
               "q": {"cell": "rnn_tanh", "size": 2, "in": ["p", "p"], "bidirectional": True}})
    assert g.nodes["p/x"].size == 4 + 4 and g.nodes["q/x"].size == 6 and g.nodes["q/y"].size == 4


def test_nested_cells_take_the_size_and_pass_names():
    cells = {"outer": {"out": "top", "init": {"low/c": "learned"}, "nodes": {
        "low": {"cell": "lstm", "in": "x"}, "gate": {"size": 1, "is": "sigmoid(full(low/c))"},
        "top": {"cell": "rnn_tanh", "size": 3, "in": ["low", "gate"]}}}}
    g = graph({"l": {"cell": "outer", "size": 5, "in": "x"},
               "h": {"size": 2, "is": "full(l) + full(l/low/c)"}}, cells=cells)
    assert g.nodes["l/low/c"].size == 5 and g.nodes["l/low/c"].init == "learned"
    assert g.weights["l/low/c:init"] == Weight("l/low/c:init", (5,), "init", 0.0, 1)
    assert weights_of(g, "l/gate") == ["full(l/low/c)"]
    assert weights_of(g, "h") == ["full(l/top/h)", "full(l/low/c)"]


def test_where_is_the_yaml_path():
    g = graph({"l": {"cell": "mine", "size": 5, "in": "x"}}, cells={"mine": {
        "out": "y", "nodes": {"y": {"cell": "lstm", "in": "x"}}}})
    assert g.nodes["l/y/c"].where == "nodes.l > cells.mine.nodes.y > lstm.yaml:nodes.c"


def test_local_cells_come_first_then_folders_then_shared(tmp_path: Path):
    (tmp_path / "lstm.yaml").write_text("out: y\nnodes: {y: full(x)}\n")
    use = {"h": {"cell": "lstm", "size": 3, "in": "x"}}
    assert list(graph(use).nodes) == [f"h/{n}" for n in "ifzoch"]
    spec = {"inputs": {"x": {"size": 4}}, "nodes": use, "outputs": ["h"]}
    assert list(load_graph(spec, cell_dirs=[tmp_path]).nodes) == ["h/y"]
    local = {"lstm": {"out": "z", "nodes": {"z": "full(x)"}}}
    assert list(load_graph({**spec, "cells": local}, cell_dirs=[tmp_path]).nodes) == ["h/z"]


def test_shared_files_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "l1/fwd/c" in load_graph("blstm").nodes
    with pytest.raises(GraphError, match=r"blsm: no such file\. Shared models: .*Did you mean 'blstm'"):
        load_graph("blsm")
    with pytest.raises(GraphError, match=r"no such file"):
        load_graph("missing/model.yaml")


# Directions and layers


def test_backward_mirrors_the_cell_and_what_is_in_it_but_not_its_input():
    cells = {"deep": {"out": "b", "nodes": {"a": {"cell": "rnn_tanh", "in": "x[t-1]"},
                                            "b": {"cell": "rnn_tanh", "in": "a", "backward": True}}}}
    g = graph({"h": {"cell": "deep", "size": 2, "in": "x[t-3]", "backward": True}}, cells=cells)
    assert weights_of(g, "h/a/h") == ["full(x[t-2])", "full(h/a/h[t+1])", "bias"]  # -3 outside, +1 mirrored
    assert weights_of(g, "h/b/h") == ["full(h/a/h)", "full(h/b/h[t-1])", "bias"]  # mirrored twice


def test_bidirectional_is_two_copies_side_by_side():
    g = graph({"h": {"cell": "rnn_tanh", "size": 2, "in": "x", "bidirectional": True},
               "y": {"size": 1, "is": "full(h) + full(h/bwd)"}})
    assert [(n.name, n.size, str(n.expr)) for n in g.nodes.values()] == [
        ("h/fwd/h", 2, "tanh(full(x) + full(h/fwd/h[t-1]) + bias)"),
        ("h/bwd/h", 2, "tanh(full(x) + full(h/bwd/h[t+1]) + bias)"),
        ("h/y", 4, "concat(h/fwd/h, h/bwd/h)"), ("y", 1, "full(h/y) + full(h/bwd/h)")]


def test_layers():
    g = graph({"l": {"cell": "two", "size": 2, "in": {"a": "x", "b": "x"}, "layers": 3},
               "end": {"size": 1, "is": "full(l) + full(l2) + full(l1/y[t-1])"}}, cells=TWO)
    assert list(g.nodes) == ["l1/y", "l2/y", "l3/y", "end"]
    assert weights_of(g, "l1/y") == ["full(x)", "full(x[t-1])", "full(l1/y[t-1])"]
    # the first input moves up
    assert weights_of(g, "l3/y") == ["full(l2/y)", "full(x[t-1])", "full(l3/y[t-1])"]
    assert weights_of(g, "end") == ["full(l3/y)", "full(l2/y)", "full(l1/y[t-1])"]
    one = graph({"l": {"cell": "rnn_tanh", "size": 2, "in": "x", "layers": 1}})
    assert list(one.nodes) == ["l/h"]


def test_layers_of_both_directions():
    g = graph({"l": {"cell": "rnn_tanh", "size": 2, "in": ["x", "x"], "layers": 2, "bidirectional": True}})
    assert [(n.name, n.size) for n in g.nodes.values()] == [
        ("l1/x", 8), ("l1/fwd/h", 2), ("l1/bwd/h", 2), ("l1/y", 4),
        ("l2/fwd/h", 2), ("l2/bwd/h", 2), ("l2/y", 4)]
    assert weights_of(g, "l2/bwd/h") == ["full(l1/y)", "full(l2/bwd/h[t+1])", "bias"]
    assert g.outputs["l"] == "l2/y"


# Params


def test_params_and_overrides():
    spec = {"params": {"input": {"size": 3}, "n": 2, "size": "{n * (2 + 1)}", "f": 0.5, "text": "tanh"},
            "inputs": {"x": "{input}"},
            "nodes": {"h": {"size": "{size}", "is": "{text}(full(x[t-{n-1}])) * {f}"}}, "outputs": ["h"]}
    g = load_graph(spec)
    assert g.nodes["h"].size == 6 and str(g.nodes["h"].expr) == "tanh(full(x[t-1])) * 0.5"
    g = load_graph(spec, n=5, input={"vocab": 7}, text="relu")
    assert g.nodes["h"].size == 15 and str(g.nodes["h"].expr) == "relu(full(x[t-4])) * 0.5"
    assert g.inputs["x"].vocab == 7 and spec["params"]["n"] == 2
    with pytest.raises(GraphError, match=r"siz: no param 'siz'\. Params: input, n, .*Did you mean 'size'"):
        load_graph(spec, siz=3)


def test_cell_params_see_the_size_and_local_cells_the_graphs():
    cells = {"mine": {"params": {"half": "{size // 2}"}, "out": "y",
                      "nodes": {"y": {"size": "{half}", "is": "{act}(full(x))"}}}}
    nodes = {"a": {"cell": "mine", "size": 6, "in": "x"},
             "b": {"cell": "mine", "size": 6, "in": "x", "half": 1}}
    g = graph({**nodes, "y": {"size": 1, "is": "full(a) + full(b)"}}, cells=cells, params={"act": "relu"})
    assert g.nodes["a/y"].size == 3 and g.nodes["b/y"].size == 1 and g.nodes["a/y"].expr.op == "relu"


def test_loops():
    nodes = {"h0": {"size": 4, "is": "x"}, "h{l}": {"for": "l in 1..n+1", "size": 4, "is": "h{l-1} * {l}"},
             "l{k}": {"for": "k in 2..3", "cell": "rnn_tanh", "size": "{k}", "in": "h{k}"},
             "none{l}": {"for": "l in 2..1", "size": 1, "is": "x"},
             "y": {"size": 1, "is": "full(l2) + full(l3)"}}
    g = graph(nodes, params={"n": 2})
    assert list(g.nodes) == ["h0", "h1", "h2", "h3", "l2/h", "l3/h", "y"]
    assert str(g.nodes["h3"].expr) == "h2 * 3" and g.nodes["l3/h"].size == 3


# Start values


def test_start_values():
    nodes = {"a": {"size": 4, "is": "a[t-1] + x", "init": "1e-3"}, "b": {"size": 4, "is": "x", "init": 2},
             "l": {"cell": "lstm", "size": 3, "in": "x", "init": {"c": 0.5, "h": "learned"}},
             "m": {"cell": "lstm", "size": 3, "in": "x", "layers": 2, "init": {"c": "{start}"}},
             "y": {"size": 1, "is": "full(a) + full(b) + full(l) + full(m)"}}
    g = graph(nodes, init={"l/c": "learned", "b": 3, "m": -1}, params={"start": 7})
    start = {name: node.init for name, node in g.nodes.items() if node.init != 0}
    assert start == {"a": 0.001, "b": 3.0, "l/c": "learned", "l/h": "learned", "m1/c": 7.0, "m2/c": 7.0,
                     "m2/h": -1.0}
    assert [name for name in g.weights if name.endswith(":init")] == ["l/c:init", "l/h:init"]


@pytest.mark.parametrize("value", [True, math.inf, "nan", None, [1], "0x"])
def test_no_start_values(value):
    with pytest.raises(GraphError, match=r"nodes\.h\.init: .* is no start value"):
        graph({"h": {"size": 4, "is": "x", "init": value}})
