"""Random graphs: the network is the oracle, in outputs, states and every gradient; chunked equals whole.

`pytest tests/framework/test_random_graphs.py --graphs 5000` runs more; a failure prints its graph as YAML.
"""

from __future__ import annotations

import itertools

import pytest

from framework import Network, load_graph
from framework.runners import torch_gradients
from tests.compare import assert_same, assert_same_state, copy_weights, run_network, run_oracle
from tests.graphs import batch_kind, looks_ahead, random_batch, random_graph
from tests.oracle import random_weights


def pytest_generate_tests(metafunc):
    metafunc.parametrize("seed", range(metafunc.config.getoption("--graphs")))


def test_random_graph(seed: int, monkeypatch: pytest.MonkeyPatch):
    if seed % 2:  # the backward prepares a few steps at once, not the whole of such short chunks
        monkeypatch.setattr(torch_gradients, "BLOCK_BYTES", 600)
    source = random_graph(seed)
    graph = load_graph(source)
    weights = random_weights(graph, seed)
    batch = random_batch(graph, seed, **batch_kind(seed))
    # Every fifth graph in step-by-step order of planning, and every fourth one with its noise switched on.
    net = Network(graph, parallel="none" if seed % 5 == 4 else "intra").double().train(seed % 4 == 1)
    copy_weights(net, weights)
    shown = {"seed": seed, **source}

    got = run_network(net, [batch], seed)
    want = run_oracle(graph, weights, [batch], seed, net.training, [net.seed])
    assert_same(got, want, shown)
    assert_same_state(got.state, want.state, shown)

    if not looks_ahead(graph) and not net.training:
        steps = next(iter(batch.inputs.values())).shape[0]
        cuts = sorted({0, min(2, steps), min(3, steps), steps})
        chunks = [batch.steps(a, b) for a, b in itertools.pairwise(cuts)]
        got = run_network(net, chunks, seed)
        assert_same(got, want, shown | {"chunks": cuts})
        assert_same_state(got.state, want.state, shown | {"chunks": cuts})
