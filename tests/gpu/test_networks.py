"""Every shared cell by every runner that takes it, at odd sizes, with and without lengths and resets; models.

What is marked slow runs in scripts/bench/gpu_full.sh alone. A kernel is compiled for each case of `agrees`,
which takes seconds; what repeats a case of before finds it in Triton's cache.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch

from framework.cells import CONF, yaml_names
from tests.gpu import bodies
from tests.gpu.cases import DENSE, ELEMENTWISE, PAIRS, RUNNERS, SLOW, some

pytestmark = pytest.mark.gpu
KERNELS = [pair for pair in PAIRS if pair[0] != "torch"]
HALVES = [torch.bfloat16, torch.float16]
KINDS = [torch.float32, *HALVES]
WIDE = [
    (runner, cell, *at, kind) for runner, cell in KERNELS for at in RUNNERS[runner].wide for kind in HALVES
]
SIZES = [
    (runner, cell, lanes, size)
    for runner, cell in KERNELS
    for lanes, size in RUNNERS[runner].sizes
    if size > 1 or cell != "scrn"  # a part of its units are slow ones: there must be two
]
MODELS = [
    (runner, name)
    for name in yaml_names(CONF / "model")
    for runner in ("auto", "persistent", "streamed", "torch")
]
STACKS = [(cell, both) for cell in (*DENSE, *ELEMENTWISE) if cell != "clockwork" for both in (False, True)]


@pytest.mark.parametrize("ragged", [pytest.param(False, marks=SLOW), True], ids=["plain", "ragged"])
@pytest.mark.parametrize(("runner", "cell"), PAIRS)
def test_agrees(runner: str, cell: str, ragged: bool, device: str):
    bodies.agrees(runner, cell, device, 37, 5, RUNNERS[runner].units, ragged, torch.float32)


@pytest.mark.parametrize(
    ("runner", "cell", "kind"), some([(*pair, kind) for pair, kind in product(KERNELS, HALVES)], 3), ids=str
)
def test_agrees_in_sixteen_bits(runner: str, cell: str, kind: torch.dtype, device: str):
    bodies.agrees(runner, cell, device, 61, 7, RUNNERS[runner].units, True, kind)


@pytest.mark.parametrize(("runner", "cell", "lanes", "size"), some(SIZES, 4))
def test_sizes(runner: str, cell: str, lanes: int, size: int, device: str):
    bodies.agrees(runner, cell, device, 12, lanes, size, True, torch.float32)


@pytest.mark.parametrize(("runner", "cell", "lanes", "size", "kind"), some(WIDE, 9), ids=str)
def test_many_programs(runner: str, cell: str, lanes: int, size: int, kind: torch.dtype, device: str):
    bodies.agrees(runner, cell, device, 12, lanes, size, True, kind)


@pytest.mark.parametrize(
    ("runner", "cell", "kind"),
    some(
        [(*p, kind) for p in [("torch", "lstm"), ("torch", "gru_cudnn"), *KERNELS] for kind in KINDS[:2]], 5
    ),
    ids=str,
)
def test_hoisted_products_by_our_kernels(runner: str, cell: str, kind: torch.dtype, device: str):
    bodies.agrees(runner, cell, device, 37, 5, RUNNERS[runner].units, True, kind, products="triton")


@pytest.mark.parametrize(("runner", "name"), some(MODELS, 3))
def test_models(runner: str, name: str, device: str):
    bodies.model_agrees(runner, name, device, 23, 4, 40, torch.float32)


@pytest.mark.parametrize("kind", HALVES, ids=str)
@pytest.mark.parametrize("name", yaml_names(CONF / "model"))
@pytest.mark.slow
def test_wide_models_in_sixteen_bits(name: str, kind: torch.dtype, device: str):
    bodies.model_agrees("auto", name, device, 23, 20, 300, kind)


@pytest.mark.parametrize(("cell", "bidirectional"), some(STACKS, 7))
def test_stacks_by_auto(cell: str, bidirectional: bool, device: str):
    bodies.model_agrees(
        "auto", "stack", device, 17, 3, 24, torch.float32, cell=cell, layers=3, bidirectional=bidirectional
    )


@pytest.mark.parametrize("kind", [torch.float32, pytest.param(torch.bfloat16, marks=SLOW)], ids=str)
@pytest.mark.parametrize("runner", RUNNERS)
def test_random_masks(runner: str, kind: torch.dtype, device: str):
    bodies.masks_agree(runner, device, 19, 6, RUNNERS[runner].units, kind)


@pytest.mark.parametrize(("runner", "cell"), PAIRS)
def test_repeats_to_the_bit(runner: str, cell: str, device: str):
    bodies.repeats(runner, cell, device, 37, 5, RUNNERS[runner].units, launches=20)


@pytest.mark.parametrize(("runner", "cell"), PAIRS)
def test_the_host_never_waits(runner: str, cell: str, device: str):
    bodies.never_waits(runner, cell, device, 37, 5, RUNNERS[runner].units)


@pytest.mark.parametrize("backward", [pytest.param(False, marks=SLOW), True], ids=["forward", "backward"])
@pytest.mark.parametrize(("runner", "cell"), PAIRS)
def test_replays_in_a_graph(runner: str, cell: str, backward: bool, device: str):
    bodies.replays(runner, cell, device, 37, 5, RUNNERS[runner].units, backward)
