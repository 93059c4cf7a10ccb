"""The oracle by itself: against torch.nn and against closed forms that are written out by hand here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from framework import load_graph
from tests import oracle
from tests.graphs import batch_kind, looks_ahead, random_batch, random_graph
from tests.oracle import random_weights

T, B, F, H = 7, 3, 4, 5

LSTM = {
    "inputs": {"x": {"size": F}},
    "nodes": {"l": {"cell": "mine", "size": H, "in": "x"}},
    "outputs": ["l"],
    "cells": {
        "mine": {
            "out": "h",
            "nodes": {
                "i": "sigmoid(full(x) + full(h[t-1]) + bias)",
                "f": "sigmoid(full(x) + full(h[t-1]) + bias)",
                "z": "tanh(full(x) + full(h[t-1]) + bias)",
                "o": "sigmoid(full(x) + full(h[t-1]) + bias)",
                "c": "f * c[t-1] + i * z",
                "h": "o * tanh(c)",
            },
        }
    },
}
GRU = {
    "inputs": {"x": {"size": F}},
    "nodes": {
        "r": {"size": H, "is": "sigmoid(full(x) + full(h[t-1]) + bias)"},
        "u": {"size": H, "is": "sigmoid(full(x) + full(h[t-1]) + bias)"},
        "p": {"size": H, "is": "full(h[t-1]) + bias"},
        "n": {"size": H, "is": "tanh(full(x) + bias + r * p)"},
        "h": {"size": H, "is": "(1 - u) * n + u * h[t-1]"},
    },
    "outputs": ["h"],
}


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lanes(*values: list[float]) -> Tensor:
    """[T, lanes, 1] from one list of numbers per lane."""
    return torch.tensor(values, dtype=torch.float64).T[:, :, None]


def one(expression: str, x: Tensor, size: int = 1, init: float = 0.0, **kwargs) -> Tensor:
    """Run `y: expression` over the input x without weights."""
    graph = load_graph(
        {
            "inputs": {"x": {"size": x.shape[-1]}},
            "nodes": {"y": {"size": size, "is": expression, "init": init}},
            "outputs": ["y"],
        }
    )
    return oracle.run(graph, {}, {"x": x}, **kwargs)[0]["y"]


def test_lstm_and_gradients_equal_torch():
    graph = load_graph(LSTM)
    weights = random_weights(graph, 0)
    theirs = nn.LSTM(F, H).double()
    gates = ["i", "f", "z", "o"]  # torch calls z g
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.cat([weights[f"l/{g}:full(x)"] for g in gates]))
        theirs.weight_hh_l0.copy_(torch.cat([weights[f"l/{g}:full(l/h[t-1])"] for g in gates]))
        theirs.bias_ih_l0.copy_(torch.cat([weights[f"l/{g}:bias"] for g in gates]))
        theirs.bias_hh_l0.zero_()
    x = normal(T, B, F)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs, state = oracle.run(graph, weights, {"x": x1})
    y, (h, c) = theirs(x2)
    same(outputs["l"], y)
    same(state["l/h"], h)
    same(state["l/c"], c)
    factor = normal(T, B, H, seed=1)
    (outputs["l"] * factor).sum().backward()
    (y * factor).sum().backward()
    same(x1.grad, x2.grad)
    for row, g in enumerate(gates):
        rows = slice(row * H, (row + 1) * H)
        same(weights[f"l/{g}:full(x)"].grad, theirs.weight_ih_l0.grad[rows])
        same(weights[f"l/{g}:full(l/h[t-1])"].grad, theirs.weight_hh_l0.grad[rows])
        same(weights[f"l/{g}:bias"].grad, theirs.bias_ih_l0.grad[rows])


def test_gru_with_lengths_equals_torch_packed():
    graph = load_graph(GRU)
    weights = random_weights(graph, 0)
    theirs = nn.GRU(F, H).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(torch.cat([weights[f"{g}:full(x)"] for g in "run"]))
        theirs.weight_hh_l0.copy_(torch.cat([weights[f"{g}:full(h[t-1])"] for g in "rup"]))
        theirs.bias_ih_l0.copy_(torch.cat([weights[f"{g}:bias"] for g in "run"]))
        theirs.bias_hh_l0.copy_(torch.cat([torch.zeros(2 * H), weights["p:bias"]]))
    x = normal(T, B, F)
    lengths = torch.tensor([4, 7, 1])
    outputs, state = oracle.run(graph, weights, {"x": x}, lengths=lengths)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, h = theirs(packed)
    same(outputs["h"], nn.utils.rnn.pad_packed_sequence(y, total_length=T)[0])
    same(state["h"], h)


def test_sum_over_time_restarts_at_resets_and_stops_at_lengths():
    x = lanes([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4])
    resets = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0]]).T.bool()
    y = one("x + y[t-1]", x, init=10.0, resets=resets, lengths=torch.tensor([4, 4, 3]))
    same(y, lanes([11, 13, 16, 20], [11, 13, 13, 17], [11, 12, 15, 0]))


def test_sum_backward_in_time_starts_at_each_lanes_end():
    x = lanes([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4])
    resets = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).T.bool()
    y = one("x + y[t+1]", x, init=10.0, resets=resets, lengths=torch.tensor([4, 4, 2]))
    same(y, lanes([20, 19, 17, 14], [13, 12, 17, 14], [13, 12, 0, 0]))


def test_shifted_inputs_are_zero_beyond_a_reset_and_beyond_the_end():
    x = lanes([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    resets = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]).T.bool()
    lengths = torch.tensor([4, 5])
    same(one("x[t-2]", x, resets=resets, lengths=lengths), lanes([0, 0, 1, 2, 0], [0, 0, 0, 0, 3]))
    same(one("x[t+2]", x, resets=resets, lengths=lengths), lanes([3, 4, 0, 0, 0], [0, 0, 5, 0, 0]))


def test_two_interleaved_sequences_with_a_delay_of_two():
    same(one("x + y[t-2]", lanes([1, 2, 3, 4, 5])), lanes([1, 2, 4, 6, 9]))


def test_state_holds_the_last_values_and_feels_resets_and_lengths():
    graph = load_graph(
        {
            "inputs": {"x": {"size": 1}},
            "nodes": {"y": {"size": 1, "is": "x + y[t-1]", "init": 10}, "z": {"size": 1, "is": "y[t-3]"}},
            "outputs": ["z"],
        }
    )
    x = lanes([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4])
    resets = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]).T.bool()
    lengths = torch.tensor([4, 4, 1, 0])
    first, state = oracle.run(graph, {}, {"x": x}, lengths=lengths, resets=resets)
    same(state["y"], lanes([20, 16, 13], [17, 13, 10], [11, 10, 10], [10, 10, 10]))
    same(first["z"], lanes([10, 10, 10, 11], [10, 10, 10, 10], [10, 0, 0, 0], [0, 0, 0, 0]))
    # The next chunk: the last lane starts a new sequence in its second frame.
    resets = torch.tensor([[0, 0], [0, 0], [0, 0], [0, 1]]).T.bool()
    second, state = oracle.run(graph, {}, {"x": x[:2]}, state=state, resets=resets)
    same(second["z"], lanes([13, 16], [10, 13], [10, 10], [10, 10]))
    same(state["y"], lanes([23, 21, 20], [20, 18, 17], [14, 12, 11], [12, 10, 10]))


def test_an_index_input_adds_nothing_before_its_first_step():
    graph = load_graph(
        {
            "inputs": {"k": {"vocab": 3}},
            "nodes": {"y": {"size": 2, "is": "full(k) + full(k[t-1])"}},
            "outputs": ["y"],
        }
    )
    weights = random_weights(graph, 0)
    now, before = weights["y:full(k)"].T, weights["y:full(k[t-1])"].T
    k = torch.tensor([[0, 2], [1, 2]])
    outputs, state = oracle.run(graph, weights, {"k": k}, resets=torch.tensor([[0, 0], [0, 1]]).bool())
    same(outputs["y"][0], now[[0, 2]])
    same(outputs["y"][1], torch.stack([now[1] + before[0], now[2]]))
    outputs, _ = oracle.run(graph, weights, {"k": k}, state=state)
    same(outputs["y"][0], now[[0, 2]] + before[[1, 2]])


def test_weighted_terms_by_hand():
    graph = load_graph(
        {
            "inputs": {"x": {"size": 4}},
            "nodes": {
                "a": {"size": 6, "is": "block(x, 2)"},
                "b": {"size": 4, "is": "diag(x) + bias"},
                "c": {"size": 4, "is": "norm(x)"},
                "d": {"size": 6, "is": "concat(x, x[1:3])"},
            },
            "outputs": ["a", "b", "c", "d"],
        }
    )
    weights = random_weights(graph, 0)
    x = normal(2, 3, 4)
    y, _ = oracle.run(graph, weights, {"x": x})
    blocks = weights["a:block(x, 2)"]
    same(y["a"], torch.cat([x[..., :2] @ blocks[0].T, x[..., 2:] @ blocks[1].T], -1))
    same(y["b"], x * weights["b:diag(x)"] + weights["b:bias"])
    gain, bias = weights["c:norm(x).gain"], weights["c:norm(x).bias"]
    same(y["c"], nn.functional.layer_norm(x, (4,), gain, bias, 1e-5))
    same(y["d"], torch.cat([x, x[..., 1:3]], -1))


@pytest.mark.parametrize(
    "name",
    ["sigmoid", "softplus", "silu", "gelu", "elu", "hardsigmoid", "relu", "tanh"],
)
def test_functions_equal_torch(name: str):
    ours = {"hardsigmoid": "hard_sigmoid"}.get(name, name)
    x = normal(5, 3, 4).mul(3)
    y = one(f"{ours}(x)", x, size=4)
    torch.testing.assert_close(y, getattr(nn.functional, name)(x), rtol=1e-8, atol=1e-12)


def test_zoneout_and_dropout_in_evaluation():
    x = lanes([1, 2, 3])
    same(one("zoneout(x, y[t-1], 0.25)", x), lanes([0.75, 1.6875, 2.671875]))
    same(one("dropout(x, 0.25)", x), x)


@pytest.mark.parametrize("seed", range(30))
def test_chunked_equals_whole(seed: int):
    graph = load_graph(random_graph(seed))
    if looks_ahead(graph):
        graph = load_graph(LSTM)
    weights = random_weights(graph, seed)
    batch = random_batch(graph, seed, resets=batch_kind(seed)["resets"], steps=7)
    whole, last = oracle.run(graph, weights, batch.inputs, resets=batch.resets)
    state, parts = None, []
    for start, end in [(0, 2), (2, 3), (3, 100)]:
        chunk = batch.steps(start, end)
        y, state = oracle.run(graph, weights, chunk.inputs, state=state, resets=chunk.resets)
        parts.append(y)
    for name in whole:
        same(torch.cat([y[name] for y in parts]), whole[name])
    for name in last:
        same(state[name], last[name])


def test_backward_is_forward_with_time_turned_round():
    """Every time shift mirrored, the input reversed: the same outputs reversed."""
    forward = load_graph(LSTM)
    mirrored = {**LSTM, "nodes": {"l": {"cell": "mine", "size": H, "in": "x", "backward": True}}}
    backward = load_graph(mirrored)
    weights = random_weights(forward, 0)
    swapped = {name.replace("t-1", "t+1"): w for name, w in weights.items()}
    assert swapped.keys() == backward.weights.keys()
    x = normal(T, B, F)
    y = oracle.run(forward, weights, {"x": x})[0]["l"]
    z = oracle.run(backward, swapped, {"x": x.flip(0)})[0]["l"]
    same(z, y.flip(0))
