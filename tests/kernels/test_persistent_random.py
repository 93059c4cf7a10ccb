"""Random graphs whose loops the `persistent` runner has, against the oracle, in float64."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch

from framework import load_graph
from tests.compare import TOLERANCE, assert_same, assert_same_state, copy_weights, run_network, run_oracle
from tests.graphs import batch_kind, looks_ahead, random_batch, random_graph
from tests.kernels.persistent_graphs import network, prepared, watch_seeds
from tests.oracle import random_weights

# Derivatives of these are 0 or 1, which kernels make as float32; a number times that is a float32, too. It is
# rounded by up to 2**-24; what a loop makes of it may be larger by a factor of 16.
PIECEWISE = re.compile(r"minimum|maximum|relu|hard_|abs|elu|sign\(")
ROUNDED = 16 * 2**-24


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with prepared():
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Half as many as `--graphs`: the interpreter is slow."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--graphs") // 2))


def test_random_graph(seed: int):
    """Outputs, states and gradients; every second network trains, with random masks; some run in two chunks,
    one shorter than their delays.
    """
    source = random_graph(seed)
    graph = load_graph(source)
    net, training = network(graph), bool(seed % 2)
    weights = random_weights(graph, seed)
    copy_weights(net.train(training), weights)
    steps, lanes = (1, 2, 3, 4)[seed % 4], (1, 3, 2, 4)[seed // 4 % 4]
    batch = random_batch(graph, seed, **batch_kind(seed), steps=steps, lanes=lanes)
    whole = steps < 4 or looks_ahead(graph)
    chunks = [batch] if whole else [batch.steps(0, 1), batch.steps(1, steps)]
    seeds = watch_seeds(net)
    torch.manual_seed(seed)
    got = run_network(net, chunks, seed)
    want = run_oracle(graph, weights, chunks, seed, training, mask_seeds=seeds if training else None)
    tolerance = ROUNDED if PIECEWISE.search(str(source)) else TOLERANCE
    assert_same(got, want, source, tolerance)
    assert_same_state(got.state, want.state, source, tolerance)
