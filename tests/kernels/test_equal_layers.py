"""Equal layers of a stack are one module: what is compiled for the first one runs all of them."""

from __future__ import annotations

from typing import Any

import pytest

from framework import Network, load_graph
from framework.persistent import source_of
from framework.plan import make_plan
from framework.runners.elementwise_code import source_of as elementwise_source
from kernels.codegen import label_of, without_path
from kernels.persistent_layout import Layout
from tests.gpu.cases import data_of
from tests.kernels.persistent_graphs import of_cell

STEP = "zoneout(tanh(dropout(full(h[t-1]), 0.2) + full(x) + diag(h[t-1])), h[t-1], 0.1)"
NOISY = {"inputs": ["x"], "out": "h", "nodes": {"h": {"is": STEP}}}


def stack(cell: str, **more: Any) -> dict[str, Any]:
    """Two layers of four units on four inputs."""
    source = of_cell(cell, 4, features=4)
    node = source["nodes"].pop("l")
    source["nodes"] = {"layer1": node, "layer2": {**node, "in": "layer1"}}
    return {**source, **more, "outputs": ["layer2"]}


@pytest.mark.parametrize("programs", [1, 3])
@pytest.mark.parametrize("cell", ["lstm_peephole", "lstm_norm", "rhn", "noisy"])
def test_source(cell, programs):
    first, second = make_plan(load_graph(stack(cell, cells={"noisy": NOISY}))).components
    layout, texts = Layout(programs, least=2), []
    for c in (first, second):
        texts.append(source_of(c, layout, True))
    assert (
        texts[0] == texts[1] and "layer" not in texts[0] and label_of(first.roots) == label_of(second.roots)
    )


def test_elementwise_source():
    first, second = make_plan(load_graph(stack("sru"))).components
    assert elementwise_source(first, True) == elementwise_source(second, True)


@pytest.mark.parametrize(
    ("runner", "cell"), [("persistent", "noisy"), ("elementwise", "sru"), ("scan", "mingru")]
)
def test_module(runner, cell):
    """The same object, so that Triton keeps one set of kernels; masks of the layers differ all the same."""
    graph = load_graph(stack(cell, cells={"noisy": NOISY}))
    net = Network(graph, runner=runner).train()
    y, _ = net(data_of(graph, 3, 2, False, seed=1).inputs["x"].float())
    y.sum().backward()
    first, second = net.loops
    assert first._code and first._code.keys() == second._code.keys()
    for key, (code, module) in first._code.items():
        assert module is second._code[key][1], module.__name__
        if cell == "noisy":
            assert code.keys and code.keys != second._code[key][0].keys


def test_only_remarks_lose_the_folder():
    text = 'x = "a/b/"  # a/b/h:full(a/b/h[t-1])\ny = a/b/h'
    assert without_path(text, ["a/b/h", "a/b/c"]) == 'x = "a/b/"  # h:full(h[t-1])\ny = a/b/h'
    assert without_path(text, ["a/bc", "a/b/c"]) == 'x = "a/b/"  # b/h:full(b/h[t-1])\ny = a/b/h'
    assert without_path(text, ["h", "a/b/c"]) == text
    assert label_of(["a/b/h", "a/b/c"]) == "h c"
