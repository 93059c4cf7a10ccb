"""The `persistent` runner beside its numbers: repeats, frozen weights, copies, refusals; what tests see."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from framework import Network, load_graph
from framework.choose import choose
from framework.errors import ConfigError
from framework.machine import machine
from framework.plan import make_plan
from framework.runners import triton_persistent
from framework.runners.triton_persistent import PersistentLoop
from kernels.persistent_source import Kernel
from tests.compare import assert_same, copy_weights, run_network, run_oracle
from tests.graphs import random_batch
from tests.kernels.persistent_graphs import network, of_cell, prepared
from tests.oracle import random_weights

NOISY = {
    "inputs": {"x": {"size": 3}},
    "nodes": {
        "h": {
            "size": 5,
            "init": "learned",
            "is": "zoneout(tanh(full(x) + full(h[t-1]) + full(h[t-6]) + diag(h[t-2]) + bias), h[t-1], 0.3)",
        }
    },
    "outputs": ["h"],
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with prepared():
        yield


def pair(source: dict[str, Any]) -> tuple[Network, Network]:
    """The same network with the torch and the persistent runner."""
    torch.manual_seed(0)
    nets = network(source, "torch"), network(source)
    nets[1].load_state_dict(nets[0].state_dict())
    return nets


def test_equal_calls_give_equal_bits():
    """Several tiles of lanes, sums over lanes and steps, masks; no order is left to chance."""
    _, net = pair(NOISY)
    net.float()
    batch = random_batch(net.graph, 3, True, True, steps=7, lanes=35)
    found = []
    for _ in range(2):
        torch.manual_seed(4)
        x = batch.inputs["x"].detach().float().requires_grad_()
        net.zero_grad()
        y, _ = net(x, lengths=batch.lengths, resets=batch.resets)
        y.square().sum().backward()
        found.append({"y": y, "x": x.grad} | net.grads())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_frozen_weights_and_no_gradient():
    torch_net, net = pair(of_cell("gru", 5))
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        y = net(x)[0]
        assert not y.requires_grad
        torch.testing.assert_close(y, torch_net(x)[0])
    for some in (net, torch_net):
        some.requires_grad_(False)
    x.requires_grad_()
    slopes = [torch.autograd.grad(some(x)[0].sum(), x)[0] for some in (net, torch_net)]
    torch.testing.assert_close(*slopes)
    assert all(w.grad is None for w in net.parameters())
    assert not net(x.detach())[0].requires_grad


def test_only_some_outputs_have_gradients():
    """Of three outputs one is used, then another: each has a backward of its own."""
    source = of_cell("lstm_peephole", 4) | {"outputs": ["l", "l/c", "l/f"]}
    for name in ("l/c", "l/f"):
        grads = []
        for net in pair(source):
            x = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            net(x)[0][name].square().sum().backward()
            grads.append(net.grads())
        for key, g in grads[0].items():
            zeros = torch.zeros_like(net.weights()[key])
            want, got = (zeros if g is None else g for g in (g, grads[1][key]))
            torch.testing.assert_close(got, want)


def test_a_copied_network_runs():
    net = pair(of_cell("lstm", 5))[1]
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    y = net(x)[0]
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x)[0], y)
        other(x)[0].sum().backward()


def test_on_a_cpu_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    net = pair(of_cell("lstm", 2))[1]
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ConfigError, match="'persistent' runs on GPUs, the network is on a CPU"):
        net(torch.randn(2, 1, 3, dtype=torch.float64))


def test_no_second_derivative():
    net = pair(of_cell("lstm", 2))[1]
    x = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="double backward: loops and hoisted products have first deriv"):
        torch.autograd.grad(net(x)[0].sum(), x, create_graph=True)


def test_any_strides_go_in():
    """Inputs, gradients and states that are parts of others, turned, or one number for all."""
    source = {
        "inputs": {"x": {"size": 4}, "y": {"size": 1}},
        "nodes": {"h": {"size": 4, "is": "tanh(full(h[t-1]) + x + y + x[0:1])"}},
        "outputs": ["h"],
    }
    found = []
    for net in pair(source):
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(3, 5, 9, dtype=torch.float64, generator=generator).requires_grad_()
        turned, single = x.transpose(0, 1)[..., 1:9:2], x[:1, :3, :1].expand(5, 3, 1)
        out, _ = net({"x": turned, "y": single})
        out.transpose(0, 2).sum(1, keepdim=True).expand(4, 3, 5).square().sum().backward()
        found.append((out.detach(), x.grad))
    torch.testing.assert_close(found[1], found[0])


def test_what_a_plan_takes():
    def choice(cell: str, units: int, dtype: str = "bf16", wanted: str = "auto", chip: str = "sm_90") -> Any:
        (c, *_) = make_plan(load_graph(of_cell(cell, units))).components
        return choose(c, wanted, machine("cuda", chip, dtype))

    assert choice("lstm", 128).runner == "persistent" and choice("gru", 64, "fp32").runner == "persistent"
    assert choice("lstm", 128, wanted="torch").runner == "torch"
    assert choice("sru", 128).runner == "elementwise"
    assert choice("sru", 128, wanted="persistent").runner == "persistent"
    assert choice("lstm", 16, "fp64").runner == "torch"
    (note,) = (n for n in choice("lstm", 16, "fp64").notes if n.startswith("persistent"))
    assert note == "persistent: float64 has no fast products"
    (c, *_) = make_plan(load_graph(of_cell("lstm", 9))).components
    assert choose(c).runner == "torch-fused" and choose(c, "persistent").runner == "persistent"


# Mistakes that a comparison with the oracle must see. None writes where it may not.

Change = tuple[str, str]
MUTANTS: dict[str, tuple[str, Change]] = {
    "reads cross resets": ("forward", ("tl.where(keep_1, back_h_1,", "tl.where(keep_1 | True, back_h_1,")),
    "the ring is one step off": ("forward", ("back_h_2 = back_h_1", "back_h_2 = h")),
    "a far read is one step off": (
        "forward",
        ("h_prev6 = tl.load(p_node14 + (o_row)", "h_prev6 = tl.load(p_node14 + (o_row + B)"),
    ),
    "the mask of another step": ("forward", ("o_row * 5 + u5", "(o_row + B) * 5 + u5")),
    "inputs are not loaded ahead": ("forward", ("tl.minimum(s + 1, T - 1)", "tl.minimum(s, T - 1)")),
    "another mask in the backward": ("backward", ("random_bits(seed,", "random_bits(seed + 1,")),
    "gradients cross resets": ("backward", ("tl.where(keep_2,", "tl.where(keep_2 | True,")),
    "sent to another step": ("backward", ("o_row + 6 * B", "o_row + 5 * B")),
    "a sum of the last tile alone": ("backward", ("p_sums5 + i_tile", "p_sums5 + 0")),
    "a weight is not turned": ("backward", ("(0 + k5) * 5 + u5", "(0 + u5) * 5 + k5")),
    "the last step's adjoints are lost": ("backward", ("tl.range(0, T,", "tl.range(1, T,")),
}


@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_mutants_are_seen(name: str | None, monkeypatch: pytest.MonkeyPatch):
    """A kernel with one mistake differs from the oracle; without any (None) it does not."""
    changed = 0

    def mutated(make: Callable[..., Kernel], old: str, new: str) -> Callable[..., Kernel]:
        def code(*given: Any) -> Kernel:
            nonlocal changed
            made = make(*given)
            changed += old in made.text
            return Kernel(**{**vars(made), "text": made.text.replace(old, new)})

        return code

    if name is not None:
        which, (old, new) = MUTANTS[name]
        make = getattr(triton_persistent, f"{which}_code")
        monkeypatch.setattr(triton_persistent, f"{which}_code", mutated(make, old, new))
    graph = load_graph(NOISY)
    weights = random_weights(graph, 1)
    batch = random_batch(graph, 1, True, True, steps=9, lanes=18)
    net = network(graph)
    assert all(isinstance(loop, PersistentLoop) for loop in net.loops)
    copy_weights(net, weights)
    torch.manual_seed(1)
    got = run_network(net, [batch], 1)
    want = run_oracle(graph, weights, [batch], 1, training=True, mask_seeds=[net.seed])
    assert (name is None) == (changed == 0), "the text to change is not there"
    if name is None:
        assert_same(got, want, NOISY)
    else:
        with pytest.raises(AssertionError, match="off by"):
            assert_same(got, want)
