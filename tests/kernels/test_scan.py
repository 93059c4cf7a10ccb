"""The `scan` runner under the interpreter: equal to the oracle, as exact as torch; and compiled."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch

from framework import Network, load_graph, make_plan
from framework.choose import choose
from framework.machine import Machine
from framework.runners.triton_scan import ScanLoop
from tests.compare import assert_same, copy_weights, run_network, run_oracle
from tests.graphs import random_batch
from tests.interpreter import concurrent
from tests.kernels import fast_scan
from tests.kernels.pooled_errors import worse_than_torch
from tests.oracle import random_weights

TOLERANCE = 1e-9  # in float64; what is not exact to it, tanh, stands outside of the loops


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Many parts of time and many programs, and new tensors full of NaN."""
    monkeypatch.setattr("kernels.scan.BT", 4)
    monkeypatch.setattr("kernels.scan.BN", 16)
    fast_scan.install(monkeypatch)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


GRAPHS: dict[str, dict[str, Any]] = {
    "minlstm": {"h": {"cell": "minlstm", "size": 5, "in": "x"}},
    "mingru": {"h": {"cell": "mingru", "size": 5, "in": "x"}},
    "a number": {"h": {"size": 5, "is": "0.05 * full(x) + 0.95 * h[t-1]", "init": 0.3}},
    "a weight": {"h": {"size": 5, "init": "learned", "is": "diag(h[t-1]) - 0.5 * h[t-1] + full(x) + bias"}},
    "zoneout": {"h": {"size": 5, "is": "zoneout(full(x) + bias, h[t-1], 0.6)"}},
    "dropout": {"h": {"size": 5, "is": "tanh(full(x)) + diag(dropout(0.9 * h[t-1], 0.3))"}},
    "one gate": {
        "g": {"size": 1, "is": "sigmoid(full(x))"},
        "h": {"size": 5, "is": "g * h[t-1] + (1 - g) * full(x)"},
    },
    "seen outside": {
        "h": {"size": 5, "is": "0.5 * diag(h[t-1]) + full(x)"},
        "o": {"size": 4, "is": "tanh(full(h[t-1]) + full(h) + full(h[t-3]))"},
    },
    "two nodes": {
        "u": {"size": 5, "is": "0.8 * h[t-1] + full(x)"},
        "h": {"size": 5, "is": "diag(u) + 0.1 * h[t-1]"},
        "o": {"size": 4, "is": "full(u) + full(h)"},
    },
}


def graph_of(name: str, against: bool = False) -> dict[str, Any]:
    nodes = copy.deepcopy(GRAPHS[name])
    for node in nodes.values():
        if "cell" in node:
            node["backward"] = against
        elif against:
            node["is"] = node["is"].replace("t-", "t+")
    return {"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": list(nodes)[-1:]}


def network(source: dict[str, Any]) -> Network:
    net = Network(load_graph(source), runner="scan").double()
    assert [type(loop) for loop in net.loops] == [ScanLoop]
    return net


@pytest.mark.parametrize("cut", range(4), ids=["plain", "lengths", "resets", "both"])
@pytest.mark.parametrize("against", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_same_as_the_oracle(name: str, against: bool, cut: int):
    """Outputs and all gradients; 11 steps are two parts and a rest, 39 or 52 pairs several programs."""
    source = graph_of(name, against)
    graph, net = load_graph(source), network(source)
    weights = random_weights(graph, cut)
    copy_weights(net, weights)
    batch = random_batch(graph, cut, lengths=bool(cut & 1), resets=bool(cut & 2), steps=11, lanes=7)
    torch.manual_seed(cut)
    got = run_network(net, [batch])
    want = run_oracle(graph, weights, [batch], training=True, mask_seeds=[net.seed])
    assert_same(got, want, source, TOLERANCE)


@pytest.mark.parametrize("name", ["minlstm", "a weight", "dropout"])
def test_errors_are_at_most_twice_those_of_torch(name: str, monkeypatch: pytest.MonkeyPatch):
    """Outputs at every step and over all, and all gradients, in three dtypes."""
    monkeypatch.setattr("kernels.scan.BN", 512)
    cases = []
    for against in (False, True):
        source = graph_of(name, against)
        source["inputs"]["x"]["size"] = 32
        source["nodes"]["h"]["size"] = 64
        cases.append((load_graph(source), (1, 2)))  # lengths, resets

    def check(net: Network) -> None:
        assert [type(loop) for loop in net.loops] == [ScanLoop]

    wrong = worse_than_torch("scan", cases, 8, 8, check)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("cuts", [(0, 1, 9), (0, 4, 8, 9)])
def test_carried_state(name: str, cuts: tuple[int, ...]):
    """In chunks of one step, of whole parts, and without training."""
    source = graph_of(name)
    graph, net = load_graph(source), network(source).eval()
    weights = random_weights(graph, 1)
    copy_weights(net, weights)
    batch = random_batch(graph, 2, resets=True, steps=9, lanes=3)
    chunks = [batch.steps(a, b) for a, b in pairwise(cuts)]
    assert_same(run_network(net, chunks), run_oracle(graph, weights, chunks), source, TOLERANCE)


def test_without_a_race():
    """Programs of all parts at once, in a random order."""
    source = graph_of("minlstm")
    net = network(source)
    batch = random_batch(load_graph(source), 3, resets=True, steps=9, lanes=4)
    want = run_network(net, [batch])
    with concurrent(seed=1, policy="random") as run:
        got = run_network(net, [batch])
    assert run.launches == 6
    assert_same(got, want, source, 0.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tanh(full(x) + diag(h[t-1]))", "its steps are not affine in the state, unit by unit"),
        ("full(x) + full(h[t-1])", "its steps are not affine in the state, unit by unit"),
        ("x * h[t-1] + 0.1 * h[t-2]", "it reads its state further back than one step"),
        ("x * h[t-2]", "it reads its state further back than one step"),
        ("0.5 * x * h[t-1] + stop(0.5 * h[t-1])", "it stops a gradient"),
    ],
)
def test_what_it_refuses(text: str, reason: str):
    nodes = {"h": {"size": 3, "is": text}}
    plan = make_plan(
        load_graph({"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": ["h"]}), runner="scan"
    )
    (choice,) = plan.choices
    assert choice.runner == "torch" and choice.notes[0] == f"scan: {reason}"


def test_it_is_chosen_by_name_only():
    (c,) = make_plan(load_graph(graph_of("minlstm"))).components
    gpu = Machine("cuda", "sm_90")
    assert choose(c, "scan", gpu).runner == "scan"
    assert choose(c, "auto", gpu).runner == "elementwise"
    assert "scan" not in str(choose(c, "torch", gpu))


@pytest.mark.parametrize(
    ("chip", "cell"),
    [
        ("sm_90", "minlstm"),
        *((chip, "linear masks") for chip in ("sm_90", "gfx942")),
        # Six kernels each. Other tests compile what is like them, loops without exchange, for these chips.
        *(pytest.param(chip, "linear masks", marks=pytest.mark.slow) for chip in ("sm_80", "sm_100")),
    ],
)
def test_compiled(compiled, chip: str, cell: str):
    """Nothing spills, and no loop but that over parts of time."""
    kernels = compiled(
        "tests.kernels.elementwise_cases:chunk", chip, (), cell=cell, runner="scan", lanes=16, units=512,
        steps=100, dtype="bfloat16", masked=True, seed=7,
    )  # fmt: skip
    names = [k.name for k in kernels]
    assert names[:3] == ["forward_kernel", "carry_kernel", "forward_kernel"]
    assert names[3:] == ["backward_kernel", "carry_kernel", "backward_kernel"]
    for kernel in kernels:
        assert kernel.stack == 0 and kernel.registers <= 128
        assert bool(kernel.loops) == (kernel.name == "carry_kernel")
        assert kernel.grid[:2] == (256, 1 if kernel.name == "carry_kernel" else 4)
