"""The `persistent` runner under the interpreter: equal to the oracle and to the `torch` runner in float64."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from framework import load_graph
from tests.graphs import Batch, looks_ahead, random_batch
from tests.kernels.persistent_graphs import CELLS, check, of_cell, prepared

CUTS = ["plain", "lengths", "resets", "both"]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with prepared():
        yield


def chunks_of(source: dict[str, Any], cut: int, steps: int, lanes: int, *ends: int) -> list[Batch]:
    """A random batch in chunks that end at `ends` and at the last step; in one where anything looks ahead."""
    graph = load_graph(source)
    print(f"seed {cut}, {CUTS[cut]}")
    batch = random_batch(graph, cut, bool(cut & 1), bool(cut & 2), steps, lanes)
    if looks_ahead(graph):
        return [batch]
    edges = [0, *ends, steps]
    return [batch.steps(a, b) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("cut", range(4), ids=CUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_cell(cell: str, cut: int):
    source = of_cell(cell, 5)
    check(source, chunks_of(source, cut, 4, 3, 3), cut)


@pytest.mark.parametrize("cut", range(4), ids=CUTS)
@pytest.mark.parametrize("cell", CELLS)
def test_cell_against_time(cell: str, cut: int):
    source = of_cell(cell, 4, backward=True)
    check(source, chunks_of(source, cut, 3, 3), cut)


@pytest.mark.parametrize(
    ("cell", "size", "steps", "lanes"),
    [
        ("lstm", 1, 3, 17),
        ("lstm", 17, 2, 33),
        ("lstm", 16, 1, 1),
        ("gru", 33, 2, 3),
        ("gru", 2, 1, 33),
        ("lstm_norm", 17, 2, 17),
        ("lstm_norm", 1, 3, 1),
        ("lstm_peephole", 32, 3, 16),
        ("lstm_projection", 33, 2, 1),
        ("lstm_projection", 1, 2, 3),
        ("mlstm", 19, 3, 1),
        ("nas", 17, 2, 3),
        ("rhn", 1, 2, 17),
        ("rhn", 18, 1, 2),
        ("scrn", 21, 3, 17),
        ("sru", 40, 3, 17),
    ],
)
def test_sizes(cell: str, size: int, steps: int, lanes: int):
    """Odd, 1, over 16 units; one lane, some, several tiles of lanes, the last one of a single lane; T 1."""
    source = of_cell(cell, size)
    ends = [1] if steps > 1 else []
    check(source, chunks_of(source, 3, steps, lanes, *ends), 3)


def nodes(**made: Any) -> dict[str, Any]:
    """A graph over x [3], and z [1] if it is read; nodes: (size, text, what else); all nodes are outputs."""
    full, inputs = {}, {"x": {"size": 3}}
    for name, node in made.items():
        if isinstance(node, tuple):
            size, text, *more = node
            node = {"size": size, "is": text} | dict(*more)
            inputs |= {"z": {"size": 1}} if re.search(r"\bz\b", text) else {}
        full[name] = node
    return {"inputs": inputs, "nodes": full, "outputs": list(full)}


LEARNED = {"init": "learned"}
GRAPHS: dict[str, dict[str, Any]] = {
    "delays to 7": nodes(
        h=(5, "tanh(full(x) + full(h[t-7]) + full(h[t-4]) + diag(h[t-5]) + h[t-1])", LEARNED)
    ),
    "7 ahead": nodes(h=(5, "tanh(full(x) + full(h[t+7]) + full(h[t+4]) + diag(h[t+5]) + h[t+1])", LEARNED)),
    "far only": nodes(
        h=(4, "sin(full(x) + full(h[t-6]))"), g=(2, "tanh(full(g[t-6]) + full(h[t-6]))", LEARNED)
    ),
    "block": nodes(
        h=(6, "tanh(full(x) + block(h[t-1], 3) + block(g[t-1], 2) + bias)", LEARNED),
        g=(4, "sigmoid(block(h, 2) + full(x)) * g[t-1] + block(g[t-2] * g[t-1], 4) * 0.3"),
    ),
    "slice": nodes(
        h=(7, "tanh(full(x) + full(h[t-1][2:6]) + diag(h[t-2]))", LEARNED),
        g=(3, "tanh(h[4:] * g[t-1] + diag(h[t-1][1:4]) + full(g[t-1][1:2]))"),
    ),
    "concat": nodes(
        h=(5, "tanh(full(concat(x, g[t-1], h[t-1])) + bias)"),
        g=(8, "sin(concat(h, h[t-1][0:3])) * 0.9 + 0.1 * g[t-1]", {"init": 0.3}),
        k=(19, "concat(h[t-1], g, h[t-2], k[t-1][0:1]) * 0.5"),
    ),
    "softmax": nodes(
        a=(5, "softmax(full(h[t-1]) + full(x) + bias)"),
        h=(4, "tanh(full(a) + full(x)) + 0.2 * h[t-1]", LEARNED),
    ),
    "norm": nodes(
        h=(5, "tanh(norm(full(h[t-1]) + full(x)) + norm(h[t-1]) * z)", LEARNED),
        g=(1, "norm(full(g[t-1] + 1.0)) + tanh(full(h))"),
        w=(17, "sigmoid(norm(full(w[t-1])) + full(x))"),
    ),
    "stop": nodes(
        h=(4, "tanh(full(h[t-1]) + stop(full(g[t-1])) + full(x))"), g=(4, "stop(h) * g[t-1] + diag(h)")
    ),
    "one unit": nodes(
        s=(1, "sigmoid(full(h[t-1]) + full(x) + bias)", LEARNED),
        h=(5, "s * h[t-1] + (1 - s) * tanh(full(s) + full(x) + s[t-2] * diag(h[t-1]))"),
        o=(1, "tanh(full(o[t-1]) + diag(s) + norm(full(o[t-1])))"),
    ),
    "numbers for all units": nodes(
        h=(3, "tanh(z * full(h[t-1]) + full(x) + 0.5) * 0.9 - 0.1 + z", {"init": -0.4})
    ),
    "layers with feedback": nodes(
        l1={"cell": "lstm", "size": 4, "in": ["x", "y[t-1]"]},
        l2={"cell": "gru", "size": 3, "in": "l1"},
        y=(2, "tanh(full(l2) + full(l1[t-2]) + bias)", LEARNED),
    ),
    "a square twice": nodes(
        h=(4, "tanh(full(h[t-1]) + full(h[t-1] * h[t-2]) + full(full(h[t-1]) * 0.5) + full(x))"),
        y=(4, "full(h) * full(h[t-1]) + 0.5 * y[t-1]"),
    ),
    "independent and stacked": nodes(
        a={"cell": "lstm", "size": 3, "in": "x"},
        b=(3, "tanh(full(b[t+1]) + full(x))"),
        c={"cell": "mgu", "size": 4, "in": ["a", "b"]},
        d={"cell": "rnn_relu", "size": 2, "in": "c[t-2]"},
    ),
}


@pytest.mark.parametrize("cut", [0, 3], ids=[CUTS[0], CUTS[3]])
@pytest.mark.parametrize("name", GRAPHS)
def test_structure(name: str, cut: int):
    """In chunks of 2, 1 and some steps: shorter than delays, so that a read goes back over two chunks."""
    source = GRAPHS[name]
    far = re.search(r"\[t[+-][4-7]", str(source)) is not None
    check(source, chunks_of(source, cut, 9 if far else 5, 3, 2, 3), cut)


NEW = "tanh(full(x) + full(h[t-1]) + bias)"
NOISY: dict[str, dict[str, Any]] = {
    "dropout": nodes(h=(5, "tanh(full(x) + dropout(full(h[t-1]), 0.3))")),
    "dropout of a source": nodes(h=(5, "tanh(full(x) + full(dropout(h[t-1], 0.4)))", LEARNED)),
    "zoneout": nodes(h=(17, f"zoneout({NEW}, h[t-1], 0.3)", LEARNED)),
    "far": nodes(h=(4, "tanh(full(x) + full(dropout(h[t-6], 0.2)) + zoneout(h[t-1], h[t-3], 0.3))")),
    "against time": nodes(
        h=(3, "zoneout(tanh(full(x) + full(h[t+1])), h[t+2], 0.5) + dropout(h[t+1], 0.6) * 0.3")
    ),
    "one unit": nodes(
        g=(1, "dropout(tanh(full(h[t-1])), 0.5)"), h=(4, f"zoneout({NEW}, g * h[t-1], 0.3) + dropout(z, 0.2)")
    ),
    "two loops": nodes(
        h=(3, f"zoneout({NEW}, h[t-1], 0.3)"), k=(4, "dropout(tanh(full(h) + full(k[t-1])), 0.25)")
    ),
    "certain": nodes(h=(3, f"dropout(zoneout({NEW}, h[t-1], 0), 0)")),
}


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize(("training", "cut"), [(True, 0), (True, 3), (False, 3)])
def test_random_masks(name: str, training: bool, cut: int):
    """Training draws the masks that the oracle draws from the same seed, chunk by chunk."""
    source = NOISY[name]
    far = "t-6" in str(source)
    check(source, chunks_of(source, cut, 8 if far else 4, 3, 2), cut, training)
