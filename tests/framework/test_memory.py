"""`memory: recompute` and `chunk: N` give what `save` gives: random graphs and cells against the oracle."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph, lstm, make_plan
from framework.errors import ConfigError
from framework.load import load_graph as load
from framework.runners import rebuild_parts
from framework.runners.rebuild import RebuildLoop
from framework.steps import block_steps
from tests import oracle
from tests.compare import assert_same, run_network, run_oracle
from tests.graphs import batch_kind, looks_ahead, random_batch, random_graph

CELLS = ("lstm", "gru", "gru_cudnn", "lstm_norm", "lstm_projection", "rhn", "rnn_tanh", "indrnn")
MODES = [("recompute", None), ("save", 3), ("recompute", 4)]

NOISY = {
    "inputs": {"x": {"size": 3}},
    "nodes": {
        "h": {
            "size": 4,
            "is": "zoneout(tanh(full(dropout(x, 0.4)) + full(dropout(h[t-1], 0.3))), h[t-1], 0.3)",
        },
        "d": {"size": 4, "is": "dropout(h, 0.5) + dropout(h, 0.5)"},
    },
    "outputs": ["d", "h"],
}


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch):
    """Blocks of two steps, or as long as the longest delay: chunks of tests are short."""
    monkeypatch.setattr(rebuild_parts, "block_steps", lambda steps, lanes, reach: min(steps, max(2, reach)))


def network(graph, seed: int, memory: str, chunk: int | None) -> tuple[Network, dict[str, Tensor]]:
    """A network in float64 and its weights, by name."""
    weights = oracle.random_weights(graph, seed)
    net = Network(graph, memory=memory, chunk=chunk).double()
    net.load_state_dict({name: weights[name].detach() for name in net.weights()})
    return net, weights


@pytest.mark.parametrize("seed", range(0, 72, 2))
def test_random_graphs(seed: int):
    """Delays, directions, several loops, lengths, resets: outputs, states, gradients are the oracle's."""
    source = random_graph(seed)
    graph = load_graph(source)
    batch = random_batch(graph, seed, **batch_kind(seed))
    want = None
    for memory, chunk in MODES:
        if chunk and looks_ahead(graph):
            continue
        net, weights = network(graph, seed, memory, chunk)
        want = want or run_oracle(graph, weights, [batch], seed)
        assert_same(run_network(net.eval(), [batch], seed), want, source)


@pytest.mark.parametrize("seed", range(100, 112))
def test_carried_state(seed: int):
    """Two calls with the state between them, gradients through both."""
    graph = load_graph(random_graph(seed))
    if looks_ahead(graph):
        graph = load_graph(NOISY)
    batch = random_batch(graph, seed, resets=True, steps=9, lanes=3)
    halves = [batch.steps(0, 4), batch.steps(4, 9)]
    for memory, chunk in MODES:
        net, weights = network(graph, seed, memory, chunk)
        assert_same(run_network(net.eval(), halves, seed), run_oracle(graph, weights, halves, seed))


@pytest.mark.parametrize("memory, chunk", MODES)
@pytest.mark.parametrize("lengths", [False, True])
def test_random_masks(memory: str, chunk: int | None, lengths: bool):
    """Blocks and chunks draw the masks of the whole call; the backward draws them again."""
    graph = load_graph(NOISY)
    batch = random_batch(graph, 3, lengths=lengths, resets=True, steps=9, lanes=3)
    net, weights = network(graph, 3, memory, chunk)
    torch.manual_seed(5)
    got = run_network(net.train(), [batch], 3)
    want = run_oracle(graph, weights, [batch], 3, training=True, mask_seeds=[_seed(5)])
    assert_same(got, want)


def _seed(torch_seed: int) -> int:
    torch.manual_seed(torch_seed)
    return int(torch.randint(2**31 - 1, ()))


@pytest.mark.parametrize("cell", CELLS)
def test_cells(cell: str):
    """Shared cells, both directions, with lengths."""
    graph = lstm(5, 6, layers=1, bidirectional=True, cell=cell).graph
    batch = random_batch(graph, 1, lengths=True, resets=True, steps=7, lanes=3)
    net, weights = network(graph, 1, "recompute", None)
    assert all(isinstance(loop, RebuildLoop) for loop in net.loops)
    assert_same(run_network(net, [batch], 1), run_oracle(graph, weights, [batch], 1))


def test_save_and_recompute_are_equal_in_float32():
    """Only the rows of products differ; errors are of rounding."""
    graph = lstm(5, 6, layers=2).graph
    x = torch.randn(11, 3, 5, generator=torch.Generator().manual_seed(0))
    results = []
    for memory, chunk in [("save", None), *MODES]:
        torch.manual_seed(0)
        net = Network(graph, memory=memory, chunk=chunk)
        y, state = net(x)
        y.square().sum().backward()
        results.append({"y": y, **{k: v for k, v in net.grads().items() if v is not None}})
        assert set(state.keys()) == {n for n in net.plan.history}
    for other in results[1:]:
        for name, x in results[0].items():
            assert (other[name] - x).abs().max() <= 64 * 2**-24 * x.abs().max(), name


def test_blocks_leave_no_steps_out():
    """As many blocks as promised for long chunks; few rows make them longer, and a delay does."""
    assert block_steps(8000, 16, 1) == 1000
    assert block_steps(100, 16, 1) == 32
    assert block_steps(4000, 512, 700) == 700
    assert block_steps(5, 1, 1) == 5


def test_copies_and_pickles():
    graph = lstm(3, 4).graph
    net = Network(graph, memory="recompute", chunk=5)
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    y = net(x)[0]
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x)[0], y)
        assert twin.plan.memory == "recompute" and twin.plan.chunk == 5


def test_without_gradients():
    net = Network(lstm(3, 4).graph, memory="recompute", chunk=5)
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    y = net(x)[0]
    with torch.no_grad():
        again = net(x)[0]
    assert torch.equal(again, y) and not again.requires_grad


def test_second_derivatives_are_refused():
    net = Network(lstm(3, 4).graph, memory="recompute")
    x = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(net(x)[0].sum(), x, create_graph=True)


def test_plans_tell():
    graph = lstm(3, 4).graph
    text = str(make_plan(graph, memory="recompute", chunk=64))
    assert "memory = recompute" in text and "chunk = 64" in text
    assert "memory =" not in str(make_plan(graph))


@pytest.mark.parametrize(
    "options, place",
    [
        ({"memory": "forget"}, "memory"),
        ({"memory": "recompute", "parallel": "none"}, "memory"),
        ({"chunk": 0}, "chunk"),
        ({"chunk": True}, "chunk"),
        ({"chunk": 2.0}, "chunk"),
    ],
)
def test_errors(options: dict, place: str):
    with pytest.raises(ConfigError, match=f"^{place}"):
        Network(lstm(3, 4).graph, **options)


def test_chunks_of_what_looks_ahead_are_refused():
    graph = load(
        {"inputs": {"x": {"size": 2}}, "nodes": {"y": {"size": 2, "is": "full(x[t+1])"}}, "outputs": ["y"]}
    )
    with pytest.raises(ConfigError, match=r"^chunk: a node reads later steps"):
        Network(graph, chunk=4)
