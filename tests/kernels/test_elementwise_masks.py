"""Dropout and zoneout in loops that `elementwise` runs: masks are made in the kernel, and never stored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph
from framework.runners.triton_elementwise import ElementwiseLoop
from tests.compare import assert_same, copy_weights, run_network, run_oracle
from tests.graphs import random_batch
from tests.oracle import random_weights

TOLERANCE = 1e-8  # in float64: tanh near 0 is a polynomial that errs by 2e-10


def graph_of(nodes: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": [list(nodes)[-1]]}


def node(text: str, size: int = 5, **more: Any) -> dict[str, Any]:
    return {"size": size, "is": text, **more}


NEW = "tanh(full(x) + diag(h[t-1]) + bias)"
GRAPHS: dict[str, dict[str, Any]] = {
    "dropout": {"h": node("tanh(full(x) + dropout(diag(h[t-1]), 0.3))")},
    "zoneout": {"h": node(f"zoneout({NEW}, h[t-1], 0.3)", init="learned")},
    "both": {
        "f": node("sigmoid(full(x) + diag(c[t-1]) + bias)"),
        "c": node("zoneout(f * c[t-1] + dropout((1 - f) * tanh(full(x)), 0.4), c[t-1], 0.9)"),
    },
    "against time": {
        "h": node("zoneout(tanh(full(x) + diag(h[t+1])), h[t+2], 0.5) + dropout(h[t+1], 0.6) * 0.3")
    },
    "far": {"h": node("tanh(full(x) + diag(dropout(h[t-6], 0.2)) + zoneout(h[t-1], h[t-3], 0.3))")},
    "one mask for all units": {
        "g": node("dropout(tanh(full(x)), 0.5)", 1),
        "h": node("tanh(full(x) + g * h[t-1] + dropout(h[t-1] * 0.5, 0.2))"),
    },
    "two loops": {
        "h": node(f"zoneout({NEW}, h[t-1], 0.3)"),
        "k": node("dropout(tanh(full(h) + diag(k[t-1])), 0.25)", 4),
    },
    "one unit": {"h": node(f"zoneout({NEW}, h[t-1], 0.3)", 1)},
    "certain": {"h": node(f"dropout(zoneout({NEW}, h[t-1], 0), 0)")},
}


def network(name: str, runner: str, kind: torch.dtype = torch.float64) -> Network:
    return Network(load_graph(graph_of(GRAPHS[name])), runner=runner).to(kind)


@pytest.mark.parametrize("cut", range(4), ids=["plain", "lengths", "resets", "both"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", GRAPHS)
def test_same_as_the_oracle(name: str, training: bool, cut: int):
    """Outputs and gradients; training draws the masks that the oracle draws from the same seed."""
    graph = load_graph(graph_of(GRAPHS[name]))
    net = network(name, "elementwise").train(training)
    assert all(isinstance(loop, ElementwiseLoop) for loop in net.loops)
    weights = random_weights(graph, cut)
    copy_weights(net, weights)
    batch = random_batch(graph, cut, lengths=bool(cut & 1), resets=bool(cut & 2), steps=9, lanes=13)
    torch.manual_seed(cut)
    got = run_network(net, [batch])
    want = run_oracle(graph, weights, [batch], training=training, mask_seeds=[net.seed])
    assert_same(got, want, graph_of(GRAPHS[name]), TOLERANCE)


@pytest.mark.parametrize("name", ["zoneout", "both", "far"])
def test_masks_of_two_chunks(name: str):
    """Each chunk has a seed of its own, in the backward, too."""
    graph = load_graph(graph_of(GRAPHS[name]))
    nets = [network(name, runner) for runner in ("torch", "elementwise")]
    nets[1].load_state_dict(nets[0].state_dict())
    batch = random_batch(graph, 1, resets=True, steps=9, lanes=5)
    found = []
    for net in nets:
        torch.manual_seed(5)
        found.append(run_network(net, [batch.steps(0, 4), batch.steps(4, 9)]))
    assert_same(found[1], found[0], None, TOLERANCE)


def test_a_new_forward_draws_new_masks():
    net = network("dropout", "elementwise")
    x = torch.ones(6, 40, 3, dtype=torch.float64)
    with torch.no_grad():
        first, second = net(x)[0], net(x)[0]
        assert not torch.equal(first, second)
        net.eval()
        assert torch.equal(net(x)[0], net(x)[0])


def kept_bytes(net: Network, x: Tensor) -> int:
    """Bytes of all that the backward keeps, each memory once."""
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        memory = saved.untyped_storage()
        kept[memory.data_ptr()] = memory.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        y, _ = net(x)
    y.sum().backward()
    return sum(kept.values())


ONLY_IN_LOOPS = [name for name in GRAPHS if name != "one mask for all units"]


@pytest.mark.parametrize("name", ONLY_IN_LOOPS)
def test_no_mask_is_stored(name: str, monkeypatch: pytest.MonkeyPatch):
    """None is made outside, and training keeps no more than a run in which masks are plain numbers."""
    x = torch.randn(8, 16, 3, dtype=torch.float64)
    numbers, training = [kept_bytes(network(name, "torch").train(on), x) for on in (False, True)]
    assert training > numbers + 0.9 * 8 * 16 * 8, "the torch runner stores masks: this is seen"
    monkeypatch.setattr("framework.call.mask_values", None)
    numbers, training = [kept_bytes(network(name, "elementwise").train(on), x) for on in (False, True)]
    assert training == numbers


def test_a_mask_that_something_outside_reads_is_made_there():
    """One mask for all units is hoisted by itself: the loop reads its product."""
    net = network("one mask for all units", "elementwise")
    kinds = {net.plan.ops[at].value for at in net.unread_maps}
    assert kinds == {0.2}
