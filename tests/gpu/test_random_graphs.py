"""Random graphs against the oracle, all runners."""

from __future__ import annotations

import pytest

from tests.gpu import bodies
from tests.gpu.cases import RUNNERS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("first", range(0, 60, 15))
@pytest.mark.parametrize("runner", RUNNERS)
def test_random_graphs(runner: str, first: int, device: str):
    bodies.random_graphs(runner, device, range(first, first + 15))
