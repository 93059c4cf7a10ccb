"""The picture of a plan: its text for graphviz is golden; graphviz draws it where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from framework.draw import HOISTED, LOOP, LOOP_PRODUCT, OUTPUT, PRODUCT, dot_text, render
from framework.errors import ConfigError
from framework.graph import Graph
from framework.load import load_graph
from framework.plan import make_plan
from tests.framework.small_graphs import graph
from tests.framework.test_plan_golden import MODELS, SMALL

NAME = r'"((?:[^"\\]|\\.)*)"'
NODE = re.compile(rf'^ +{NAME} \[style="(.*?)".*?fillcolor="(.*?)" color="(.*?)" label=<(.*)>\]$', re.M)
EDGE = re.compile(rf"^  {NAME} -> {NAME}(?: \[(.*)\])?$", re.M)


def drawn(g: Graph, **options: str) -> tuple[dict[str, tuple[str, str]], list[tuple[str, str, str]]]:
    """(node or title of a product -> (fill, border), visible edges with their style)."""
    text = dot_text(make_plan(g, **options))
    title = {m[1]: re.sub(r"<B>(.*?)</B>.*", r"\1", m[5]) for m in NODE.finditer(text)}
    boxes = {name: text for name, text in title.items() if name.startswith("product ")}
    nodes = {boxes.get(m[1], m[1]): (m[3], m[4]) for m in NODE.finditer(text)}
    edges = [(m[1], m[2], m[3] or "") for m in EDGE.finditer(text)]
    return nodes, [(boxes.get(a, a), boxes.get(b, b), style) for a, b, style in edges if "invis" not in style]


@pytest.mark.parametrize("model", ["lstm_variant", "blstm", "feedback", "tdnn_lstm"])
def test_text_is_golden(model, golden):
    golden(f"plans/{model}.dot", dot_text(make_plan(load_graph(model, **SMALL))))


def test_colours_say_what_is_hoisted():
    nodes, _ = drawn(load_graph("stack", cell="sru", layers=1))
    assert nodes["l/f"] == LOOP == nodes["l/c"]
    assert nodes["l/r"] == HOISTED == nodes["l/h"]
    assert nodes["full(x)"] == PRODUCT
    assert nodes["logits"] == (HOISTED[0], OUTPUT)
    nodes, _ = drawn(load_graph("lstm"))
    assert nodes["full(l1/h[t-1])"] == LOOP_PRODUCT
    nodes, _ = drawn(load_graph("lstm"), parallel="none")
    assert nodes["full(x)"] == LOOP_PRODUCT and PRODUCT not in nodes.values()


def test_every_read_is_an_edge():
    g = graph({
        "a": {"size": 4, "is": "tanh(full(x) + full(x[t+2]) + diag(h[t-1]))"},
        "h": {"size": 4, "is": "block(a, 2) + full(a * h[t-3]) + z"},
        "z": {"size": 4, "is": "sigmoid(x)"},
        "dead": {"size": 4, "is": "h"},
        "y": {"size": 2, "is": "full(h[t-2])"},
    }, outputs=["y"])  # fmt: skip
    nodes, edges = drawn(g)
    assert "dead" not in nodes
    ends = {(a, b, re.sub(r".*label=\"(t[+-]\d)\".*", r"\1", style) if "label" in style else "")
            for a, b, style in edges}  # fmt: skip
    assert ends == {
        ("x", "full(x)", ""), ("full(x)", "a", ""), ("x", "full(x[t+2])", "t+2"), ("full(x[t+2])", "a", ""),
        ("h", "a", "t-1"), ("a", "block(a, 2)", ""), ("block(a, 2)", "h", ""), ("a", "full(a * h[t-3])", ""),
        ("h", "full(a * h[t-3])", "t-3"), ("full(a * h[t-3])", "h", ""), ("z", "h", ""), ("x", "z", ""),
        ("h", "full(h[t-2])", "t-2"), ("full(h[t-2])", "y", ""),
    }  # fmt: skip
    dashed = {(a, b) for a, b, style in edges if "style=dashed" in style}
    assert dashed == {(a, b) for a, b, shift in ends if shift}


def test_a_product_inside_a_product():
    _, edges = drawn(graph({"h": {"size": 4, "is": "tanh(full(tanh(full(x))) + full(h[t-1]))"}}))
    assert {("x", "full(x)"), ("full(x)", "full(tanh(full(x)))"), ("full(tanh(full(x)))", "h")} <= {
        (a, b) for a, b, _ in edges
    }


def test_a_node_may_be_called_like_the_legend():
    two = {"legend": {"size": 4, "is": "full(x)"}, "product": {"size": 4, "is": "legend"}}
    nodes, edges = drawn(graph(two))
    assert nodes["legend"] == HOISTED and ("legend", "product", "") in edges


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
@pytest.mark.parametrize("model", MODELS)
def test_graphviz_draws_every_model(model, tmp_path):
    text = dot_text(make_plan(load_graph(model)))
    render(text, tmp_path / "plan.svg", "svg")
    svg = (tmp_path / "plan.svg").read_text(encoding="utf-8")
    boxes = set(re.findall(r"<title>([^<]+)</title>", svg))
    assert {f"cluster loop {k}" for k in range(len(make_plan(load_graph(model)).components))} <= boxes
    assert "logits" in boxes and "x" in boxes
    quiet = subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=True)
    assert not quiet.stderr, quiet.stderr


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_png_is_written(tmp_path):
    render(dot_text(make_plan(load_graph("lstm"))), tmp_path / "plan.png", "png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_of_drawing(tmp_path, monkeypatch):
    text = dot_text(make_plan(load_graph("lstm")))
    fake = tmp_path / "dot"
    fake.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('cannot\\n  draw')\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^--png: dot failed: cannot draw\."):
        render(text, tmp_path / "plan.png", "png")
    fake.write_text(f"#!{sys.executable}\nprint('<svg/>')\n")
    with pytest.raises(ConfigError, match=r"^--svg: cannot write .*nowhere.*: No such file or directory\."):
        render(text, tmp_path / "nowhere" / "plan.svg", "svg")
    render(text, tmp_path / "plan.svg", "svg")
    assert Path(tmp_path / "plan.svg").read_text() == "<svg/>\n"
    fake.unlink()
    with pytest.raises(ConfigError, match=r"^--svg: the program 'dot' .* is not installed\. .*apt-get"):
        render(text, tmp_path / "plan.svg", "svg")
