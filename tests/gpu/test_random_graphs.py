"""Random graphs against the oracle, all runners."""

from __future__ import annotations

import pytest

from tests.gpu import bodies
from tests.gpu.cases import RUNNERS, SLOW

pytestmark = pytest.mark.gpu
BLOCK = 10
# Each graph compiles kernels of its own. torch needs none: all of its graphs are in the short check.
SHORT = {"torch": 200, "elementwise": 20, "persistent": 10, "streamed": 10}
BLOCKS = [
    pytest.param(name, first, marks=[] if first < SHORT[name] else SLOW)
    for name, takes in RUNNERS.items()
    for first in range(0, takes.graphs, BLOCK)
]


@pytest.mark.parametrize(("runner", "first"), BLOCKS)
def test_random_graphs(runner: str, first: int, device: str):
    bodies.random_graphs(runner, device, range(first, first + BLOCK), RUNNERS[runner].kind)
