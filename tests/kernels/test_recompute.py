"""`memory: recompute` with kernels: what the loop kept is computed again by torch, block by block.

In float64 against the oracle. What is rebuilt must be what the forward kernel would have left, so the
persistent backward kernel reads it unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from framework import Network, load_graph, lstm
from framework.graph import Graph
from framework.runners import rebuild_parts
from framework.runners.rebuild import RebuildLoop
from framework.runners.triton_persistent import PersistentLoop
from kernels.persistent_layout import Layout
from tests.compare import assert_same, assert_same_state, copy_weights, run_network, run_oracle
from tests.graphs import random_batch
from tests.interpreter.concurrent import concurrent
from tests.kernels.persistent_graphs import prepared
from tests.oracle import random_weights

CELLS = ("lstm_peephole", "gru", "lstm_norm", "rhn")
MASKED = {
    "inputs": {"x": {"size": 3}},
    "nodes": {"l": {"size": 5, "is": "zoneout(tanh(dropout(full(l[t-1]), 0.2) + full(x)), l[t-1], 0.1)"}},
    "outputs": ["l"],
}
UNITS = {
    "inputs": {"x": {"size": 3}},
    "nodes": {"l": {"size": 5, "is": "tanh(zoneout(diag(l[t-2]) + full(x) + bias, l[t-1], 0.3))"}},
    "outputs": ["l"],
}


@pytest.fixture(autouse=True)
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of two steps."""
    monkeypatch.setattr(rebuild_parts, "block_steps", lambda steps, lanes, reach: min(steps, max(2, reach)))
    with prepared():
        yield


def network(graph: Graph, runner: str, chunk: int | None = None) -> Network:
    """A network in float64 whose loops all compute again."""
    net = Network(graph, runner=runner, memory="recompute", chunk=chunk).double()
    assert [c.runner for c in net.plan.choices] == [runner] * len(net.loops)
    assert all(isinstance(loop, RebuildLoop) for loop in net.loops)
    return net


def check(graph: Graph, net: Network, seed: int, training: bool = False, **batch: bool) -> None:
    weights = random_weights(graph, seed)
    copy_weights(net.train(training), weights)
    given = random_batch(graph, seed, steps=5, lanes=3, **batch)
    torch.manual_seed(seed)
    got = run_network(net, [given], seed)
    want = run_oracle(graph, weights, [given], seed, training, mask_seeds=[net.seed] if training else None)
    assert_same(got, want)
    assert_same_state(got.state, want.state)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("resets", [False, True])
def test_persistent(cell: str, resets: bool):
    graph = lstm(3, 4, cell=cell).graph
    check(graph, network(graph, "persistent"), 1, resets=resets, lengths=resets)


@pytest.mark.parametrize("runner", ["persistent", "elementwise"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_masks_of_the_whole_call(runner: str, chunk: int | None):
    """Kernels count steps from 0 in each block: masks come from outside and are those of the whole call."""
    graph = load_graph(MASKED if runner == "persistent" else UNITS)
    check(graph, network(graph, runner, chunk), 2, training=True, resets=True)


def test_chunks_keep_masks():
    """`chunk` alone: the runner of a part does not draw, either."""
    graph = load_graph(MASKED)
    net = Network(graph, runner="persistent", chunk=2).double()
    check(graph, net, 3, training=True)


@pytest.mark.parametrize("runner", ["scan", "elementwise"])
def test_linear(runner: str):
    graph = lstm(3, 4, cell="mingru", bidirectional=True).graph
    check(graph, network(graph, runner), 4, lengths=True)


@pytest.mark.parametrize("cell", ["lstm", "lstm_norm"])
def test_many_programs(cell: str):
    """Two programs share the loop: gates are packed, and statistics joined."""
    graph = lstm(3, 6, cell=cell).graph
    net = network(graph, "persistent")
    for loop in net.loops:
        assert isinstance(loop, RebuildLoop) and isinstance(loop.inner, PersistentLoop)
        loop.inner._layout = Layout(programs=2, lanes=16, least=2)
    with concurrent(seed=0, policy="random"):
        check(graph, net, 5, resets=True)
