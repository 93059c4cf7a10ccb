"""Precision and repeatability: float32 against the oracle, autocast, equal runs, one backward only."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from framework import Network, load_graph
from tests import oracle
from tests.compare import copy_weights, random_loss
from tests.graphs import random_batch
from tests.oracle import random_weights

NORMED: dict[str, Any] = {
    "inputs": {"x": {"size": 8}},
    "nodes": {
        "l1": {"cell": "lstm", "size": 16, "in": "x"},
        "l2": {"cell": "gru", "size": 16, "in": "l1"},
        "n": {"size": 16, "is": "tanh(norm(full(l2) + full(n[t-1])))"},
        "y": {"size": 5, "is": "full(n) + bias"},
    },
    "outputs": ["y", "l1"],
}


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
def test_float32_error_at_most_twice_that_of_a_plain_loop_at_each_step(lengths: bool):
    """Relative to float64; the plain loop is the oracle in float32: eager torch, step after step."""
    graph = load_graph(NORMED)
    weights = random_weights(graph, 0, scale=1.0)
    batch = random_batch(graph, 0, lengths=lengths, steps=60)
    single = {n: w.detach().float().requires_grad_() for n, w in weights.items()}
    x32 = batch.inputs["x"].detach().float().requires_grad_()
    exact = {n: w.detach().double().requires_grad_() for n, w in single.items()}
    x64 = x32.detach().double().requires_grad_()
    net = Network(graph)
    copy_weights(net, single)
    x_net = x32.detach().clone().requires_grad_()

    want, _ = oracle.run(graph, exact, {"x": x64}, lengths=batch.lengths)
    plain, _ = oracle.run(graph, single, {"x": x32}, lengths=batch.lengths)
    got, _ = net(x_net, lengths=batch.lengths)
    for outputs in (want, plain, got):
        random_loss(outputs, 0).backward()
    epsilon = torch.finfo(torch.float32).eps
    for name in want:
        ours = (got[name].double() - want[name]).abs().amax((1, 2))
        theirs = (plain[name].double() - want[name]).abs().amax((1, 2))
        # One rounding of the value is allowed to both: at single steps the plain loop may be exact by luck.
        floor = epsilon * want[name].abs().amax((1, 2))
        assert (ours <= 2 * torch.maximum(theirs, floor)).all(), (name, ours, theirs)
    grads = [("x", x_net.grad, x32.grad, x64.grad)]
    grads += [(n, g, single[n].grad, exact[n].grad) for n, g in net.grads().items()]
    for name, ours, theirs, true in grads:
        ours, theirs = (ours.double() - true).abs().max(), (theirs.double() - true).abs().max()
        assert ours <= 2 * max(theirs, epsilon * true.abs().max()), (name, ours, theirs)


def test_autocast_leaves_the_network_in_float32():
    net = Network(load_graph(NORMED))
    x = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(0))
    results = []
    for enabled in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs, state = net(x)
            loss = random_loss(outputs, 0)
        loss.backward()
        results.append([*outputs.values(), *(state[n] for n in state.keys()), *net.grads().values()])
    for plain, cast in zip(*results, strict=True):
        assert cast.dtype == torch.float32
        assert torch.equal(plain, cast)


def test_autocast_takes_a_low_precision_input():
    """A layer before the network hands it bf16 under autocast: it computes in its own dtype all the same."""
    net = Network(load_graph(NORMED))
    x = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = net(x)
    want, _ = net(x.float())
    for name in want:
        assert y[name].dtype == torch.float32
        assert torch.equal(y[name], want[name])


def test_double_backward_is_refused_clearly():
    net = Network(load_graph(NORMED))
    x = torch.randn(4, 2, 8, requires_grad=True)
    outputs, _ = net(x)
    (first,) = torch.autograd.grad(outputs["y"].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"(?i)twice|double backward|once_differentiable|second"):
        first.square().sum().backward()


def test_two_runs_are_equal_to_the_bit():
    graph = load_graph(NORMED)
    batch = random_batch(graph, 0, lengths=True, resets=True, steps=12)
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        net = Network(graph)
        x = batch.inputs["x"].detach().float().requires_grad_()
        outputs, state = net(x, lengths=batch.lengths, resets=batch.resets)
        random_loss(outputs, 0).backward()
        results.append([*outputs.values(), *(state[n] for n in state.keys()), x.grad, *net.grads().values()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_a_second_backward_after_new_forwards_adds_up():
    """Gradients accumulate over calls, as a trainer with several micro-batches needs."""
    net = Network(load_graph(NORMED))
    x = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0))
    net(x)[0]["y"].sum().backward()
    once = {n: g.clone() for n, g in net.grads().items()}
    net(x)[0]["y"].sum().backward()
    for name, gradient in net.grads().items():
        torch.testing.assert_close(gradient, 2 * once[name])


def test_forward_needs_no_gradient():
    net = Network(load_graph(NORMED))
    x = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        quiet, _ = net(x)
    loud, _ = net(x)
    for name in quiet:
        assert not quiet[name].requires_grad
        assert torch.equal(quiet[name], loud[name])
