"""Every shared cell by every runner that takes it, at odd sizes, with and without lengths and resets."""

from __future__ import annotations

import pytest
import torch

from tests.gpu import bodies
from tests.gpu.cases import PAIRS, RUNNERS

pytestmark = pytest.mark.gpu
KERNELS = [pair for pair in PAIRS if pair[0] != "torch"]
WIDE = [(runner, cell, *at) for runner, cell in KERNELS for at in RUNNERS[runner].wide]
SIZES = [(runner, cell, *at) for runner, cell in KERNELS for at in RUNNERS[runner].sizes]


@pytest.mark.parametrize("ragged", [False, True], ids=["plain", "ragged"])
@pytest.mark.parametrize(("runner", "cell"), PAIRS)
def test_agrees(runner: str, cell: str, ragged: bool, device: str):
    bodies.agrees(runner, cell, device, 37, 5, RUNNERS[runner].units, ragged, torch.float32)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("runner", "cell"), KERNELS)
def test_agrees_in_sixteen_bits(runner: str, cell: str, kind: torch.dtype, device: str):
    bodies.agrees(runner, cell, device, 61, 7, RUNNERS[runner].units, True, kind)


@pytest.mark.parametrize(("runner", "cell", "lanes", "size"), SIZES)
def test_sizes(runner: str, cell: str, lanes: int, size: int, device: str):
    bodies.agrees(runner, cell, device, 12, lanes, size, True, torch.float32)


@pytest.mark.parametrize(("runner", "cell", "lanes", "size"), WIDE)
def test_many_programs(runner: str, cell: str, lanes: int, size: int, device: str):
    bodies.agrees(runner, cell, device, 12, lanes, size, True, torch.bfloat16)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("runner", "cell"), [("torch", "lstm"), ("torch", "gru_cudnn"), *KERNELS])
def test_hoisted_products_by_our_kernels(runner: str, cell: str, kind: torch.dtype, device: str):
    bodies.agrees(runner, cell, device, 37, 5, RUNNERS[runner].units, True, kind, products="triton")


@pytest.mark.parametrize(("runner", "cell"), PAIRS)
def test_repeats_to_the_bit(runner: str, cell: str, device: str):
    bodies.repeats(runner, cell, device, 19, 9, RUNNERS[runner].units, launches=20)


@pytest.mark.parametrize(("runner", "cell"), PAIRS)
def test_the_host_never_waits(runner: str, cell: str, device: str):
    bodies.never_waits(runner, cell, device, 11, 4, RUNNERS[runner].units)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("runner", "cell"), PAIRS)
def test_replays_in_a_graph(runner: str, cell: str, backward: bool, device: str):
    bodies.replays(runner, cell, device, 11, 4, RUNNERS[runner].units, backward)
