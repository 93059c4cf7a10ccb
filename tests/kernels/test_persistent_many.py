"""Persistent loops over many programs, all at once under seeded schedules: equal to the oracle in float64,
without a race or a deadlock. That mistakes would be seen: test_persistent_many_mutants.py.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from framework import load_graph
from framework.graph import Graph
from kernels.persistent_layout import Layout
from tests.compare import TOLERANCE
from tests.graphs import Batch, batch_kind, looks_ahead, random_batch, random_graph
from tests.kernels.persistent_graphs import CELLS, of_cell, prepared
from tests.kernels.persistent_spread import EVERYTHING, check, drawn_layout
from tests.kernels.test_persistent import GRAPHS, NOISY
from tests.kernels.test_persistent_random import PIECEWISE, ROUNDED

STATISTICS = ("lstm_norm",)  # every second step has the same place for parts of them
MODELS = ("feedback", "blstm", "stack", "dilated", "tdnn_lstm")
RANDOM, FAST_RANDOM = 90, 4


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with prepared():
        yield


def first_fast(seeds: range, fast: int) -> list[Any]:
    """All seeds, of which the first `fast` belong to the usual run."""
    return [s if i < fast else pytest.param(s, marks=pytest.mark.slow) for i, s in enumerate(seeds)]


def chunks_of(graph: Graph, kind: int, steps: int, lanes: int, *ends: int) -> list[Batch]:
    """A random batch (kind 1: lengths, 2: resets, 3: both) in chunks that end at `ends` and the last step; in
    one where anything looks ahead.
    """
    batch = random_batch(graph, kind, bool(kind & 1), bool(kind & 2), steps, lanes)
    edges = [0, steps] if looks_ahead(graph) else [0, *ends, steps]
    return [batch.steps(a, b) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("turn", first_fast(range(8), 1))
@pytest.mark.parametrize("cell", CELLS)
def test_cell(cell: str, turn: int):
    """Every second in chunks and forward, the others against time; with lengths, resets, both, neither."""
    seed = CELLS.index(cell) + 21 * turn
    source = of_cell(cell, 5, backward=seed % 2 == 1)
    steps = 3 if turn or cell in STATISTICS else 2
    chunks = chunks_of(load_graph(source), seed // 2 % 4, steps, 3, steps - 1)
    check(source, chunks, [drawn_layout(seed, not turn)], seed)


@pytest.mark.parametrize("turn", first_fast(range(6), 1))
@pytest.mark.parametrize("name", GRAPHS)
def test_structure(name: str, turn: int):
    """Delays to 7, blocks, moves of units, statistics, single units, several loops; over chunks shorter than
    delays.
    """
    source, seed = GRAPHS[name], list(GRAPHS).index(name) + 15 * turn
    far = re.search(r"\[t[+-][4-7]", str(source)) is not None
    steps, lanes, ends = (9 if far else 4, 3, (2, 3)) if turn else (7 if far else 3, 2, (2,))
    chunks = chunks_of(load_graph(source), seed % 4, steps, lanes, *ends)
    check(source, chunks, [drawn_layout(seed, not turn), drawn_layout(seed + 500, not turn)], seed)


@pytest.mark.parametrize("turn", first_fast(range(4), 1))
@pytest.mark.parametrize("name", NOISY)
def test_random_masks(name: str, turn: int):
    """Every program draws the masks of its own units."""
    source, seed = NOISY[name], list(NOISY).index(name) + 9 * turn
    steps, lanes = 8 if "t-6" in str(source) else 3, 3 if turn else 2
    chunks = chunks_of(load_graph(source), seed % 4, steps, lanes, 2)
    check(source, chunks, [drawn_layout(seed, not turn)], seed, training=True)


@pytest.mark.parametrize("turn", first_fast(range(4), 1))
@pytest.mark.parametrize("model", MODELS)
def test_model(model: str, turn: int):
    """Shared models: loops over two layers, both directions, layers with delays."""
    seed = MODELS.index(model) + 6 * turn
    graph = load_graph(model, input={"size": 4}, classes=3, size=4)
    lanes, ends = (3, (2,)) if turn else (2, ())
    chunks = chunks_of(graph, seed % 4, 3 if turn else 2, lanes, *ends)
    check(graph, chunks, [drawn_layout(seed, not turn), drawn_layout(seed + 500, not turn)], seed)


WIDE = {
    # 3 blocks of sources: on the chip; all from L2; the first stays, the others come
    "on the chip": ("lstm", 40, Layout(3, 4, least=4, chunk=16, loaded=1)),
    "streamed": ("lstm", 40, Layout(3, 4, least=4, chunk=16, resident=0)),
    "some streamed": ("gru", 40, Layout(2, 4, least=16, chunk=16, splits=1, resident=5000)),
    "split sums": ("lstm_norm", 35, Layout(3, 4, least=2, chunk=32, splits=2, resident=900)),
    "more programs than units": ("lstm_projection", 3, Layout(6, 2, least=1, chunk=16)),
    "single units": ("rhn", 1, Layout(4, 2, least=4, chunk=16)),
    "more tiles than groups": ("gru_cudnn", 6, Layout(3, 1, least=2, chunk=16, groups=2)),
    "all tiles at once": ("lstm_peephole", 6, Layout(2, 1, least=2, chunk=16, groups=EVERYTHING)),
}


@pytest.mark.parametrize("name", WIDE)
def test_layouts(name: str):
    cell, size, layout = WIDE[name]
    source = of_cell(cell, size)
    lanes = 5 if "tiles" in name else 3
    check(source, chunks_of(load_graph(source), 3, 2, lanes), [layout], 7)


@pytest.mark.parametrize("seed", first_fast(range(RANDOM), FAST_RANDOM))
def test_random_graph(seed: int):
    """Layouts, sizes, masks and cuts from the seed; every second network trains."""
    source = random_graph(seed)
    graph = load_graph(source)
    steps, lanes = (1, 2, 3, 4)[seed % 4], (1, 3, 2, 5)[seed // 4 % 4]
    batch = random_batch(graph, seed, **batch_kind(seed), steps=steps, lanes=lanes)
    whole = steps < 4 or looks_ahead(graph)
    chunks = [batch] if whole else [batch.steps(0, 1), batch.steps(1, steps)]
    layouts = [drawn_layout(3 * seed + i, seed < FAST_RANDOM) for i in range(3)]
    tolerance = ROUNDED if PIECEWISE.search(str(source)) else TOLERANCE
    check(source, chunks, layouts, seed, bool(seed % 2), tolerance)
