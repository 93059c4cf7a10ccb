"""Networks whose products outside the loops are done by our kernels, against the oracle in float64.

The loops are torch's in both networks that are compared: what differs is the products.
"""

from __future__ import annotations

import math
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
from framework.runners.hoisted_products import TorchProducts
from kernels import gemm, launch
from tests import oracle
from tests.compare import copy_weights, run_network, run_oracle
from tests.graphs import Batch, batch_kind, random_batch, random_graph
from tests.kernels.closeness import assert_as_exact_as

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


def test_step_by_step(no_torch_products):
    """Nothing is hoisted, but gradients of tables: they are summed in a fixed order there, too."""
    torch.manual_seed(3)
    nets = [Network(GRAPHS["indices"], parallel="none", products=by) for by in ("torch", "triton")]
    nets[1].load_state_dict(nets[0].state_dict())
    inputs, dy = inputs_of(nets[0], torch.float32), {"y": torch.randn(STEPS, LANES, 5)}
    want = outcome(nets[0], inputs, dy, {})
    no_torch_products()
    got = outcome(nets[1], inputs, dy, {})
    for key, x in want.items():
        torch.testing.assert_close(got[key], x)


def together(runs: list[dict[str, Tensor]], exact: list[dict[str, Tensor]], kind: str) -> Tensor:
    """All numbers of tensors of a kind, each tensor relative to the largest number that it should hold."""
    assert all(run.keys() == right.keys() for run, right in zip(runs, exact, strict=True))
    assert all(run[key].shape == exact[0][key].shape for run in runs for key in run)
    scales = {key: max(float(run[key].abs().max()) for run in exact) for key in exact[0]}
    parts = [run[key].double().flatten() / scales[key] for run in runs for key in run if key.startswith(kind)]
    return torch.cat(parts)


def rounded(batch: Batch, dtype: torch.dtype) -> Batch:
    """The same numbers, which float32 can hold, in another dtype."""
    inputs = {
        n: x.detach().float().to(dtype) if x.is_floating_point() else x for n, x in batch.inputs.items()
    }
    return replace(batch, inputs=inputs)


@pytest.mark.parametrize("seed", range(0, 48, 2))
def test_random_graph(seed):
    """Float32, all outputs and gradients: the root of the sum of squared errors, at most twice torch's."""
    graph = load_graph(random_graph(seed))
    weights = {name: w.float() for name, w in oracle.random_weights(graph, seed).items()}
    batch = random_batch(graph, seed, **batch_kind(seed))
    exact = {name: w.double() for name, w in weights.items()}
    want = run_oracle(graph, exact, [rounded(batch, torch.float64)], seed).tensors
    errors = []
    for products in ("torch", "triton"):
        net = Network(graph, runner="torch", products=products).eval()
        copy_weights(net, weights)
        got = run_network(net, [rounded(batch, torch.float32)], seed).tensors
        total = 0.0
        for name, right in want.items():
            found = got.get(name)
            if right is None or found is None or not right.numel():
                continue
            total += float((found.double() - right).norm() / right.norm().clamp(min=1e-3)) ** 2
        errors.append(math.sqrt(total))
    assert errors[1] <= 2 * max(errors[0], torch.finfo(torch.float32).eps / 2), f"seed {seed}: {errors}"


def test_training_loses_alike():
    """Five updates of a small model: the same losses, to rounding."""
    torch.manual_seed(2)
    nets = [Network(GRAPHS["lstm"], products=products) for products in ("torch", "triton")]
    nets[1].load_state_dict(nets[0].state_dict())
    x, wanted = torch.randn(STEPS, LANES, 5), torch.randn(STEPS, LANES, 3)
    losses = []
    for net in nets:
        optimizer, found = torch.optim.Adam(net.parameters(), lr=0.05), []
        for _ in range(5):
            optimizer.zero_grad()
            loss = (net(x)[0] - wanted).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[1][4] < losses[1][0]


def test_equal_calls_give_equal_bits():
    torch.manual_seed(0)
    net = Network(GRAPHS["several sources"], products="triton")
    inputs = inputs_of(net, torch.float32)
    dy = {"y": torch.randn(STEPS, LANES, 9), "s": torch.randn(STEPS, LANES, 6)}
    first = outcome(net, inputs, dy, {})
    again = outcome(net, inputs, dy, {})
    assert all(torch.equal(first[key], again[key]) for key in first)


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
