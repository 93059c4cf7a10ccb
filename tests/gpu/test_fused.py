"""Runner torch-fused on a GPU: cuDNN's LSTM, GRU and RNN in the place of our loops."""

from __future__ import annotations

import pytest
import torch

from tests.gpu import bodies
from tests.gpu.cases import data_of, graph_of, network, outcome, too_far

pytestmark = pytest.mark.gpu
CELLS = ("lstm", "lstm_projection", "gru_cudnn", "rnn_tanh", "rnn_relu")


@pytest.fixture(autouse=True)
def exact():
    """cuDNN multiplies float32 in tf32 unless told otherwise."""
    before = torch.backends.cudnn.rnn.fp32_precision
    torch.backends.cudnn.rnn.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.rnn.fp32_precision = before


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_agrees(cell: str, kind: torch.dtype, device: str):
    bodies.agrees("torch-fused", cell, device, 61, 7, 50, False, kind)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_lengths(cell: str, kind: torch.dtype, device: str):
    agree_with_lengths(cell, device, kind, 37, 6, 40)


def agree_with_lengths(cell: str, device: str, kind: torch.dtype, steps: int, lanes: int, size: int) -> None:
    """Lanes of their own lengths, without packing: errors are at most twice those of the torch runner."""
    graph = graph_of(cell, size)
    data = data_of(graph, steps, lanes, True, seed=5)
    del data.where["resets"]
    exact = outcome(network(graph, "torch", "cpu", torch.float64), data)
    own = outcome(network(graph, "torch", "cpu", kind), data.to("cpu", kind))
    got = outcome(network(graph, "torch-fused", device, kind), data.to(device, kind))
    problems = too_far(got, own, exact)
    assert not problems, "\n".join(problems)
