"""Tests on a real GPU. They must not share a process with tests/kernels, which sets Triton's interpreter."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def device() -> str:
    """The GPU, with products in full fp32."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    return "cuda"
