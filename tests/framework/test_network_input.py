"""What a user can pass wrongly to a network: one clear error each; and what he may do with it besides."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from framework import Network, lstm
from framework.errors import ConfigError

WORDS = {
    "inputs": {"x": {"vocab": 7}},
    "nodes": {"l": {"cell": "lstm", "size": 5, "in": "x"}},
    "outputs": ["l"],
}


@pytest.mark.parametrize(
    ("lengths", "cause"),
    [
        (torch.tensor([3, 4]), "they run from 3 to 4, the chunk has 3 steps"),
        (torch.tensor([-2, 3]), "they run from -2 to 3"),
        (torch.tensor([1.0, 2.0]), "float32 where numbers of frames belong"),
        (torch.tensor([1, 2, 3]), "there are 2 lanes"),
        ([1, 2], "a list, not a tensor"),
    ],
)
def test_wrong_lengths(lengths: object, cause: str):
    with pytest.raises(ConfigError, match=cause):
        lstm(4, 5)(torch.randn(3, 2, 4), lengths=lengths)


@pytest.mark.parametrize(
    ("x", "cause"),
    [
        (torch.randint(7, (3, 2)).bool(), "bool where the graph says indices"),
        (torch.tensor([[0, 7]]), "indices run from 0 to 7, the vocabulary has 7"),
        (torch.tensor([[-1, 2]]), "indices run from -1 to 2"),
        (torch.zeros(3, 0, dtype=torch.long), "B is 0"),
        (torch.zeros(0, 2, dtype=torch.long), "T is 0"),
        ({"y": torch.zeros(3, 2, dtype=torch.long)}, "inputs are x, given are y"),
        ([[1, 2]], "x\\['x'\\]: a list, not a tensor. Use torch.as_tensor"),
        (np.zeros((3, 2), dtype=int), "a numpy.ndarray, not a tensor"),
    ],
)
def test_wrong_input(x: object, cause: str):
    with pytest.raises(ConfigError, match=cause):
        Network(WORDS)(x)
    if not isinstance(x, torch.Tensor):
        with pytest.raises(ConfigError, match=cause):
            Network(WORDS).step(x)


def test_wrong_state():
    with pytest.raises(ConfigError, match="state: a tuple, not what a network returns"):
        lstm(4, 5)(torch.randn(3, 2, 4), state=(torch.zeros(2, 5), torch.zeros(2, 5)))


def test_a_network_that_has_run_can_be_pickled():
    net, x = lstm(4, 5), torch.randn(3, 2, 4)
    y, _ = net(x)
    y.sum().backward()
    again, _ = pickle.loads(pickle.dumps(net))(x)
    assert torch.equal(again, y)
