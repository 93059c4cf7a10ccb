"""Every function of the language, in a node of its own and inside a loop: oracle and gradcheck."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from framework import Network, load_graph
from framework.ops import POINTWISE
from tests.compare import assert_same, assert_same_state, copy_weights, run_network, run_oracle
from tests.graphs import Batch, random_batch
from tests.oracle import ONE, TWO, random_weights

# What a function is given instead of {0}, any real number, so that it stays inside of its domain.
DOMAIN = {
    "log": "square({0}) + 0.5",
    "log1p": "square({0}) + 0.5",
    "sqrt": "square({0}) + 0.5",
    "reciprocal": "square({0}) + 0.5",
}
# The rest of the language that takes values: rows and structure, sums and products.
OTHERS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / (square({1}) + 0.5)",
    "neg": "-{0}",
    "number": "2.5 * {0} - 0.5",
    "broadcast": "{0} * {1}[1:2] + {0}[0:1]",
    "full": "full({0}) + full({0} * {1})",
    "diag": "diag({0}) + diag({0} * {1})",
    "block": "block({0}, 3) + block({1}, 1)",
    "bias": "{0} * bias + bias(0.5)",
    "norm": "norm({0}) + norm({0} * {1})",
    "softmax": "softmax({0}) * softmax({0} + {1})",
    "stop": "{0} * stop({1})",
    "slice": "concat({0}[1:], {1}[:1])",
    "concat": "full(concat({0}, {1}, {0}[1:2]))",
    "dropout": "dropout({0}, 0.3)",
    "zoneout": "zoneout({0}, {1}, 0.3)",
}


def texts() -> dict[str, str]:
    """The expression of each function over {0} and {1}."""
    made = dict(OTHERS)
    for name, op in POINTWISE.items():
        first = DOMAIN.get(name, "{0}")
        made[name] = f"{name}({first})" if op.arity == 1 else f"{name}({{0}}, {{1}})"
    return made


FORMS = {
    # outside of every loop
    "alone": {"h": "{f} + 0.1 * y"},
    # a loop through the function, twice with undelayed values of the loop
    "loop": {"h": "tanh({f} + full(h[t-1]))", "a": "full(h[t-1]) + x", "b": "0.7 * h[t-1] + full(a) - y"},
    # a loop without a matrix, run ahead in time
    "elementwise": {"h": "0.3 * tanh({f}) + 0.2 * x", "a": "diag(h[t+1]) + x", "b": "0.7 * h[t+1] - y"},
}


def graph_of(name: str, form: str) -> dict[str, Any]:
    arguments = ("x", "y") if form == "alone" else ("a", "b")
    nodes = {
        node: text.replace("{f}", f"({texts()[name].format(*arguments)})")
        for node, text in FORMS[form].items()
    }
    return {
        "inputs": {"x": {"size": 3}, "y": {"size": 3}},
        "nodes": {node: {"size": 3, "is": text, "init": "learned"} for node, text in nodes.items()},
        "outputs": ["h"],
    }


def made(source: dict[str, Any], seed: int = 1) -> tuple[Any, Network, dict[str, torch.Tensor], Batch]:
    graph = load_graph(source)
    weights = random_weights(graph, seed)
    net = Network(graph).double()
    copy_weights(net, weights)
    return graph, net, weights, random_batch(graph, seed, lengths=True, resets=True, steps=5, lanes=3)


def test_the_oracle_knows_every_function_of_the_table():
    assert POINTWISE.keys() <= ONE.keys() | TWO.keys()


CASES = [(name, form, False) for name in texts() for form in FORMS]
CASES += [(name, form, True) for name in ("dropout", "zoneout") for form in FORMS]


@pytest.mark.parametrize(("name", "form", "training"), CASES)
def test_function_equals_oracle(name: str, form: str, training: bool):
    source = graph_of(name, form)
    graph, net, weights, batch = made(source)
    net.train(training)
    got = run_network(net, [batch])
    want = run_oracle(graph, weights, [batch], training=training, mask_seeds=[net.seed])
    assert_same(got, want, source)
    assert_same_state(got.state, want.state, source)


# stop's gradient is no derivative (that is what it is for): the oracle's detach is its test.
@pytest.mark.parametrize("form", ["alone", "loop"])
@pytest.mark.parametrize("name", sorted(texts().keys() - {"stop"}))
def test_gradcheck(name: str, form: str):
    """Finite differences through the whole network: independent of every derivative written by hand."""
    _, net, _, batch = made(graph_of(name, form))
    net.eval()
    parameters = list(net.parameters())
    batch = batch.steps(0, 3)
    resets, lengths = batch.resets[:, :2], torch.tensor([3, 2])

    def forward(x: torch.Tensor, y: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return net({"x": x, "y": y}, lengths=lengths, resets=resets)[0]

    given = [batch.inputs[n][:, :2].detach().clone().requires_grad_() for n in "xy"]
    torch.autograd.gradcheck(forward, (*given, *parameters), eps=1e-6, atol=1e-6, rtol=1e-5)


# Functions with a corner -> (where, torch's slope there).
CORNERS = {
    "relu": (torch.relu, 0.0, 0.0),
    "abs": (torch.abs, 0.0, 0.0),
    "sign": (torch.sign, 0.0, 0.0),
    "elu": (torch.nn.functional.elu, 0.0, 1.0),
    "hard_tanh": (torch.nn.functional.hardtanh, 1.0, 0.0),
    "hard_sigmoid": (torch.nn.functional.hardsigmoid, 3.0, 0.0),
}


@pytest.mark.parametrize("read", ["x", "x + 0.5 * h[t-1]"], ids=["outside", "inside"])
@pytest.mark.parametrize("name", CORNERS)
def test_slope_at_the_corner_is_torchs(name: str, read: str):
    """The same inside and outside of a loop, where other code computes it: inputs do hold exact zeros."""
    function, corner, slope = CORNERS[name]
    net = Network(
        {"inputs": {"x": {"size": 2}}, "nodes": {"h": {"size": 2, "is": f"{name}({read})"}}, "outputs": ["h"]}
    )
    for sign in (1, -1) if name.startswith("hard") else (1,):
        x = torch.full((1, 3, 2), sign * corner, requires_grad=True)
        y, _ = net(x)
        y.sum().backward()
        torch.testing.assert_close(y.detach(), function(x.detach()))
        assert (torch.zeros_like(x) if x.grad is None else x.grad).eq(slope).all(), x.grad


@pytest.mark.parametrize("name", ["minimum", "maximum"])
@pytest.mark.parametrize("read", ["x", "x + 0.5 * h[t-1]"], ids=["outside", "inside"])
def test_equal_arguments_share_the_gradient(name: str, read: str):
    nodes = {"h": {"size": 2, "is": f"{name}({read}, z)"}}
    net = Network({"inputs": {"x": {"size": 2}, "z": {"size": 2}}, "nodes": nodes, "outputs": ["h"]})
    x, z = (torch.ones(1, 3, 2, requires_grad=True) for _ in range(2))
    net({"x": x, "z": z})[0].sum().backward()
    assert (x.grad == 0.5).all() and (z.grad == 0.5).all()
