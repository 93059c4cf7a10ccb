"""torch.compile of networks whose loops or products are Triton kernels, under the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from framework import Network, load_graph

STEPS, LANES = 6, 3
GRAPHS: dict[str, dict[str, Any]] = {
    "sru": {"cell": "sru", "size": 5, "in": "x"},
    "indrnn": {"cell": "indrnn", "size": 5, "in": "x"},
    "gru": {"cell": "gru", "size": 5, "in": "x"},
    "zoneout": {"size": 5, "is": "zoneout(tanh(full(x) + diag(h[t-2])), h[t-1], 0.3)"},
    "recurrent dropout": {"size": 5, "is": "tanh(full(x) + full(dropout(h[t-1], 0.3)) + 0.5 * h[t-2])"},
}


def results(run: Any, net: Network, x: Tensor, **more: Any) -> list[Tensor | None]:
    """Outputs, state, gradients of two chunks that carry their state."""
    net.zero_grad()
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    first, state = run(x, **more)
    second, state = run(x, state=state, **more)
    (first.square().sum() + second.sum()).backward()
    return [first, second, *(state[n] for n in state.keys()), x.grad, *net.grads().values()]


def compare(net: Network, x: Tensor, **more: Any) -> None:
    torch._dynamo.reset()
    counters.clear()
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    got, want = results(run, net, x, **more), results(net, net, x, **more)
    assert not counters["graph_break"]
    for g, w in zip(got, want, strict=True):
        assert g is not None and w is not None
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-6)
    torch._dynamo.reset()


def network(node: dict[str, Any], **more: Any) -> Network:
    torch.manual_seed(0)
    return Network(load_graph({"inputs": {"x": {"size": 4}}, "nodes": {"h": node}, "outputs": ["h"]}), **more)


def batch() -> Tensor:
    return torch.randn(STEPS, LANES, 4, generator=torch.Generator().manual_seed(0))


# Dynamo looks at .grad of whatever comes in; a state that carries its history has none.
HISTORY = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@HISTORY
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "lengths and resets"])
@pytest.mark.parametrize(
    ("runner", "name"),
    [("elementwise", "sru"), ("elementwise", "indrnn"), ("elementwise", "zoneout"),
     ("persistent", "gru"), ("persistent", "recurrent dropout")],
)  # fmt: skip
def test_loops(runner: str, name: str, masked: bool):
    net = network(GRAPHS[name], runner=runner)
    assert [c.runner for c in net.plan.choices] == [runner]
    more: dict[str, Tensor] = {}
    if masked:
        resets = torch.zeros(STEPS, LANES, dtype=torch.bool)
        resets[2, 0] = resets[4, 1] = True
        more = {"lengths": torch.tensor([STEPS, 4, 0]), "resets": resets}
    compare(net, batch(), **more)


@HISTORY
def test_hoisted_products_by_kernels():
    net = network({"cell": "gru", "size": 5, "in": "x"}, products="triton")
    assert net.plan.products.by == "triton"
    compare(net, batch())
