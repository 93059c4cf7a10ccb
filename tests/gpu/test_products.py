"""The hoisted products, alone: networks use them, too. `pytest -c tests/gpu/pytest.ini tests/gpu -m gpu`."""

from __future__ import annotations

import pytest
import torch

from tests.gpu import product_bodies as bodies

pytestmark = pytest.mark.gpu
KINDS = [torch.float32, torch.bfloat16, torch.float16]
# (M, N, K) for the dtypes; each compiles three kernels, and what float16 does bfloat16 does, too.
SHAPES = [(128, 128, 128), (1, 512, 512), (1000, 333, 77), (7, 5, 3), (4096, 2048, 1024)]
CASES = [(shape, kind) for kind in KINDS[:2] for shape in SHAPES] + [((1000, 333, 77), torch.float16)]


@pytest.mark.parametrize(("shape", "kind"), CASES, ids=str)
def test_product(shape: tuple[int, int, int], kind: torch.dtype, device: str):
    bodies.product(*shape, kind, device)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("rows", "size", "vocab"), [(1, 1, 1), (1000, 77, 96), (4097, 512, 33)])
def test_table(rows: int, size: int, vocab: int, kind: torch.dtype, device: str):
    bodies.table(rows, size, vocab, kind, device)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (1000, 77), (100_003, 65)])
def test_bias(rows: int, size: int, kind: torch.dtype, device: str):
    bodies.bias(rows, size, kind, device)
