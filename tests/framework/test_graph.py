"""What a graph means: names, sizes, shifts and weights of the expanded graph."""

from __future__ import annotations

import cProfile
import dataclasses
import gc
import pstats
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from framework.errors import GraphError, GraphWarning
from framework.expr import Expr
from framework.graph import Weight
from framework.load import load_graph
from framework.template import fill
from tests.framework.small_graphs import graph, weights_of

DESIGN = """
inputs:
  x: {size: 80}
nodes:
  l1: {cell: peephole, size: 256, in: x}
  l2: {cell: peephole, size: 256, in: l1}
  logits: {size: 61, is: "full(l2) + bias"}
outputs: [logits]
cells:
  peephole:
    out: h
    nodes:
      i: sigmoid(full(x) + full(h[t-1]) + diag(c[t-1]) + bias)
      f: sigmoid(full(x) + full(h[t-1]) + diag(c[t-1]) + bias(1))
      z: tanh(full(x) + full(h[t-1]) + bias)
      c: f * c[t-1] + i * z
      o: sigmoid(full(x) + full(h[t-1]) + diag(c) + bias)
      h: o * tanh(c)
"""


def formula(text: str, **more: Any) -> str:
    """The node h of size 4 beside a node g of size 4, as text."""
    return str(graph({"g": {"size": 4, "is": "x"}, "h": {"size": 4, "is": text}}, **more).nodes["h"].expr)


# Names, sizes, weights


def test_the_example_of_the_language(golden):
    golden("graphs/design.txt", f"{load_graph(DESIGN)}\n")


def test_weights_of_the_example():
    w = load_graph(DESIGN).weights
    assert w["l1/i:full(x)"] == Weight("l1/i:full(x)", (256, 80), "full", 0.0, 80)
    assert w["l1/i:full(l1/h[t-1])"].shape == (256, 256)
    assert w["l2/i:full(l1/h)"].fan_in == 256
    assert w["l1/f:bias"] == Weight("l1/f:bias", (256,), "bias", 1.0, 1)
    assert w["l1/o:diag(l1/c)"] == Weight("l1/o:diag(l1/c)", (256,), "diag", 0.0, 1)
    assert w["logits:full(l2/h)"].shape == (61, 256)


def test_dict_file_and_text_are_the_same(tmp_path: Path):
    (tmp_path / "model.yaml").write_text(DESIGN)
    texts = [str(load_graph(source)) for source in
             (DESIGN, yaml.safe_load(DESIGN), tmp_path / "model.yaml", str(tmp_path / "model.yaml"))]
    assert len(set(texts)) == 1


def test_a_graph_is_frozen():
    g = load_graph(DESIGN)
    for thing in (g, g.nodes["l1/i"], g.nodes["l1/i"].expr, g.weights["l1/i:bias"], g.inputs["x"]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, dataclasses.fields(thing)[0].name, "other")


def test_nodes_stand_in_file_order_and_may_be_read_before():
    g = graph({"a": {"size": 4, "is": "b[t-1]"}, "b": {"size": 4, "is": "a + x"}})
    assert list(g.nodes) == ["a", "b"] and str(g.nodes["a"].expr) == "b[t-1]"


def test_outputs_keep_the_name_written():
    g = load_graph({**yaml.safe_load(DESIGN), "outputs": ["l1", "logits", "l2/c"]})
    assert dict(g.outputs) == {"l1": "l1/h", "logits": "logits", "l2/c": "l2/c"}


def test_same_terms_are_numbered():
    g = graph({"h": {"size": 4, "is": "full(x) + full(x) * norm(x) + bias + bias(2) + norm(x) + full(x)"}})
    assert weights_of(g, "h") == ["full(x)", "full(x)#2", "norm(x).gain", "norm(x).bias", "bias", "bias#2",
                                  "norm(x)#2.gain", "norm(x)#2.bias", "full(x)#3"]
    assert g.weights["h:bias#2"].value == 2.0 and g.weights["h:norm(x)#2.gain"].value == 1.0


def test_names_of_terms_over_expressions():
    g = graph({"l1": {"cell": "gru", "size": 4, "in": "x"},
               "y": {"size": 4, "is": "full(l1/r  *  l1[t - 1]) + block(l1/h[t-2], 2) + norm(-l1 + 1.50)"}})
    assert weights_of(g, "l1/n") == ["full(x)", "full(l1/r * l1/h[t-1])", "bias"]
    assert weights_of(g, "y") == ["full(l1/r * l1/h[t-1])", "block(l1/h[t-2], 2)", "norm(-l1/h + 1.5).gain",
                                  "norm(-l1/h + 1.5).bias"]


def test_random_terms_are_named():
    g = graph({"h": {"size": 4, "is": "dropout(x, 0.5) + zoneout(dropout(x, 0.5), h[t-1], 0.1)"}})
    add = g.nodes["h"].expr
    assert add.args[0].name == "h:dropout(x, 0.5)" and add.args[0].value == 0.5
    assert add.args[1].name == "h:zoneout(dropout(x, 0.5), h[t-1], 0.1)" and add.args[1].value == 0.1
    assert add.args[1].args[0].name == "h:dropout(x, 0.5)#2"


def test_block_diag_and_gather_shapes():
    g = graph({"h": {"size": 6, "is": "block(x, 2) + diag(h[t-1]) + full(c) + full(c[t-1])"}},
              inputs={"x": {"size": 4}, "c": {"vocab": 9}})
    shapes = {name: (w.shape, w.kind, w.fan_in) for name, w in g.weights.items()}
    assert shapes == {"h:block(x, 2)": ((2, 3, 2), "block", 2), "h:diag(h[t-1])": ((6,), "diag", 1),
                      "h:full(c)": ((6, 9), "full", 1), "h:full(c[t-1])": ((6, 9), "full", 1)}
    assert g.inputs["c"].vocab == 9 and g.inputs["c"].size == 0


# Expressions


@pytest.mark.parametrize(("text", "want"), [
    ("x - (g - x)", "x - (g - x)"), ("(x - g) - x", "x - g - x"), ("x / (g / x)", "x / (g / x)"),
    ("(x + g) * x", "(x + g) * x"), ("-x * -2", "(-x) * (-2)"), ("-(x + g)", "-(x + g)"), ("-3", "-3"),
    ("g[t-0]", "g"), ("g[t]", "g"), ("g[t+2]", "g[t+2]"), ("g[t--1]", "g[t+1]"),
    ("concat(g[:1], x[t-1][1:3], x[3:])", "concat(g[0:1], x[t-1][1:3], x[3:4])"),
    ("maximum(x, 0) + minimum(1, g)", "maximum(x, 0) + minimum(1, g)"),
    ("softmax(stop(x))", "softmax(stop(x))"),
    ("1e-3 * x", "0.001 * x"), ("0.123456789", "0.123456789"), ("bias(-1)", "bias(-1)"),
    ("full(concat(x, g))", "full(concat(x, g))"), ("x + # a comment\ng\n", "x + g"), ("3", "3"), (0.5, "0.5"),
])
def test_formula(text, want):
    assert formula(text) == want


def test_sizes_of_terms():
    g = graph({"one": {"size": 1, "is": "full(x)"}, "h": {"size": 6, "is": "concat(x, x[1:3]) * one"}})
    product = g.nodes["h"].expr
    assert product.size == 6 and product.args[0].size == 6 and product.args[1].size == 1
    half = graph({"half": {"size": 6, "is": "0.5"}, "h": {"size": 4, "is": "x"}}).nodes["half"]
    assert half.expr == Expr("num", value=0.5) and half.expr.size == 1 and half.size == 6


def test_paths_and_divisions():
    nodes = {"l1": {"cell": "lstm", "size": 4, "in": "x"}, "g": {"size": 4, "is": "x"}}
    for text, want in [("g * l1/c[t-1]", "g * l1/c[t-1]"), ("g/l1/c", "g / l1/c"), ("l1/g", "l1/h / g"),
                       ("l1 / 2", "l1/h / 2"), ("l1/tanh(g)", "l1/h / tanh(g)"), ("g/x", "g / x"),
                       ("l1/c[0:2][0:1]", "l1/c[0:2][0:1]")]:
        assert str(graph({**nodes, "h": {"size": 4, "is": text}}).nodes["h"].expr) == want


def test_a_long_sum_and_a_longer_one():
    assert formula(" + ".join(["x"] * 100)).count("x") == 100
    with pytest.raises(GraphError, match=r"[Ss]plit it into nodes"):
        formula(" + ".join(["x"] * 5000))


# The rest


def test_an_input_that_nobody_reads_is_a_warning():
    with pytest.warns(GraphWarning, match=r"inputs\.y: nobody reads it") as caught:
        g = graph({"h": {"size": 4, "is": "x"}, "l": {"cell": "ignores", "size": 1, "in": "y"}},
                  inputs={"x": {"size": 4}, "y": {"size": 2}},
                  cells={"ignores": {"out": "a", "nodes": {"a": "1"}}})
    assert len(caught) == 1 and Path(caught[0].filename).name == "small_graphs.py"  # who called
    assert g.warnings == ("inputs.y: nobody reads it. Use it in a node, or remove it.",)


def test_yaml_keys_that_look_like_values():
    nodes = "y: {size: 4, is: x}\n  n: {size: 4, is: y}"
    g = load_graph(f"inputs: {{x: {{size: 4}}}}\nnodes:\n  {nodes}\noutputs: n\n")
    assert list(g.nodes) == ["y", "n"]


def test_ten_thousand_nodes_in_a_row_need_no_deep_stack():
    nodes: dict[str, Any] = {"h0": {"cell": "rnn_tanh", "size": 2, "in": "x", "bidirectional": True}}
    nodes |= {f"h{i}": {"cell": "rnn_tanh", "size": 2, "in": [f"h{i - 1}", "x"], "bidirectional": True}
              for i in range(1, 2500)}
    g = graph(dict(reversed(nodes.items())), outputs=["h2499"])
    assert len(g.nodes) == 4 * 2500 - 1 and g.nodes["h2499/x"].size == 8


@pytest.mark.parametrize("node", [
    {"size": 4, "is": "tanh(full({before}) + l{i}[t-1] * {i})"}, {"cell": "gru", "size": 4, "in": "{before}"},
    {"cell": "rnn_tanh", "size": 2, "in": ["{before}", "x"], "bidirectional": True}])
def test_the_work_grows_with_the_number_of_nodes_only(node):
    def calls(count: int) -> int:
        nodes = {f"l{i}": fill(node, {"before": f"l{i - 1}" if i else "x", "i": i}, "") for i in range(count)}
        profile = cProfile.Profile()
        profile.runcall(graph, nodes)
        return pstats.Stats(profile).total_calls

    calls(10)  # what is done once only, such as reading the cell's file into the caches
    gc.disable()  # what other tests left behind may call functions when it goes
    try:
        assert calls(400) < 4.2 * calls(100)
    finally:
        gc.enable()


def test_loading_needs_no_torch():
    code = "import sys, framework.load, framework.plan; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0
