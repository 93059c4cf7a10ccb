"""What the tests on a GPU compare: networks of one shared cell, their inputs, and how large an error may be.

Nothing here needs a GPU: tests/kernels/test_gpu_bodies.py runs the same at tiny sizes on a CPU.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph
from framework.graph import Graph
from framework.machine import CHIPS
from framework.plan import Plan

DENSE = (
    "clockwork", "gru", "gru_cudnn", "lstm", "lstm_cifg", "lstm_norm", "lstm_peephole", "lstm_projection",
    "mgu", "mlstm", "nas", "rhn", "rnn_relu", "rnn_tanh", "scrn", "ugrnn",
)  # fmt: skip
ELEMENTWISE = ("indrnn", "mingru", "minlstm", "sru")


@dataclass(frozen=True)
class Takes:
    """What a runner is tested with: the shared cells that it must take; `units` of a usual test; other
    `sizes` (lanes, units); the dtype of random graphs, and how many. `off`: how far off those in float64 may
    be. `wide`: sizes for 16 bits alone, at which loops are spread over many programs; `large`: the largest
    (tests/gpu/test_large.py). `masked`: a loop with random masks. `cpu`: whether it runs on one, interpreted.
    """

    cells: tuple[str, ...]
    units: int
    sizes: tuple[tuple[int, int], ...] = ()
    kind: torch.dtype = torch.float64
    off: float = 0.0
    graphs: int = 200
    wide: tuple[tuple[int, int], ...] = ()
    large: tuple[tuple[int, int], ...] = ()
    masked: str = "zoneout(tanh(full(x) + full(dropout(h[t-1], 0.2)) + bias), h[t-1], 0.3)"
    cpu: bool = True


# A runner joins all tests by its line here.
RUNNERS = {
    "torch": Takes(DENSE + ELEMENTWISE, 33, off=1e-9, large=((512, 1024),)),
    # Kernels compute tanh for float32: that is 1e-7 in float64.
    "elementwise": Takes(
        ELEMENTWISE, 129, ((1, 1), (1, 64), (64, 128), (17, 1000)), off=1e-7, large=((512, 1000), (3, 8192)),
        masked="zoneout(tanh(full(x) + dropout(diag(h[t-1]), 0.2)), h[t-1], 0.3)",
    ),
    # Weights of one program must fit a chip, which takes no float64.
    "persistent": Takes(
        (*DENSE, "sru"), 50, ((1, 1), (3, 16), (20, 33)), torch.float32,
        wide=((1, 257), (20, 512), (33, 700), (128, 384)), large=((512, 40), (512, 512), (16, 700)),
    ),
    # Over many programs whatever the size; part of the weights stays on the chip where all would not.
    "streamed": Takes(
        DENSE, 130, ((1, 64), (17, 300)), torch.float32, wide=((3, 1000), (40, 2048)),
        large=((1, 8192), (16, 8192), (512, 2048), (7, 5000)), cpu=False,
    ),
    # Random graphs hardly ever have a loop that is affine in its state.
    "scan": Takes(
        ("mingru", "minlstm"), 129, ((1, 1), (1, 64), (17, 1000)), off=1e-7, graphs=0,
        large=((512, 1000), (3, 8192)), masked="tanh(full(x)) + diag(dropout(0.9 * h[t-1], 0.3))",
    ),
}  # fmt: skip
PAIRS = [(runner, cell) for runner, takes in RUNNERS.items() for cell in takes.cells]
FEATURES = 3  # more than units
SLOW = pytest.mark.slow
Row = TypeVar("Row")


@contextmanager
def poisoned() -> Iterator[None]:
    """New tensors are full of NaN: what is read before it is written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
            yield
    finally:
        torch.use_deterministic_algorithms(False)


@dataclass(frozen=True)
class Data:
    """Inputs by name, where a lane ends and starts anew, and the gradient of the output; float64 on a CPU."""

    inputs: dict[str, Tensor]
    dy: Tensor
    where: dict[str, Tensor]

    def to(self, device: str, kind: torch.dtype) -> Data:
        """The same on a device in a dtype; lengths and resets stay integers and bools."""
        moved = {n: x.to(device, kind) for n, x in self.inputs.items()}
        return Data(moved, self.dy.to(device, kind), {n: x.to(device) for n, x in self.where.items()})


def graph_of(cell: str, size: int, features: int | None = None) -> Graph:
    """One shared cell over an input x; a second input (the clock of clockwork) is a graph input, too."""
    inputs = {"x": {"size": features or size + FEATURES}}
    node = {"cell": cell, "size": size, "in": "x"}
    if cell == "clockwork":
        inputs["mask"] = {"size": 1}
        node["in"] = {"x": "x", "mask": "mask"}
    return load_graph({"inputs": inputs, "nodes": {"l": node}, "outputs": ["l"]})


def some(rows: Sequence[Row], every: int, first: int = 0) -> list[Any]:
    """Parameters of a test: all; those but each `every`-th are marked slow (gpu_check.sh has little time).

    Rows that differ in what comes last are next to each other: an `every` that is no multiple of their number
    goes through all of them.
    """
    return [
        row if k % every == first else pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=SLOW)
        for k, row in enumerate(rows)
    ]


def data_of(graph: Graph, steps: int, lanes: int, ragged: bool, seed: int) -> Data:
    """Random inputs; `ragged`: with lengths and resets."""
    print(f"seed {seed}")
    g = torch.Generator().manual_seed(seed)

    def normal(size: int) -> Tensor:
        return torch.randn(steps, lanes, size, generator=g, dtype=torch.float64)

    inputs = {n: normal(spec.size) for n, spec in graph.inputs.items()}
    if "mask" in inputs:
        inputs["mask"] = (inputs["mask"] > 0).double()
    (out,) = graph.outputs.values()
    where = {}
    if ragged:
        where["lengths"] = torch.randint(1, steps + 1, (lanes,), generator=g)
        where["resets"] = torch.rand(steps, lanes, generator=g) < 0.05
    return Data(inputs, normal(graph.nodes[out].size), where)


def network(graph: Graph, runner: str, device: str, kind: torch.dtype, products: str = "auto") -> Network:
    """A network, always with the same weights. Its loops are run by `runner`, see `check_taken`; `products`
    says who does the hoisted ones.
    """
    torch.manual_seed(0)
    net = Network(graph, runner="torch").double()
    weights = {name: w.clone() for name, w in net.weights().items()}
    net = Network(graph, runner=runner, products=products).to(device, kind)
    for name, w in net.weights().items():
        w.copy_(weights[name])
    check_taken(net.plan, runner)
    return net


def check_taken(plan: Plan, runner: str) -> None:
    """Raises AssertionError when `runner` does not have all loops; what is linear beside a dense one may go
    to another (scrn), and "auto" is free to choose anything but torch on a GPU. Skips the test where a GPU
    has less shared memory than the H100 that sizes are made for.
    """
    for c, choice in zip(plan.components, plan.choices, strict=True):
        linear = c.kind == "linear" and runner not in ("torch", "elementwise")
        free = runner == "auto" and (plan.machine.device == "cpu" or choice.runner != "torch")
        taken = choice.runner == runner or linear or free
        if not taken and 0 < plan.machine.shared < CHIPS["sm_90"][0]:
            pytest.skip(f"{plan.machine} has less shared memory than an H100: {choice.notes}")
        assert taken, f"{c.name}: {choice}"


def outcome(net: Network, data: Data) -> dict[str, Tensor]:
    """Output, gradient of every input and weight of one call; the same random masks in every one."""
    torch.manual_seed(8)
    inputs = {n: x.detach().clone().requires_grad_() for n, x in data.inputs.items()}
    y, _ = net(inputs if len(inputs) > 1 else inputs["x"], **data.where)
    assert isinstance(y, Tensor)
    net.zero_grad(set_to_none=True)
    y.backward(data.dy)
    found = {"y": y.detach()}
    found |= {f"d{n}": x.grad for n, x in inputs.items() if x.grad is not None}
    return found | {n: g.clone() for n, g in net.grads().items() if g is not None}


def relative(got: Tensor, want: Tensor) -> float:
    """Norm of the error over the norm of what is right; NaN when anything is."""
    return ((got.double().cpu() - want).norm() / want.norm().clamp(min=1e-30)).item()


def worst_step(got: Tensor, want: Tensor) -> float:
    """The largest error of one step, over the size of a usual step."""
    steps = (got.double().cpu() - want).flatten(1).norm(dim=1)
    return (steps.max() / want.flatten(1).norm(dim=1).mean().clamp(min=1e-30)).item()


def too_far(
    got: Mapping[str, Tensor], reference: Mapping[str, Tensor], exact: Mapping[str, Tensor]
) -> list[str]:
    """What errs more than twice as much as the reference of the same dtype, over all or at some step.

    Where the reference happens to be nearly exact, twice its usual error is granted (the median over all
    results: they come from the same chain of roundings), and two roundings.
    """
    assert got.keys() == reference.keys() == exact.keys()
    out = []
    usual = statistics.median(relative(reference[name], want) for name, want in exact.items())
    for name, want in exact.items():
        floor = max(usual, torch.finfo(got[name].dtype).eps)
        measures = [relative, worst_step] if name == "y" else [relative]
        for measure in measures:
            error, own = measure(got[name], want), measure(reference[name], want)
            if not error <= 2 * max(own, floor):  # a NaN, too
                out.append(f"{name}: {measure.__name__} error {error:.2e}, torch's own {own:.2e}")
    return out
