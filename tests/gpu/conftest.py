"""Tests on a real GPU. They must not share a process with tests/kernels, which sets Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.gpu.cases import poisoned

# cuBLAS reads it once, before its first product: deterministic algorithms need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture
def device() -> Iterator[str]:
    """The GPU, with products in full fp32, and every new tensor full of NaN."""
    if not torch.cuda.is_available():
        pytest.fail("torch sees no GPU: nothing was tested", pytrace=False)
    torch.backends.cuda.matmul.allow_tf32 = False
    with poisoned():
        yield "cuda"
