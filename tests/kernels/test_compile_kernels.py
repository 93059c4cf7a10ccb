"""torch.compile of networks whose loops or products are Triton kernels, under the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from framework import Network, call_inputs, load_graph

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


class Reads(TorchDispatchMode):
    """Which operators took values of tensors into Python: on a device each is a wait for it."""

    WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.WAITS:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("more", "name", "draws"),
    [
        ({"runner": "elementwise"}, "sru", 0),
        ({"runner": "elementwise"}, "zoneout", 1),
        ({"runner": "persistent"}, "gru", 0),
        ({"runner": "persistent"}, "recurrent dropout", 1),
        ({"products": "triton"}, "gru", 0),
    ],
)
def test_no_value_is_read_on_the_way_to_kernels(
    more: dict[str, str], name: str, draws: int, monkeypatch: pytest.MonkeyPatch
):
    """But the seed of random masks, which is drawn on the CPU. What is checked on a CPU alone is left out."""
    net = network(GRAPHS[name], **more)
    monkeypatch.setattr(call_inputs, "may_look", lambda x: False)
    with Reads() as reads:
        results(net, net, batch(), lengths=torch.tensor([STEPS, 4, 0]), resets=torch.rand(STEPS, LANES) < 0.3)
    assert reads.seen == ["aten._local_scalar_dense.default"] * 2 * draws
