"""Ten thousand steps in one call. Last, because the host's float64 takes seconds each."""

from __future__ import annotations

import pytest
import torch

from tests.gpu import bodies
from tests.gpu.cases import PAIRS

pytestmark = pytest.mark.gpu
# Step by step from the host it is only slow: one cell shows that.
LONG = [(runner, cell) for runner, cell in PAIRS if runner != "torch" or cell == "lstm"]


@pytest.mark.parametrize(("runner", "cell"), LONG)
def test_ten_thousand_steps(runner: str, cell: str, device: str):
    bodies.agrees(runner, cell, device, 10_000, 3, 17, True, torch.float32)
