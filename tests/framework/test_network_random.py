"""The masks of dropout and zoneout: the generator itself, and when a network draws new ones."""

from __future__ import annotations

import math

import pytest
import torch

from framework import Network, load_graph
from framework.random import mask, philox

T, B, SIZE = 50, 20, 30

NOISY = {
    "inputs": {"x": {"size": 3}},
    "nodes": {
        "h": {"size": 4, "is": "zoneout(tanh(full(dropout(x, 0.4)) + full(h[t-1])), h[t-1], 0.3)"},
        "d": {"size": 4, "is": "dropout(h, 0.5) + dropout(h, 0.5)"},
    },
    "outputs": ["d", "h"],
}


def test_philox_known_answer():
    """Random123's kat_vectors for philox4x32-10: counter 0 with key 0 begins with 6627e8d5."""
    assert philox(0, torch.zeros(1, dtype=torch.int64)).item() == 0x6627E8D5


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_true_with_probability_p(p: float):
    drawn = mask(7, "l1/h:zoneout", T, B, SIZE, p)
    assert drawn.shape == (T, B, SIZE) and drawn.dtype == torch.bool
    n = drawn.numel()
    assert abs(drawn.double().mean().item() - p) <= 4.5 * math.sqrt(p * (1 - p) / n)
    for dims in ((0, 1), (0, 2), (1, 2)):  # no step, lane or unit is favoured
        share = drawn.double().mean(dims)
        spread = 5 * math.sqrt(p * (1 - p) * share.numel() / n)
        assert ((share - p).abs() <= spread).all()


@pytest.mark.parametrize("other", [(8, "a"), (7, "b"), (7 + 2**20, "a")])
def test_other_seeds_and_keys_give_unrelated_masks(other: tuple[int, str]):
    one, two = mask(7, "a", T, B, SIZE, 0.5), mask(*other, T, B, SIZE, 0.5)
    n = one.numel()
    assert abs((one == two).double().mean().item() - 0.5) <= 4.5 * math.sqrt(0.25 / n)
    assert torch.equal(one, mask(7, "a", T, B, SIZE, 0.5))


def test_neighbours_in_time_lanes_and_units_are_unrelated():
    drawn = mask(3, "a", T, B, SIZE, 0.5).double() - 0.5
    for dim in range(3):
        first, second = drawn.narrow(dim, 0, drawn.shape[dim] - 1), drawn.narrow(dim, 1, drawn.shape[dim] - 1)
        assert abs((first * second).mean().item()) <= 4.5 * 0.25 / math.sqrt(first.numel())


def test_training_draws_anew_and_torch_seeds_it():
    net = Network(load_graph(NOISY)).train()
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    first, seed = net(x)[0]["d"], net.seed
    second = net(x)[0]["d"]
    torch.manual_seed(1)
    again = net(x)[0]["d"]
    assert net.seed == seed
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_evaluation_draws_nothing():
    net = Network(load_graph(NOISY)).eval()
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    before = torch.random.get_rng_state()
    first, second = net(x)[0]["d"], net(x)[0]["d"]
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


def test_two_equal_terms_of_one_node_have_masks_of_their_own():
    """d = dropout(h) + dropout(h): in some place one is dropped and the other is not."""
    net = Network(load_graph(NOISY)).train()
    outputs, _ = net(torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)))
    there = outputs["h"] != 0
    ratio = (outputs["d"][there] / outputs["h"][there]).round()
    assert {0.0, 2.0, 4.0} == set(ratio.tolist())
