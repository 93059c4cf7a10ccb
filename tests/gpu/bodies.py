"""The tests on a GPU as functions of the device and the sizes, so that a CPU can run them tiny.

Each raises AssertionError.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from framework import Network, load_graph
from framework.graph import Graph
from framework.runners.triton_persistent import PersistentLoop
from tests import oracle
from tests.compare import Results, copy_weights, run_network, run_oracle
from tests.gpu.cases import RUNNERS, Data, data_of, graph_of, network, outcome, too_far
from tests.graphs import Batch, batch_kind, looks_ahead, random_batch, random_graph


def agrees(
    runner: str,
    cell: str,
    device: str,
    steps: int,
    lanes: int,
    size: int,
    ragged: bool,
    kind: torch.dtype,
    products: str = "auto",
    reference: str = "cpu",
    features: int | None = None,
) -> None:
    """One shared cell: see `compare`. features: of its input, else more than units."""
    graph = graph_of(cell, size, features)
    data = data_of(graph, steps, lanes, ragged, seed=steps + lanes + size)
    compare(graph, data, runner, device, kind, products, reference)


def model_agrees(
    runner: str,
    model: str,
    device: str,
    steps: int,
    lanes: int,
    size: int,
    kind: torch.dtype,
    **params: object,
) -> None:
    """A model of conf/model, with lengths and resets: see `compare`."""
    graph = load_graph(model, input={"size": size + 2}, classes=7, size=size, **params)
    compare(graph, data_of(graph, steps, lanes, True, seed=6), runner, device, kind)


def masks_agree(runner: str, device: str, steps: int, lanes: int, size: int, kind: torch.dtype) -> None:
    """A loop with dropout and zoneout in training: the same masks, and `compare`."""
    node = {"size": size, "is": RUNNERS[runner].masked}
    graph = load_graph({"inputs": {"x": {"size": 9}}, "nodes": {"h": node}, "outputs": ["h"]})
    compare(graph, data_of(graph, steps, lanes, True, seed=7), runner, device, kind)


def compare(
    graph: Graph,
    data: Data,
    runner: str,
    device: str,
    kind: torch.dtype,
    products: str = "auto",
    reference: str = "cpu",
) -> None:
    """Against float64, the error is at most twice that of the torch runner in the same dtype; both of those
    run on the device `reference`.
    """
    exact = outcome(network(graph, "torch", reference, torch.float64), data.to(reference, torch.float64))
    own = outcome(network(graph, "torch", reference, kind), data.to(reference, kind))
    net = network(graph, runner, device, kind, products)
    alive(net, data.to(device, kind))
    got = outcome(net, data.to(device, kind))
    problems = too_far(got, own, {n: x.cpu() for n, x in exact.items()})
    assert not problems, "\n".join(problems)


def spread(net: Network, lanes: int) -> list[PersistentLoop]:
    """The loops whose programs wait for each other."""
    return [x for x in net.loops if isinstance(x, PersistentLoop) and x.layout.at(lanes).programs > 1]


def alive(net: Network, data: Data) -> None:
    """On a GPU, a first call with the watchdog where programs wait for each other: a hang is an error."""
    if net.like.is_cuda and spread(net, data.dy.shape[1]):
        net.watchdog = True
        outcome(net, data)
        net.watchdog = False


def repeats(
    runner: str,
    cell: str,
    device: str,
    steps: int,
    lanes: int,
    size: int,
    launches: int,
    kind: torch.dtype = torch.float32,
    watchdog: bool = False,
) -> None:
    """Forward and backward over and over on the same numbers: equal to the bit. `watchdog`: on in all of
    them, in a loop of many programs.
    """
    graph = graph_of(cell, size)
    data = data_of(graph, steps, lanes, True, seed=1).to(device, kind)
    net = network(graph, runner, device, kind)
    if watchdog:
        assert spread(net, lanes), "no program waits for another: take more units"
        net.watchdog = True
    first = outcome(net, data)
    for k in range(launches - 1):
        again = outcome(net, data)
        differ = [name for name in first if not torch.equal(first[name], again[name])]
        assert not differ, f"launch {k + 2}: {differ} differ from launch 1"
    assert all(x.isfinite().all() for x in first.values())


def never_waits(runner: str, cell: str, device: str, steps: int, lanes: int, size: int) -> None:
    """No call between input and gradients looks at a value on the device: the host never waits."""
    graph = graph_of(cell, size)
    data = data_of(graph, steps, lanes, True, seed=2).to(device, torch.float32)
    net = network(graph, runner, device, torch.float32)
    want = outcome(net, data)  # compiles
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            got = outcome(net, data)
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(got[name], want[name]) for name in want)


def capture(run: Callable[[], object], device: str) -> Callable[[], None]:
    """`run` as a CUDA graph; where there is none it stays as it is."""
    if device != "cuda":
        run()
        return lambda: void(run())
    with warnings.catch_warnings():
        # Warming up on one stream and capturing on another is how it is done, and what this one warns of.
        warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles, and gives libraries their workspaces before the capture
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    return graph.replay


def void(_: object) -> None:
    """Forget a value."""


def replays(runner: str, cell: str, device: str, steps: int, lanes: int, size: int, backward: bool) -> None:
    """Captured once, replayed on other numbers: what an ordinary call gives for them."""
    graph = graph_of(cell, size)
    first, second = (data_of(graph, steps, lanes, True, seed).to(device, torch.float32) for seed in (3, 4))
    net = network(graph, runner, device, torch.float32)
    want = outcome(net, second)
    net.zero_grad(set_to_none=True)
    inputs = {n: x.clone().requires_grad_(backward) for n, x in first.inputs.items()}
    where = {n: x.clone() for n, x in first.where.items()}
    dy, made = first.dy.clone(), dict[str, Tensor]()

    def step() -> None:
        for x in [*inputs.values(), *net.parameters()]:
            x.grad = None
        with torch.set_grad_enabled(backward):
            y, _ = net(inputs if len(inputs) > 1 else inputs["x"], **where)
            if backward:
                y.backward(dy)
        made["y"] = y.detach()

    replay = capture(step, device)
    with torch.no_grad():
        for n, x in second.inputs.items():
            inputs[n].copy_(x)
        for n, x in second.where.items():
            where[n].copy_(x)
        dy.copy_(second.dy)
    replay()
    assert torch.equal(made["y"], want["y"])
    if backward:
        got = {f"d{n}": x.grad for n, x in inputs.items()}
        got |= {n: g for n, g in net.grads().items() if g is not None}
        differ = [n for n, g in got.items() if g is not None and not torch.equal(g, want[n])]
        assert not differ and got.keys() == want.keys() - {"y"}, differ


def random_graphs(runner: str, device: str, seeds: range, kind: torch.dtype) -> None:
    """Random graphs against the oracle: outputs, all gradients; in two chunks if possible.

    In float64 they are equal. In float32 the largest error is at most eight times what one rounding of
    weights and inputs does to that graph, or torch's own float32 (a chain of about eight roundings).
    """
    problems, taken = [], 0
    for seed in seeds:
        source = random_graph(seed)
        graph = load_graph(source)
        batch = random_batch(graph, seed, **batch_kind(seed))
        steps = next(iter(batch.inputs.values())).shape[0]
        cut = steps // 2
        chunks = [batch] if looks_ahead(graph) or cut == 0 else [batch.steps(0, cut), batch.steps(cut, steps)]
        weights = oracle.random_weights(graph, seed)
        want = run_oracle(graph, weights, chunks, seed)

        def off(
            runner: str, device: str, kind: torch.dtype, rounding: torch.Generator | None = None
        ) -> float:
            nonlocal taken
            net = Network(graph, runner=runner).to(device, kind).eval()  # noqa: B023 (called at once)
            copy_weights(net, {n: rounded(w, rounding) for n, w in weights.items()})  # noqa: B023
            given = [moved(chunk, device, kind, rounding) for chunk in chunks]  # noqa: B023
            taken += sum(choice.runner == runner for choice in net.plan.choices)
            return largest_error(run_network(net, given, seed), want)  # noqa: B023

        error = off(runner, device, kind)
        allowed = RUNNERS[runner].off
        if kind != torch.float64:
            found, g = taken, torch.Generator().manual_seed(seed)
            shaken = [off("torch", "cpu", torch.float64, g) for _ in range(4)]
            allowed = 8 * max(off("torch", "cpu", kind), *shaken)
            taken = found
        if not error <= allowed:  # a NaN, too
            problems.append(f"seed {seed}: error {error:.2e}, allowed {allowed:.2e}")
    assert not problems, "\n".join(problems)
    assert taken, f"none of these graphs has a loop for '{runner}': take other seeds"


def largest_error(got: Results, want: Results) -> float:
    """The largest error of any output or gradient, over the scale of it; infinite if one is missing."""
    worst = 0.0
    for name, right in want.tensors.items():
        x = got.tensors.get(name)
        if x is None or right is None:
            other = right if x is None else x
            worst = max(worst, math.inf if other is not None and bool(other.any()) else 0.0)
        elif right.numel():
            error = (x.detach().cpu().double() - right).abs().max() / right.abs().max().clamp(min=1e-3)
            worst = max(worst, math.inf if error.isnan() else error.item())
    return worst


def rounded(x: Tensor, rounding: torch.Generator | None) -> Tensor:
    """x [...], or with a generator each number off by at most one rounding of float32."""
    if rounding is None or not x.is_floating_point():
        return x.detach()
    share = torch.rand(x.shape, generator=rounding, dtype=torch.float64) * 2 - 1
    return x.detach() * (1 + share * torch.finfo(torch.float32).eps)


def moved(chunk: Batch, device: str, kind: torch.dtype, rounding: torch.Generator | None) -> Batch:
    """A chunk on a device in a dtype; indices stay integers."""
    lengths = None if chunk.lengths is None else chunk.lengths.to(device)
    resets = None if chunk.resets is None else chunk.resets.to(device)
    inputs = {n: rounded(x, rounding) for n, x in chunk.inputs.items()}
    inputs = {n: x.to(device, kind) if x.is_floating_point() else x.to(device) for n, x in inputs.items()}
    return Batch(inputs, lengths, resets)
