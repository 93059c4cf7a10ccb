"""Twenty thousand steps in one call, and a thousand calls. The host's float64 takes seconds for each."""

from __future__ import annotations

import pytest
import torch

from tests.gpu import bodies
from tests.gpu.cases import PAIRS, some

pytestmark = pytest.mark.gpu
# Step by step from the host it is only slow: one cell shows that.
LONG = [(runner, cell) for runner, cell in PAIRS if runner != "torch" or cell == "lstm"]
SPREAD = [pair for pair in LONG if pair[0] in ("persistent", "streamed") and pair[1] != "sru"]


@pytest.mark.parametrize(("runner", "cell"), some(LONG, 5))
def test_twenty_thousand_steps(runner: str, cell: str, device: str):
    bodies.agrees(runner, cell, device, 20_000, 3, 17, True, torch.float32)


@pytest.mark.parametrize("runner", ["persistent", "streamed"])
@pytest.mark.slow
def test_twenty_thousand_steps_of_many_programs(runner: str, device: str):
    bodies.agrees(runner, "lstm", device, 20_000, 16, 512, False, torch.bfloat16, reference=device)


@pytest.mark.parametrize(("runner", "cell"), some(SPREAD, 6))
def test_a_thousand_launches(runner: str, cell: str, device: str):
    """None hangs (the watchdog is on), all are equal."""
    size = 700 if runner == "persistent" else 1500
    bodies.repeats(runner, cell, device, 19, 33, size, 1000, torch.bfloat16, watchdog=True)
