"""Networks whose products outside the loops are done by our kernels, against the oracle in float64.

The loops are torch's in both networks that are compared: what differs is the products.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from framework import network
from framework.errors import ConfigError
from framework.load import load_graph
from framework.machine import Machine, machine
from framework.network import Network
from framework.plan import make_plan
from framework.products import ROWS, product_text
from framework.runners import hoisted_products
from framework.runners.hoisted_products import KernelProducts, TorchProducts, products_by
from kernels import gemm, launch
from kernels.gemm import launch_of
from tests import oracle
from tests.kernels.closeness import assert_as_exact_as, poisoned

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
STEPS, LANES = 7, 3
X, K = {"x": {"size": 5}}, {"k": {"vocab": 11}}


def graph_of(inputs: dict[str, Any], nodes: dict[str, Any], *outputs: str) -> dict[str, Any]:
    return {"inputs": inputs, "nodes": nodes, "outputs": list(outputs)}


GRAPHS: dict[str, Any] = {
    "lstm": graph_of(
        X, {"l": {"cell": "lstm", "size": 17, "in": "x"}, "y": {"size": 3, "is": "full(l) + bias"}}, "y"
    ),
    "several sources": graph_of(
        X | K | {"z": {"size": 1}},
        {
            "s": {"size": 6, "is": "sin(full(x))"},
            "h": {"size": 4, "is": "tanh(full(x) + full(s) + full(k) + full(h[t-1]) + diag(z) + bias(0.5))"},
            "y": {"size": 9, "is": "full(h) + full(x[t-2]) + full(k) + 0.25"},
        },
        "y",
        "s",
    ),
    "factors": graph_of(
        X | K,
        {
            "h": {"size": 6, "is": "tanh(0.7 * full(x) + h[t-1] - full(k))"},
            "y": {"size": 4, "is": "bias(0.1) - full(h) - 0.3 * full(x)"},
            "v": {"size": 4, "is": "0.3 * full(k)"},
        },
        "y",
        "v",
    ),
    "indices": graph_of(
        K, {"l": {"cell": "gru", "size": 8, "in": "k"}, "y": {"size": 5, "is": "full(l) + full(k[t-2])"}}, "y"
    ),
    "two directions": graph_of(
        X,
        {
            "f": {"cell": "lstm", "size": 6, "in": "x"},
            "b": {"size": 6, "is": "tanh(full(x) + full(b[t+1]) + bias)"},
            "y": {"size": 4, "is": "full(f) + full(b) + bias"},
        },
        "y",
    ),
}


def inputs_of(net: Network, dtype: torch.dtype) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, spec in net.graph.inputs.items():
        if spec.vocab is not None:
            out[name] = torch.randint(spec.vocab, (STEPS, LANES))
        else:
            out[name] = torch.randn(STEPS, LANES, spec.size).to(dtype)
    return out


def outcome(net: Network, inputs: dict[str, Tensor], dy: dict[str, Tensor], where: Any) -> dict[str, Tensor]:
    """Outputs and all gradients of a network."""
    net.zero_grad()
    given = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in inputs.items()}
    y, _ = net(given if len(given) > 1 else next(iter(given.values())), **where)
    y = y if isinstance(y, dict) else dict(zip(net.graph.outputs, [y], strict=True))
    torch.autograd.backward(list(y.values()), [dy[name] for name in y])
    out = {f"out {name}": v.detach() for name, v in y.items()}
    out |= {f"grad input {name}": x.grad for name, x in given.items() if x.grad is not None}
    return out | {f"grad {name}": g for name, g in net.grads().items() if g is not None}


def exact_outcome(
    net: Network, inputs: dict[str, Tensor], dy: dict[str, Tensor], where: Any
) -> dict[str, Tensor]:
    """The same by the oracle in float64, from the same rounded numbers."""
    weights = {name: w.double().requires_grad_() for name, w in net.weights().items()}
    given = {
        n: x.double().requires_grad_() if x.is_floating_point() else x.clone() for n, x in inputs.items()
    }
    y, _ = oracle.run(net.graph, weights, given, None, **where)
    torch.autograd.backward(list(y.values()), [dy[name].double() for name in y])
    out = {f"out {name}": v.detach() for name, v in y.items()}
    out |= {f"grad input {name}": x.grad for name, x in given.items() if x.grad is not None}
    return out | {f"grad {name}": w.grad for name, w in weights.items() if w.grad is not None}


@pytest.fixture
def no_torch_products(monkeypatch: pytest.MonkeyPatch):
    """Kernels that leave a product to torch fail; the network that is compared is run before."""

    def forbid() -> None:
        def never(*_: Any) -> Any:
            raise AssertionError("a product by torch")

        for name in ("whole", "add", "add_rows", "dx", "dw", "dbias", "dtable"):
            monkeypatch.setattr(TorchProducts, name, never)

    return forbid


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GRAPHS)
def test_network_equals_the_oracle(name, dtype, no_torch_products):
    """Three chunks: plain, with lengths, with lengths and resets.

    Outputs, and gradients, are compared together, each relative to its scale: the largest of a few numbers'
    errors is a matter of luck, also torch's.
    """
    torch.manual_seed(len(name))
    ours = Network(GRAPHS[name], runner="torch", products="triton").to(dtype)
    theirs = Network(GRAPHS[name], runner="torch", products="torch").to(dtype)
    theirs.load_state_dict(ours.state_dict())
    lengths, resets = torch.tensor([STEPS, 1, STEPS - 2]), torch.rand(STEPS, LANES) < 0.2
    runs = []
    for where in ({}, {"lengths": lengths}, {"lengths": lengths, "resets": resets}):
        outputs = ours.graph.outputs.items()
        sizes = {out: ours.graph.nodes[node].size for out, node in outputs}
        dy = {out: torch.randn(STEPS, LANES, size).to(dtype) for out, size in sizes.items()}
        runs.append((inputs_of(ours, dtype), dy, where))
    exact = [exact_outcome(ours, *run) for run in runs]
    reference = [outcome(theirs, *run) for run in runs]
    no_torch_products()
    result = [outcome(ours, *run) for run in runs]
    for kind in ("out", "grad"):
        assert_as_exact_as(*(together(some, exact, kind) for some in (result, reference, exact)))


def together(runs: list[dict[str, Tensor]], exact: list[dict[str, Tensor]], kind: str) -> Tensor:
    """All numbers of tensors of a kind, each tensor relative to the largest number that it should hold."""
    assert all(run.keys() == right.keys() for run, right in zip(runs, exact, strict=True))
    assert all(run[key].shape == exact[0][key].shape for run in runs for key in run)
    scales = {key: max(float(run[key].abs().max()) for run in exact) for key in exact[0]}
    parts = [run[key].double().flatten() / scales[key] for run in runs for key in run if key.startswith(kind)]
    return torch.cat(parts)


def test_equal_calls_give_equal_bits():
    torch.manual_seed(0)
    net = Network(GRAPHS["several sources"], products="triton")
    inputs = inputs_of(net, torch.float32)
    dy = {"y": torch.randn(STEPS, LANES, 9), "s": torch.randn(STEPS, LANES, 6)}
    first = outcome(net, inputs, dy, {})
    again = outcome(net, inputs, dy, {})
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coef", [1.0, -0.7])
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_products_into_columns(dtype, coef, fresh, with_bias):
    """Both ways to do a product agree, whatever stands in the columns, and touch nothing else."""
    torch.manual_seed(1)
    x, w = torch.randn(37, 9).to(dtype), torch.randn(21, 9).to(dtype)
    bias = torch.randn(21).to(dtype) if with_bias else None
    before = poisoned(37, 21, dtype=dtype) if fresh else torch.randn(37, 21).to(dtype)
    exact = coef * (x.double() @ w.double().t()) + (0 if fresh else before.double())
    exact += 0 if bias is None else bias.double()
    results = []
    for products in (KernelProducts(forced=True), TorchProducts()):
        wide = poisoned(37, 40, dtype=dtype)
        wide[:, 8:29] = before
        products.add(wide[:, 8:29], x, w, bias, coef, fresh)
        assert wide[:, :8].isnan().all() and wide[:, 29:].isnan().all()
        results.append(wide[:, 8:29])
    assert_as_exact_as(results[0], results[1], exact)


def test_the_table_decides_product_by_product(monkeypatch):
    """Rows that are not measured go to torch; a measured one to whom it names, for its shapes only."""
    asked: list[tuple[int, ...]] = []
    real = TorchProducts.whole

    def spy(self: Any, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        asked.append((*x.shape, w.shape[0]))
        return real(self, x, w, bias)

    monkeypatch.setattr(TorchProducts, "whole", spy)
    by = products_by("table", torch.device("cpu"))
    small, large, w = torch.randn(4, 8), torch.randn(20, 8), torch.randn(6, 8)
    by.whole(small, w, None)
    by.whole(large, w, None)
    assert asked == [(4, 8, 6), (20, 8, 6)]
    asked.clear()
    first = replace(launch.GEMM_TABLE[-1], max_m=16, measured=True)
    assert first.chip == "interpreter" and first.kind == "ieee"
    monkeypatch.setattr(launch, "GEMM_TABLE", (first, *launch.GEMM_TABLE))
    torch.testing.assert_close(by.whole(small, w, None), small @ w.t())
    assert asked == []
    by.whole(large, w, None)
    assert asked == [(20, 8, 6)]
    asked.clear()
    monkeypatch.setattr(launch, "GEMM_TABLE", (replace(first, backend="torch"), *launch.GEMM_TABLE[1:]))
    by.whole(small, w, None)
    assert asked == [(4, 8, 6)]
    asked.clear()
    monkeypatch.setattr(launch, "UNMEASURED", "triton")
    by.whole(large, w, None)
    assert asked == []


def test_tf32_follows_torch(monkeypatch):
    x = torch.zeros(2, 2)
    assert hoisted_products.precision_of(x) == "ieee"
    monkeypatch.setattr(hoisted_products, "tf32_allowed", lambda: True)
    assert hoisted_products.precision_of(x) == "tf32"
    assert hoisted_products.precision_of(x.half()) == "ieee"


def test_on_a_cpu_it_says_what_to_do(monkeypatch):
    net = Network(GRAPHS["lstm"], products="triton")
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ConfigError, match="products: 'triton' multiplies on GPUs, the network is on a CPU"):
        net(torch.randn(2, 1, 5))
    assert Network(GRAPHS["lstm"])(torch.randn(2, 1, 5))[0].shape == (2, 1, 3)


def test_float64_stays_with_torch(no_torch_products):
    """There are no kernels for it, and the plan says so."""
    net = Network(GRAPHS["lstm"], products="triton").double()
    assert net.plan.products.by == "torch" and "no kernels for fp64" in net.plan.products.note
    assert net(torch.randn(2, 1, 5).double())[0].dtype == torch.float64
    no_torch_products()
    with pytest.raises(AssertionError, match="a product by torch"):
        net(torch.randn(2, 1, 5).double())


def test_the_plan_says_what_a_gpu_would_do():
    graph = load_graph(GRAPHS["lstm"])
    assert make_plan(graph, device=machine("cuda")).products.by == "table"
    assert make_plan(graph).products.by == "torch"


@pytest.mark.parametrize("chip", ["sm_80", "sm_90", "gfx9"])
def test_the_plan_prints_what_is_launched(chip, monkeypatch):
    """For the shapes, strides and addresses that a network has."""
    where = machine("cuda", chip, "bf16")
    monkeypatch.setattr("kernels.gemm.current_chip", lambda device: launch.Chip(chip, where.units))
    for n, k, width, lo in ((512, 80, 512, 0), (61, 128, 61, 0), (64, 40, 128, 64), (64, 256, 72, 4)):
        x, w = torch.empty(ROWS, k).bfloat16(), torch.empty(n, k).bfloat16()
        g = torch.empty(ROWS, width).bfloat16()[:, lo : lo + n]
        there = [launch_of(x, w.t()), launch_of(g, w), launch_of(g.t(), x)]
        forward, dx, dw = (f"by triton {launch.blocks_of(some.tile)}" for some in there)
        assert product_text(where, "triton", n, k, width, lo) == (
            forward,
            f"gradients: of the input {dx}; of the weights {dw}",
        )


def test_a_network_that_moves_changes_hands(monkeypatch):
    """bf16 stands for a GPU: its products and loop go to the kernels there, and back to torch."""
    real = network.machine_of

    def machine_of(x: Tensor) -> Machine:
        return machine("cuda", "sm_90", "bf16") if x.dtype == torch.bfloat16 else real(x)

    monkeypatch.setattr(network, "machine_of", machine_of)
    monkeypatch.setattr(launch, "UNMEASURED", "triton")
    count = 0
    run = gemm._launch

    def counted(*given: Any) -> None:
        nonlocal count
        count += 1
        run(*given)

    monkeypatch.setattr(gemm, "_launch", counted)
    graph = graph_of(X, {"l": {"cell": "sru", "size": 4, "in": "x"}, "y": {"size": 2, "is": "full(l)"}}, "y")
    net = Network(graph)
    net(torch.randn(4, 2, 5))[0].sum().backward()
    assert count == 0
    net.bfloat16()
    assert net.plan.products.by == "table" and net.plan.choices[0].runner == "elementwise"
    net.zero_grad()
    net(torch.randn(4, 2, 5).bfloat16())[0].sum().backward()
    products = sum(text.startswith("gemm") for text in (line[3:] for line in str(net.plan).splitlines()))
    assert count >= 2 * products, "each is done forward and for its weights"
    assert all(g is not None and g.isfinite().all() for g in net.grads().values())
    before = count
    net.float()(torch.randn(4, 2, 5))[0].sum().backward()
    assert count == before and net.plan.products.by == "torch"


def test_recorded_graphs_multiply_alike():
    """torch.compile takes the products as operators, kernels and all."""
    torch.manual_seed(0)
    net = Network(GRAPHS["several sources"], products="triton")
    inputs = inputs_of(net, torch.float32)
    dy = {"y": torch.randn(STEPS, LANES, 9), "s": torch.randn(STEPS, LANES, 6)}
    plain = outcome(net, inputs, dy, {})
    net.zero_grad()
    given = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in inputs.items()}
    y, _ = torch.compile(net, backend="aot_eager", fullgraph=True)(given)
    torch.autograd.backward([y["y"], y["s"]], [dy["y"], dy["s"]])
    for name in y:
        torch.testing.assert_close(y[name], plain[f"out {name}"])
    torch.testing.assert_close(given["x"].grad, plain["grad input x"])
    for name, g in net.grads().items():
        torch.testing.assert_close(g, plain[f"grad {name}"])
