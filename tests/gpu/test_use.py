"""What the driver says of a GPU that works, through NVML where nvidia-ml-py is installed (or AMD's SMI)."""

from __future__ import annotations

import time

import pytest
import torch

from framework.use import Use

pytestmark = pytest.mark.gpu


def test_a_working_gpu_is_in_use(device: str, capsys: pytest.CaptureFixture[str]):
    """After 1.5 s of products (the driver counts over less): in use and under power, or one line why not."""
    a = torch.randn(4096, 4096, device=device)
    watch, end = Use(device), time.perf_counter() + 1.5
    while time.perf_counter() < end:
        a = torch.tanh(a @ a)
        torch.cuda.synchronize()
    shares, err = watch.shares(), capsys.readouterr().err
    assert 0 < shares["cpu_use"]
    for name, least, most in (("gpu_use", 0.5, 1.0), ("gpu_watts", 20.0, 2000.0)):
        assert least <= shares[name] <= most if name in shares else name in err, (shares, err)
