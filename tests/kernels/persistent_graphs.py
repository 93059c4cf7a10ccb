"""Graphs whose loops `persistent` must run, and networks of them; for its tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.language import core
from triton.runtime.interpreter import InterpretedFunction, TensorHandle

from framework import Network, load_graph
from framework.graph import Graph
from framework.pause import no_garbage_collection
from framework.runners.triton_persistent import PersistentLoop
from kernels import activations
from tests.compare import TOLERANCE, assert_same, assert_same_state, copy_weights, run_network, run_oracle
from tests.graphs import Batch
from tests.oracle import random_weights

CELLS = (
    "clockwork", "gru", "gru_cudnn", "indrnn", "lstm", "lstm_cifg", "lstm_norm", "lstm_peephole",
    "lstm_projection", "mgu", "mingru", "minlstm", "mlstm", "nas", "rhn", "rnn_relu", "rnn_tanh", "scrn",
    "sru", "ugrnn",
)  # fmt: skip


@contextmanager
def prepared() -> Iterator[None]:
    """For comparisons in float64: an exact tanh, poison, and no garbage collection (a fifth of the time)."""
    with float64_tanh(), poisoned(), no_garbage_collection():
        yield


@contextmanager
def float64_tanh() -> Iterator[None]:
    """Kernels compute tanh by numpy: theirs is a polynomial for float32, which in float64 errs by 2e-10, and
    loops amplify that. Then all else can be compared to the rounding of float64.
    """

    def tanh(x: core.tensor) -> core.tensor:
        return core.tensor(TensorHandle(np.tanh(x.handle.data), x.handle.dtype), x.type)

    known, ours = InterpretedFunction.rewritten_fn, activations.tanh.fn
    before = activations.tanh.rewrite()
    known[ours] = tanh
    try:
        yield
    finally:
        known[ours] = before


@contextmanager
def poisoned() -> Iterator[None]:
    """New tensors are full of NaN: what is read before it is written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def of_cell(
    cell: str, size: int, backward: bool = False, features: int = 3, clocks: int = 1
) -> dict[str, Any]:
    """A graph of one shared cell; `clocks`: size of the mask of clockwork."""
    inputs: dict[str, Any] = {"x": {"size": features}}
    node: dict[str, Any] = {"cell": cell, "size": size, "in": "x", "backward": backward}
    if cell == "clockwork":
        inputs["mask"], node["in"] = {"size": clocks}, {"x": "x", "mask": "mask"}
    return {"inputs": inputs, "nodes": {"l": node}, "outputs": ["l"]}


def network(
    source: Mapping[str, Any] | Graph, runner: str = "persistent", together: bool = False, **options: Any
) -> Network:
    """A network in float64, whose loops run one by one. Raises AssertionError when a loop with a state has
    another runner.
    """
    graph = load_graph(source) if isinstance(source, Mapping) else source
    net = Network(graph, runner=runner, together=together, **options)
    net = net.double()
    for loop in net.loops:
        assert isinstance(loop, PersistentLoop) == (runner == "persistent"), loop.c.name
    return net


def check(
    source: Mapping[str, Any],
    chunks: list[Batch],
    seed: int = 0,
    training: bool = False,
    tolerance: float = TOLERANCE,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Outputs, last states and all gradients: those of the oracle, and of the torch runner, to `tolerance`.

    One backward goes through all chunks. training: random masks are drawn, in all from the same seed.
    """
    graph = load_graph(source)
    weights = random_weights(graph, seed) if weights is None else weights
    found = []
    for runner in ("persistent", "torch"):
        net = network(graph, runner).train(training)
        copy_weights(net, weights)
        seeds = watch_seeds(net)
        torch.manual_seed(seed)
        found.append((run_network(net, chunks, seed), list(seeds)))
    (got, seeds), (by_torch, again) = found
    assert seeds == again
    want = run_oracle(graph, weights, chunks, seed, training, mask_seeds=seeds if training else None)
    assert_same(got, want, source, tolerance)
    assert_same_state(got.state, want.state, source, tolerance)
    assert_same(got, by_torch, source, tolerance)


def watch_seeds(net: Network) -> list[int]:
    """Fills, call by call, with the seed that the network drew for its masks."""
    seeds: list[int] = []
    net.register_forward_hook(lambda *_: seeds.append(net.seed))
    return seeds
