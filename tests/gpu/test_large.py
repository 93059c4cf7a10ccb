"""The largest sizes: 8,192 units, 512 lanes. The references run by torch, on the GPU too; they are as large
in float64, so that only a few of these tests fit a GPU at the same time.
"""

from __future__ import annotations

import pytest
import torch

from tests.gpu import bodies
from tests.gpu.cases import PAIRS, RUNNERS, some

pytestmark = pytest.mark.gpu
STEPS, FEATURES = 6, 24
# At 8,192 units a matrix of a gate is 512 MB in float64, and so is its gradient: cells with up to four.
FEW = ("gru", "gru_cudnn", "lstm", "lstm_norm", "lstm_peephole", "lstm_projection", "rnn_tanh")
LARGE = [
    (runner, cell, lanes, size, kind)
    for runner, cell in PAIRS
    for lanes, size in RUNNERS[runner].large
    if runner != "streamed" or size < 4096 or cell in FEW
    for kind in (torch.bfloat16, torch.float16)
]


@pytest.mark.parametrize(("runner", "cell", "lanes", "size", "kind"), some(LARGE, 29, 16), ids=str)
def test_agrees(runner: str, cell: str, lanes: int, size: int, kind: torch.dtype, device: str):
    reference = "cpu" if runner == "torch" else device
    bodies.agrees(
        runner, cell, device, STEPS, lanes, size, True, kind, reference=reference, features=FEATURES
    )


@pytest.mark.parametrize(("lanes", "size"), [(16, 8192), (512, 1024)])
@pytest.mark.slow
def test_float32(lanes: int, size: int, device: str):
    bodies.agrees(
        "streamed",
        "lstm",
        device,
        STEPS,
        lanes,
        size,
        True,
        torch.float32,
        reference=device,
        features=FEATURES,
    )
