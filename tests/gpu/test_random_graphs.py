"""Random graphs against the oracle, all runners."""

from __future__ import annotations

import pytest

from tests.gpu import bodies
from tests.gpu.cases import RUNNERS

pytestmark = pytest.mark.gpu
BLOCK = 10
BLOCKS = [(name, first) for name, takes in RUNNERS.items() for first in range(0, takes.graphs, BLOCK)]


@pytest.mark.parametrize(("runner", "first"), BLOCKS)
def test_random_graphs(runner: str, first: int, device: str):
    takes = RUNNERS[runner]
    seeds = range(first, min(first + BLOCK, takes.graphs))
    bodies.random_graphs(runner, device, seeds, takes.kind)
