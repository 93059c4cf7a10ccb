"""Each shared cell and each model by name: the network equals the oracle, with lengths, resets and chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from framework import Network, load_graph
from tests.compare import assert_same, assert_same_state, copy_weights, run_network, run_oracle
from tests.graphs import Batch, looks_ahead, random_batch
from tests.oracle import random_weights

CONF = Path(__file__).parents[2] / "conf"
CELLS = sorted(path.stem for path in (CONF / "cell").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
# What the project promises by name; the folder may hold more.
PROMISED = """lstm lstm_peephole lstm_cifg lstm_norm lstm_projection gru gru_cudnn rnn_tanh rnn_relu mgu ugrnn
    mlstm indrnn sru mingru minlstm rhn nas scrn clockwork""".split()


def compare(graph: Any, source: Any, seed: int = 0) -> None:
    """Whole with lengths and resets, and two chunks if nothing looks ahead, against the oracle."""
    weights = random_weights(graph, seed)
    net = Network(graph).double().eval()
    copy_weights(net, weights)
    batch = random_batch(graph, seed, lengths=True, resets=True, steps=6, lanes=3)
    got, want = run_network(net, [batch]), run_oracle(graph, weights, [batch])
    assert_same(got, want, source)
    assert_same_state(got.state, want.state, source)
    if not looks_ahead(graph):
        got = run_network(net, [batch.steps(0, 2), batch.steps(2, 6)])
        assert_same(got, want, source)
        assert_same_state(got.state, want.state, source)
    plain = Batch(batch.inputs)
    assert_same(run_network(net, [plain]), run_oracle(graph, weights, [plain]), source)


def cell_graph(name: str, **more: Any) -> dict[str, Any]:
    """One node of a shared cell of size 4, with an input of its own for each of the cell's `inputs`."""
    declared = yaml.safe_load((CONF / "cell" / f"{name}.yaml").read_text())
    inputs = declared.get("inputs", ["x"])
    return {
        "inputs": {n: {"size": 4} for n in inputs},
        "nodes": {
            "l": {"cell": name, "size": 4, "in": {n: n for n in inputs} if inputs != ["x"] else "x", **more},
            "y": {"size": 3, "is": "full(l) + bias"},
        },
        "outputs": ["y"],
    }


def test_every_promised_cell_is_there():
    assert set(PROMISED) <= set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_cell(name: str):
    source = cell_graph(name)
    compare(load_graph(source), source)


@pytest.mark.parametrize("name", CELLS)
def test_cell_in_two_bidirectional_layers(name: str):
    inputs = yaml.safe_load((CONF / "cell" / f"{name}.yaml").read_text()).get("inputs", ["x"])
    more = {"bidirectional": True} | ({"layers": 2} if inputs == ["x"] else {})
    source = cell_graph(name, **more)
    compare(load_graph(source), source)


@pytest.mark.parametrize("kind", ["vectors", "indices"])
@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, kind: str):
    given = {"size": 5} if kind == "vectors" else {"vocab": 6}
    graph = load_graph(CONF / "model" / f"{name}.yaml", input=given, classes=4, size=6)
    compare(graph, name)
