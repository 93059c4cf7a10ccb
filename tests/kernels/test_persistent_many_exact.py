"""Persistent loops over many programs: errors against the float64 oracle beside those of torch, pooled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from framework import Network
from framework.runners.triton_persistent import PersistentLoop
from kernels.persistent_layout import Layout
from tests.kernels.persistent_spread import scheduled, spread
from tests.kernels.pooled_errors import worse_than_torch
from tests.kernels.test_persistent_exact import CALLS, CELLS, LANES, NODES, graph_of

LAYOUT = Layout(programs=2, lanes=LANES, chunk=32, splits=2)  # 64 units and two blocks of sources each
FAST = "attention"  # softmax and norm


def compare(case: str, layout: Layout) -> None:
    def check(net: Network) -> None:
        assert net.loops and all(isinstance(x, PersistentLoop) for x in net.loops)
        spread(net, [layout])

    graphs = [(graph_of(case, backward), seeds) for backward, seeds in CALLS.items()]
    with scheduled(len(case)):
        wrong = worse_than_torch("persistent", graphs, 4, LANES, check)
    assert not wrong, "\n".join(wrong)


def test_errors_are_at_most_twice_those_of_torch():
    """Statistics are joined from those of two programs; in three dtypes, at every step and over all."""
    compare(FAST, LAYOUT)


@pytest.mark.slow
@pytest.mark.parametrize("programs", [3, 5])
@pytest.mark.parametrize("case", [*CELLS, *NODES])
def test_errors_of_all(case: str, programs: int):
    """Three programs, of which one has no units; five with weights that come from L2."""
    resident = 0 if programs == 5 else LAYOUT.resident
    compare(case, replace(LAYOUT, programs=programs, resident=resident))
