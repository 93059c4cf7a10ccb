"""State carried between chunks, lengths and resets, and what must not leak out of padding."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph
from framework.errors import ConfigError
from tests import oracle
from tests.compare import (
    assert_same,
    assert_same_state,
    call,
    copy_weights,
    fresh,
    random_loss,
    run_network,
    run_oracle,
)
from tests.graphs import Batch, random_batch
from tests.oracle import random_weights

# Forward only: delays of up to 3 inside of loops and between components, an index input, learned and numeric
# initial values, a diagonal loop, a node read late that is in no loop.
FORWARD: dict[str, Any] = {
    "inputs": {"x": {"size": 3}, "k": {"vocab": 4}},
    "nodes": {
        "a": {
            "size": 4,
            "is": "tanh(full(x) + full(x[t-2]) + full(a[t-1]) + full(a[t-3]) + bias)",
            "init": "learned",
        },
        "b": {"size": 4, "is": "sigmoid(full(a[t-2]) + full(k) + full(k[t-1]) + bias)", "init": 0.3},
        "c": {"size": 4, "is": "b * c[t-1] + (1 - b) * tanh(diag(a) + b[t-1])", "init": "learned"},
        "y": {"size": 2, "is": "full(c) + full(c[t-2]) + bias"},
    },
    "outputs": ["y", "a"],
}
# Both directions, look-ahead between components, and a row-wise function of a padded frame.
BOTH: dict[str, Any] = {
    "inputs": {"x": {"size": 3}},
    "nodes": {
        "e": {"size": 4, "is": "norm(full(x) + full(x[t+1]) + full(x[t-1]))"},
        "f": {"size": 4, "is": "tanh(full(e) + full(f[t-1]) + bias)", "init": "learned"},
        "g": {"size": 4, "is": "tanh(full(e) + full(g[t+2]) + full(f[t-1]) + bias)", "init": "learned"},
        "h": {"size": 4, "is": "log(exp(f) + exp(g[t+1])) / sqrt(1 + square(e))"},
        "s": {"size": 4, "is": "softmax(full(h) + full(s[t-1]))", "init": 0.25},
    },
    "outputs": ["s", "h", "e"],
}


def network(source: dict[str, Any], seed: int = 3) -> tuple[Network, dict[str, Tensor]]:
    graph = load_graph(source)
    weights = random_weights(graph, seed)
    net = Network(graph).double()
    copy_weights(net, weights)
    return net, weights


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("resets", [False, True], ids=["unbroken", "resets"])
@pytest.mark.parametrize("cuts", [[0, 4, 9], [0, 1, 2, 3, 9], [0, 8, 9]], ids=str)
def test_chunked_equals_whole_with_gradients_through_the_state(cuts: list[int], resets: bool, lengths: bool):
    net, weights = network(FORWARD)
    batch = random_batch(net.graph, 5, lengths, resets, steps=9, lanes=3)
    chunks = [batch.steps(a, b) for a, b in itertools.pairwise(cuts)]
    want = run_oracle(net.graph, weights, [batch])
    got = run_network(net, chunks)
    assert_same(got, want)
    assert_same_state(got.state, want.state)


@pytest.mark.parametrize("source", [FORWARD, BOTH], ids=["forward", "both"])
def test_many_steps(source: dict[str, Any]):
    """More steps than a runner prepares at once (64), and no multiple of it."""
    net, weights = network(source)
    batch = Batch(random_batch(net.graph, 3, steps=141, lanes=2).inputs, torch.tensor([141, 70]))
    got, want = run_network(net, [batch]), run_oracle(net.graph, weights, [batch])
    assert_same(got, want, source)
    assert_same_state(got.state, want.state, source)


@pytest.mark.parametrize("source", [FORWARD, BOTH], ids=["forward", "both"])
def test_two_chunks_equal_the_oracles_two_chunks(source: dict[str, Any]):
    """Also with look-ahead, where a chunk is no part of a whole: the state still means the same."""
    net, weights = network(source)
    chunks = [random_batch(net.graph, seed, lengths=True, resets=True, steps=6, lanes=3) for seed in (1, 2)]
    got, want = run_network(net, chunks), run_oracle(net.graph, weights, chunks)
    assert_same(got, want, source)
    assert_same_state(got.state, want.state, source)


def test_no_gradient_passes_a_detached_state():
    net, _ = network(FORWARD)
    batch = random_batch(net.graph, 1, steps=6, lanes=3)
    first, second = batch.steps(0, 3), batch.steps(3, 6)
    inputs = fresh(first.inputs)
    _, state = call(net, inputs, None, first)
    outputs, _ = call(net, fresh(second.inputs), state.detach(), second)
    sum(y.sum() for y in outputs.values()).backward()
    assert inputs["x"].grad is None or not inputs["x"].grad.any()

    inputs = fresh(first.inputs)
    _, state = call(net, inputs, None, first)
    outputs, _ = call(net, fresh(second.inputs), state, second)
    sum(y.sum() for y in outputs.values()).backward()
    assert inputs["x"].grad.any(), "without detach there is one"


def test_state_reset_is_a_reset_at_the_next_step():
    net, _ = network(FORWARD)
    batch = random_batch(net.graph, 1, steps=8, lanes=3)
    first, second = batch.steps(0, 4), batch.steps(4, 8)
    mask = torch.tensor([True, False, True])
    resets = torch.zeros(4, mask.numel(), dtype=torch.bool)
    resets[0] = mask

    _, state = call(net, fresh(first.inputs), None, first)
    by_state, _ = call(net, fresh(second.inputs), state.reset(mask), Batch(second.inputs))
    _, state = call(net, fresh(first.inputs), None, first)
    by_resets, _ = call(net, fresh(second.inputs), state, Batch(second.inputs, resets=resets))
    _, state = call(net, fresh(first.inputs), None, first)
    neither, _ = call(net, fresh(second.inputs), state, Batch(second.inputs))
    for name in by_state:
        torch.testing.assert_close(by_state[name], by_resets[name], rtol=1e-12, atol=1e-12)
        assert not torch.equal(by_state[name][:, mask], neither[name][:, mask])
        torch.testing.assert_close(by_state[name][:, ~mask], neither[name][:, ~mask], rtol=1e-12, atol=1e-12)


def test_a_mask_that_does_not_fit_the_lanes_is_refused():
    net, _ = network(FORWARD)
    batch = random_batch(net.graph, 1, steps=2, lanes=3)
    _, state = call(net, fresh(batch.inputs), None, batch)
    for mask, cause in (
        (torch.ones(2, dtype=torch.bool), "has 3 lanes"),
        (torch.ones(3, 1, dtype=torch.bool), "has 3 lanes"),
        (torch.ones(3), "torch.float32 where a mask belongs"),
        ([True, False, True], "a list where a mask belongs"),
    ):
        with pytest.raises(ConfigError, match=cause):
            state.reset(mask)  # pyright: ignore[reportArgumentType]  a user's mistake


def test_tensors_of_another_model_are_no_state():
    net = Network(load_graph("lstm", input={"size": 3}, classes=5, size=4))
    _, state = net(torch.zeros(2, 6, 3))
    held = state.tensors()
    again = net.load_state(held)
    assert all(torch.equal(again.history[name], state.history[name]) for name in state)
    for wrong, cause in (
        ({}, r"it holds \[\], the network carries"),
        ({**held, "l1/c": torch.zeros(1, 6, 5)}, r"'l1/c' is \[1, 6, 5\], the network carries \[1, 6, 4\]"),
        ({**held, "l2/h": torch.zeros(1, 5, 4)}, r"'l2/h' is \[1, 5, 4\], the network carries \[1, 6, 4\]"),
        ({**held, "l1/h": torch.zeros(4)}, r"'l1/h' is \[4\], the network carries"),
    ):
        with pytest.raises(ConfigError, match=cause):
            net.load_state(wrong)


def test_networks_and_states_say_what_they_are():
    net = Network(load_graph("lstm", input={"size": 3}, classes=5, size=4))
    count = sum(p.numel() for p in net.parameters())
    assert repr(net) == f"Network(x [T, B, 3] -> logits [T, B, 5]; {count} weights)"
    _, state = net(torch.zeros(2, 6, 3))
    carried = ", ".join(f"{name} [1, 6, 4]" for name in ("l1/h", "l1/c", "l2/h", "l2/c"))
    assert repr(state) == f"State([delay, B, units]: {carried})"


def test_gradient_of_a_learned_start_after_state_reset():
    """A lane that state.reset() started anew begins from the learned value, and gives it its gradient."""
    net, weights = network(FORWARD)
    batch = random_batch(net.graph, 1, steps=6, lanes=3)
    first, second = batch.steps(0, 3), batch.steps(3, 6)
    lanes = batch.inputs["x"].shape[1]
    resets = torch.zeros(3, lanes, dtype=torch.bool)
    resets[0] = True
    want = run_oracle(net.graph, weights, [first, Batch(second.inputs, resets=resets)])

    net.zero_grad()
    y1, state = call(net, fresh(first.inputs), None, first)
    y2, _ = call(net, fresh(second.inputs), state.reset(torch.ones(lanes, dtype=torch.bool)), second)
    random_loss({name: torch.cat([y1[name], y2[name]]) for name in y1}, 0).backward()
    for name, gradient in net.grads().items():
        torch.testing.assert_close(gradient, want.tensors[f"grad {name}"], rtol=1e-9, atol=1e-9, msg=name)


POISON = [float("nan"), float("inf"), -1e300]


@pytest.mark.parametrize("poison", POISON, ids=str)
@pytest.mark.parametrize("source", [FORWARD, BOTH], ids=["forward", "both"])
def test_padding_does_not_leak(source: dict[str, Any], poison: float):
    """Whatever stands in the inputs at and past a lane's length: results are the same, and finite."""
    net, weights = network(source)
    clean = random_batch(net.graph, 4, steps=6, lanes=3)
    lengths = torch.tensor([3, 6, 0])
    padding = torch.arange(6)[:, None] >= lengths
    poisoned = {
        n: torch.where(padding[..., None], poison, x)
        if x.is_floating_point()
        else torch.where(padding, 99, x)
        for n, x in clean.inputs.items()
    }
    want = run_oracle(net.graph, weights, [Batch(clean.inputs, lengths)])
    got = run_network(net, [Batch(poisoned, lengths)])
    assert_same(got, want, source)
    assert_same_state(got.state, want.state, source)
    for y in got.outputs.values():
        assert not y[padding].any()


def test_poison_in_the_padding_of_the_incoming_gradient():
    """Outputs at padding give no gradient, so whatever gradient arrives there must not matter."""
    net, _ = network(BOTH)
    batch = random_batch(net.graph, 4, steps=6, lanes=3)
    lengths = torch.tensor([3, 6, 1])
    padding = torch.arange(6)[:, None] >= lengths
    results = []
    for bad in (0.0, float("nan")):
        net.zero_grad()
        inputs = fresh(batch.inputs)
        outputs, _ = call(net, inputs, None, Batch(inputs, lengths))
        grads = [torch.where(padding[..., None], bad, torch.ones_like(y)) for y in outputs.values()]
        torch.autograd.backward(list(outputs.values()), grads)
        results.append([inputs["x"].grad, *net.grads().values()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()


@pytest.mark.parametrize(
    "text",
    [
        "log(square(full(x)))",
        "full(x) / sqrt(square(full(x)))",
        "log(square(x - x[t-1] + 0.1))",
        "tanh(log(square(full(x) + 0.1 * full(y[t-1]))))",
        "tanh(log(square(full(x) + 0.1 * full(y[t+1]))))",
        "tanh(full(x) / sqrt(square(x)) + full(y[t-1]))",
    ],
)
def test_padding_meets_no_pole(text: str):
    """Functions without a slope at 0, where padded frames might stand: 0 times infinity is no gradient."""
    source = {"inputs": {"x": {"size": 3}}, "nodes": {"y": {"size": 3, "is": text}}, "outputs": ["y"]}
    net, weights = network(source)
    batch = random_batch(net.graph, 2, steps=6, lanes=3)
    batch = Batch(batch.inputs, torch.tensor([6, 2, 0]))
    assert_same(run_network(net, [batch]), run_oracle(net.graph, weights, [batch]), source)


def test_lanes_without_any_frame():
    net, weights = network(BOTH)
    batch = random_batch(net.graph, 2, steps=4, lanes=2)
    empty = Batch({"x": torch.full_like(batch.inputs["x"], float("nan"))}, torch.tensor([0, 0]))
    outputs, state = call(net, fresh(empty.inputs), None, empty)
    sum(y.sum() for y in outputs.values()).backward()
    assert not any(y.any() for y in outputs.values())
    assert not any(g.any() for g in net.grads().values() if g is not None)
    assert_same_state(state, oracle.run(net.graph, weights, empty.inputs, lengths=empty.lengths)[1])
