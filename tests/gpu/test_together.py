"""Loops that start together on a GPU: in one launch, on cuda_streams, and both captured in a CUDA graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.gpu import together

pytestmark = pytest.mark.gpu
CASES: dict[str, tuple[dict[str, Any], list[list[int]]]] = {
    "one program each": (together.branches({"f": ("lstm", 64), "b": ("lstm", 64)}, "b"), [[2], [2]]),
    "many programs each": (together.branches({"f": ("lstm", 256), "b": ("lstm", 256)}, "b"), [[2], [2]]),
    "other cells": (together.branches({"a": ("gru", 256), "b": ("lstm_peephole", 200)}), [[2], [2]]),
    "on streams": (
        together.branches({"a": ("lstm", 256), "b": ("sru", 96), "c": ("lstm", 48)}),
        [[1, 1, 1], [2]],
    ),
}


@pytest.mark.parametrize(("steps", "lanes"), [(300, 5), (64, 16)])
@pytest.mark.parametrize("name", CASES)
def test_equal_to_one_by_one(name: str, steps: int, lanes: int, device: str):
    source, launches = CASES[name]
    together.agree(source, device, steps, lanes, torch.bfloat16, launches)


@pytest.mark.parametrize("name", CASES)
def test_replays_in_a_graph(name: str, device: str):
    together.replays(CASES[name][0], device, 40, 7, torch.bfloat16)


def test_many_launches(device: str):
    """No hang, no difference, in 500 of them."""
    source, launches = CASES["many programs each"]
    together.agree(source, device, 20, 16, torch.bfloat16, launches, repeats=250)


@pytest.mark.parametrize(("cell", "size"), [("lstm", 256), ("gru", 64), ("sru", 96)])
def test_overlapping_parts(cell: str, size: int, device: str):
    together.overlaps(cell, device, 61, 5, size, torch.bfloat16, 4, "auto")
