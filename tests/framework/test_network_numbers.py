"""Precision and repeatability: float32 against the oracle, autocast, equal runs, one backward only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph
from tests import oracle
from tests.compare import copy_weights, random_loss
from tests.graphs import random_batch
from tests.oracle import random_weights

Values = dict[str, Tensor]

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


def results_of(run: Callable[..., Any], weights: dict[str, Tensor], x: Tensor, ends: Tensor | None) -> Values:
    """Outputs and gradients of a random loss, of `run(weights, x, ends) -> outputs, gradients by name`."""
    given = x.clone().requires_grad_()
    outputs, grads = run(weights, given, ends)
    random_loss(outputs, 0).backward()
    return {**outputs, "grad x": given.grad, **{f"grad {n}": g for n, g in grads().items()}}


@pytest.mark.parametrize("ends", [None, [30, 19, 25, 6]], ids=["full", "lengths"])
def test_float32_error_at_most_twice_that_of_a_plain_loop_at_each_step(ends: list[int] | None):
    """Against float64; the plain loop is the oracle in float32: eager torch, one step after another.

    Errors are root mean squares over units, lanes and five draws, so that luck averages out. Few lanes: over
    many, a sum of sums is more exact than one long product for a weight's gradient, whoever computes it.
    """
    graph, steps, lanes = load_graph(NORMED), 30, 4
    net = Network(graph)
    lengths = None if ends is None else torch.tensor(ends)

    def network(weights: dict[str, Tensor], x: Tensor, ends: Tensor | None):
        copy_weights(net, weights)
        net.zero_grad()
        return net(x, lengths=ends)[0], net.grads

    def plain(weights: dict[str, Tensor], x: Tensor, ends: Tensor | None):
        own = {name: w.clone().requires_grad_() for name, w in weights.items()}
        return oracle.run(graph, own, {"x": x}, lengths=ends)[0], lambda: {n: w.grad for n, w in own.items()}

    squares: dict[str, Any] = {}  # name -> summed squares of our error, the plain loop's, the value
    for seed in range(5):
        single = {name: w.detach().float() for name, w in random_weights(graph, seed).items()}
        double = {name: w.double() for name, w in single.items()}
        x = torch.randn(steps, lanes, 8, generator=torch.Generator().manual_seed(seed))
        exact = results_of(plain, double, x.double(), lengths)
        theirs = results_of(plain, single, x, lengths)
        ours = results_of(network, single, x, lengths)
        assert ours.keys() == exact.keys()
        for name, want in exact.items():
            dims = (1, 2) if want.dim() == 3 else tuple(range(want.dim()))  # sequences: step by step
            rows = torch.stack(
                [
                    (y.double() - z).square().sum(dims).detach()
                    for y, z in ((ours[name], want), (theirs[name], want), (want, 0.0))
                ]
            )
            squares[name] = squares.get(name, 0) + rows
    # Nobody is better than the rounding of the result itself: uniform in half a unit in the last place.
    rounding = torch.finfo(torch.float32).eps / 2 / 3**0.5
    for name, (mine, plain_loop, value) in squares.items():
        allowed = 2 * torch.maximum(plain_loop.sqrt(), rounding * value.sqrt())
        assert (mine.sqrt() <= allowed).all(), f"{name}: {mine.sqrt() / allowed} of what is allowed"


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
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(outputs["y"].square().sum(), x, create_graph=True)
    # A gradient that needs no gradient itself (of a plain sum) must not slip through either.
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(net(x)[0]["y"].sum(), x, create_graph=True)


@pytest.mark.parametrize("runner", ["torch", "compiled"])
def test_functional_call_takes_tensors_that_are_no_parameters(runner: str):
    """Of a network that makes weights, say: gradients go on through them."""
    torch.manual_seed(0)
    net = Network(NORMED, runner=runner).double()
    x = torch.randn(4, 2, 8, dtype=torch.float64)
    factor = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    made = {name: factor * p.detach() for name, p in net.named_parameters()}
    outputs, _ = torch.func.functional_call(net, made, (x,))
    random_loss(outputs, 0).backward()
    with torch.no_grad():
        whole = {name: p.clone() for name, p in net.named_parameters()}
        for p in net.parameters():
            p.mul_(0.5)
    want, _ = net(x)
    random_loss(want, 0).backward()
    for name in want:
        assert torch.equal(outputs[name], want[name]), name
    total = sum((p.grad * whole[name]).sum() for name, p in net.named_parameters() if p.grad is not None)
    torch.testing.assert_close(factor.grad, total, rtol=1e-12, atol=0.0)


def test_two_runs_are_equal_to_the_bit():
    graph = load_graph(NORMED)
    batch = random_batch(graph, 0, lengths=True, resets=True, steps=12, lanes=3)
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


@pytest.mark.parametrize("trained", ["input", "weights", "one weight", "nothing"])
def test_frozen_parts_change_nothing_for_the_others(trained: str):
    """What needs no gradient gets none; the other gradients are those of a net that trains everything."""
    graph = load_graph(NORMED)
    batch = random_batch(graph, 0, lengths=True, resets=True, steps=5, lanes=3)
    results = []
    for frozen in (False, True):
        torch.manual_seed(0)
        net = Network(graph)
        x = batch.inputs["x"].detach().float().requires_grad_(not frozen or trained == "input")
        if frozen:
            for k, parameter in enumerate(net.parameters()):
                parameter.requires_grad_(trained == "weights" or (trained == "one weight" and k == 2))
        outputs, _ = net(x, lengths=batch.lengths, resets=batch.resets)
        if outputs["y"].requires_grad:
            random_loss(outputs, 0).backward()
        results.append({"x": x.grad} | {n: p.grad for n, p in net.named_parameters()})
    everything, some = results
    given = {name for name, gradient in some.items() if gradient is not None}
    expected = {"input": {"x"}, "weights": everything.keys() - {"x"}, "nothing": set()}
    assert given == expected.get(trained, given) and len(given) == len(expected.get(trained, [0]))
    for name in given:
        torch.testing.assert_close(some[name], everything[name])


def test_any_strides_of_input_lengths_and_gradient():
    """Batch-first data turned round, every second feature, and a gradient that is one number everywhere."""
    graph = load_graph(NORMED)
    net = Network(graph)
    wide = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(0))
    resets = (torch.rand(3, 6, generator=torch.Generator().manual_seed(1)) < 0.3).T
    lengths = torch.tensor([6, 9, 3, 9, 4])[::2]
    results = []
    for contiguous in (False, True):
        net.zero_grad()
        leaf = wide.clone().requires_grad_()
        x, r, n = leaf[..., ::2].transpose(0, 1), resets, lengths
        if contiguous:
            x, r, n = x.contiguous(), r.contiguous(), n.contiguous()
        outputs, _ = net(x, lengths=n, resets=r)
        outputs["y"].sum().backward()
        results.append([*outputs.values(), leaf.grad, *(g.clone() for g in net.grads().values())])
    for plain, strided in zip(*results, strict=True):
        torch.testing.assert_close(strided, plain)
