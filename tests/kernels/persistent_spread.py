"""Persistent loops over many programs: layouts, schedules and comparisons for their tests."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from framework import Network, load_graph
from framework.graph import Graph
from framework.runners.triton_persistent import PersistentLoop
from kernels.persistent_layout import Layout
from tests.compare import TOLERANCE, assert_same, assert_same_state, copy_weights, run_network, run_oracle
from tests.graphs import Batch
from tests.interpreter import concurrent
from tests.interpreter.concurrent import Run
from tests.kernels.persistent_graphs import network, watch_seeds
from tests.oracle import random_weights

EVERYTHING = 1 << 30


def drawn_layout(seed: int, small: bool = False) -> Layout:
    """2 to 6 programs; tiles of few lanes, of which some share a group of programs; all weights on the chip,
    some, or none; few sources under way. small: few programs and tiles, which the interpreter is done with
    soon.
    """
    pick = random.Random(f"layout {seed}")
    return Layout(
        programs=pick.choice([2, 2, 3, 4] if small else [2, 3, 4, 5, 6]),
        lanes=pick.choice([2, 4, 4, 16] if small else [2, 2, 4, 16]),
        least=pick.choice([1, 2, 2, 4, 8]),
        chunk=pick.choice([16, 16, 32, 64]),
        splits=pick.choice([1, 2, 4]),
        resident=pick.choice([0, 400, 1500, EVERYTHING]),
        groups=pick.choice([1, 1, 2, 3, EVERYTHING]),
        loaded=pick.choice([0, 1, 128]),
    )


def spread(net: Network, layouts: Sequence[Layout]) -> Network:
    """The network with its loops over many programs, one layout after the other."""
    for i, loop in enumerate(net.loops):
        assert isinstance(loop, PersistentLoop)
        loop._layout = layouts[i % len(layouts)]
    return net


@contextmanager
def scheduled(seed: int) -> Iterator[Run]:
    """All programs at once: even seeds let them take turns by chance, odd ones let some be far behind."""
    policy = "priority" if seed % 2 else "random"
    with concurrent(seed=seed, policy=policy, max_steps=2_000_000) as run:
        yield run
    assert all(grid[0] > 1 for grid in run.grids), run.grids
    assert run.switches > run.launches or not run.launches, "programs ran one after the other"


def check(
    source: Mapping[str, Any] | Graph,
    chunks: list[Batch],
    layouts: Sequence[Layout],
    seed: int = 0,
    training: bool = False,
    tolerance: float = TOLERANCE,
) -> Run:
    """Outputs, last states and all gradients over many programs: those of the oracle, to `tolerance`. Raises
    RaceError, DeadlockError or AssertionError.

    One backward goes through all chunks. training: random masks are drawn, from the same seeds.
    """
    print(f"seed {seed}, {layouts}")
    graph = source if isinstance(source, Graph) else load_graph(source)
    weights = random_weights(graph, seed)
    net = spread(network(graph).train(training), layouts)
    copy_weights(net, weights)
    seeds = watch_seeds(net)
    torch.manual_seed(seed)
    with scheduled(seed) as run:
        got = run_network(net, chunks, seed)
    assert run.launches == 2 * len(net.loops) * len(chunks)
    want = run_oracle(graph, weights, chunks, seed, training, mask_seeds=seeds if training else None)
    shown = source if isinstance(source, Mapping) else None
    assert_same(got, want, shown, tolerance)
    assert_same_state(got.state, want.state, shown, tolerance)
    return run
