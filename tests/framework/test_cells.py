"""Shared cells and models: every one loads, in every setting, and expands to what its golden file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.errors import GraphError
from framework.load import load_graph
from framework.plan import make_plan

CONF = Path(__file__).parents[2] / "conf"
CELLS = sorted(path.stem for path in (CONF / "cell").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
PROMISED = """lstm lstm_peephole lstm_cifg lstm_norm lstm_projection gru gru_cudnn rnn_tanh rnn_relu mgu ugrnn
mlstm indrnn sru mingru minlstm rhn nas scrn clockwork""".split()


def one(cell: str, size: int = 6, **more: object) -> dict[str, object]:
    """A graph of one cell node `l` that reads an input of 4 features, and a mask where it needs one."""
    masked = cell == "clockwork"
    inputs = {"x": {"size": 4}} | ({"mask": {"size": 1}} if masked else {})
    source = {"x": "x", "mask": "mask"} if masked else "x"
    node = {"cell": cell, "size": size, "in": source, **more}
    return {"inputs": inputs, "nodes": {"l": node}, "outputs": ["l"]}


def test_every_cell_of_the_list_is_there():
    assert sorted(PROMISED) == CELLS
    assert {*"lstm lstm_variant blstm gru stack dilated feedback tdnn_lstm".split()} <= set(MODELS)


@pytest.mark.parametrize("cell", CELLS)
def test_cell_is_golden(cell, golden):
    golden(f"cells/{cell}.txt", f"{load_graph(one(cell))}\n")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("size", [2, 7])
def test_cell_plans_at_odd_sizes_layers_and_directions(cell, size):
    for more in ({}, {"backward": True}, {"layers": 2, "bidirectional": True}):
        graph = load_graph(one(cell, size, **more))
        assert make_plan(graph).components
        for name, weight in graph.weights.items():
            assert all(extent > 0 for extent in weight.shape), name


@pytest.mark.parametrize("cell", CELLS)
def test_a_cells_file_names_its_source(cell):
    text = (CONF / "cell" / f"{cell}.yaml").read_text()
    comment = text[:text.index("\n", text.rindex("# "))]
    assert any(str(year) in comment for year in range(1990, 2026)), "the paper's year"


def test_every_cell_has_one_size_of_out_except_the_projection():
    for cell in CELLS:
        graph = load_graph(one(cell, 8))
        assert graph.nodes[graph.outputs["l"]].size == (4 if cell == "lstm_projection" else 8), cell


def test_depth_of_rhn():
    assert len(load_graph(one("rhn", depth=1)).nodes) == 3
    deep = load_graph(one("rhn", depth=5))
    assert len(deep.nodes) == 15 and deep.outputs["l"] == "l/s5"
    assert "l/n1:full(l/s5[t-1])" in deep.weights and "l/g5:full(l/s4)" in deep.weights
    assert "l/n2:full(x)" not in deep.weights, "x enters the first layer only"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("features", [{"size": 5}, {"vocab": 11}])
def test_model_takes_any_input_and_number_of_classes(model, features):
    graph = load_graph(CONF / "model" / f"{model}.yaml", input=features, classes=7)
    assert list(graph.outputs) == ["logits"] and graph.nodes["logits"].size == 7
    assert graph.inputs["x"].vocab == features.get("vocab") and not graph.warnings


@pytest.mark.parametrize("model", MODELS)
def test_model_is_golden(model, golden):
    small = {"size": 8, "input": {"size": 5}, "classes": 3}
    golden(f"models/{model}.txt", f"{load_graph(model, **small)}\n")


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "clockwork"])
def test_stack_takes_every_cell(cell):
    setting = {"layers": 3, "size": 6, "bidirectional": True, "input": {"vocab": 5}, "classes": 2}
    graph = load_graph("stack", cell=cell, **setting)
    assert "l3/y" in graph.nodes and graph.nodes["logits"].size == 2


def test_stack_of_a_cell_with_a_mask_says_what_it_needs():
    with pytest.raises(GraphError, match=r"nodes\.l\.in: cell 'clockwork' has 2 inputs: x, mask"):
        load_graph("stack", cell="clockwork")


def test_lstm_variant_is_the_example_of_the_readme():
    graph = load_graph("lstm_variant")
    assert graph.weights["l1/o:diag(l1/c)"].kind == "diag" and graph.weights["l1/f:bias"].value == 1.0


def test_feedback_is_one_loop_and_dilated_three():
    assert len(make_plan(load_graph("feedback")).components) == 1
    delays = {n.name: {e.shift for e in walk(n.expr) if e.op == "ref" and e.shift} for n in
              load_graph("dilated").nodes.values()}
    assert (delays["l1/c"], delays["l2/c"], delays["l3/c"]) == ({-1}, {-2}, {-4})


def test_tdnn_lstm_looks_ahead_by_three_frames():
    graph = load_graph("tdnn_lstm")
    ahead = {node.name: max((e.shift for e in walk(node.expr) if e.op == "ref"), default=0)
             for node in graph.nodes.values()}
    assert ahead["d1"] == 2 and ahead["d2"] == 1 and max(ahead.values()) == 2


def walk(expr):
    yield expr
    for arg in expr.args:
        yield from walk(arg)
