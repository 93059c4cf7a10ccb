"""Predicted peaks of memory against torch's count on a GPU."""

from __future__ import annotations

import pytest
import torch

from framework import Network, lstm

pytestmark = pytest.mark.gpu
T, B, F, H = 512, 16, 128, 256


@pytest.mark.parametrize("chunk", [None, 128])
@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("runner", ["torch", "persistent"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm_norm"])
def test_predicted_peak(cell: str, runner: str, memory: str, chunk: int | None, device: str):
    """Within 5 %: what lives when the call begins is taken off, what the prediction counts is added."""
    net = Network(lstm(F, H, cell=cell).graph, runner=runner, memory=memory, chunk=chunk).to(device)  # type: ignore[arg-type]
    x, dy = torch.randn(T, B, F, device=device), torch.randn(T, B, H, device=device)

    def run() -> None:
        y, state = net(x)
        del state
        y.backward(dy)

    run()  # compiles, and makes what libraries keep
    net.zero_grad(set_to_none=True)
    given = sum(4 * t.numel() for t in (x, dy, *net.parameters()))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    peak = torch.cuda.max_memory_allocated() - before + given
    predicted = net.peak_bytes(T, B)
    assert abs(predicted / peak - 1) <= 0.05, (predicted, peak)
