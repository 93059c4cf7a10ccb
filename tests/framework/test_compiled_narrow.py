"""The compiled runner on bfloat16 and float16: it computes in float32, and errs less than torch does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph, lstm
from framework.errors import ConfigError
from framework.graph import Graph
from framework.runners import compiled_loop, compiled_native
from framework.runners.compiled_loop import CompiledLoop
from tests.compare import copy_weights, run_network
from tests.framework.test_compiled_loop import RICH
from tests.graphs import Batch, batch_kind, random_batch, random_graph
from tests.oracle import random_weights

pytest.importorskip("llvmlite")

NARROW = [torch.bfloat16, torch.float16]
# What a sum of a few numbers may add to the error: the last rounding alone.
LAST = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(autouse=True, scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is found, or left, in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products of torch are slower by many threads than by one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["processor", pytest.param("plain", marks=pytest.mark.slow)])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As this processor does it, and as one does that knows nothing of bfloat16."""
    if request.param == "plain":
        best = compiled_native.vectors
        monkeypatch.setattr(
            compiled_native, "vectors", lambda real, narrow="": replace(best(real, narrow), pairs=False)
        )
    return request.param


def network(
    graph: Graph, dtype: torch.dtype, runner: str, weights: dict[str, Tensor], **more: Any
) -> Network:
    net = Network(graph, runner=runner, **more).to(dtype).eval()
    assert {choice.runner for choice in net.plan.choices} <= {runner}, net.plan
    copy_weights(net, {name: w.to(dtype) for name, w in weights.items()})
    return net


def of_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    inputs = {n: x.to(dtype) if x.is_floating_point() else x for n, x in batch.inputs.items()}
    return Batch(inputs, batch.lengths, batch.resets)


Errors = dict[str, tuple[float, float]]


def errors(
    graph: Graph,
    batches: Sequence[Batch],
    dtype: torch.dtype,
    rounded: torch.dtype | None = None,
    **more: Any,
) -> Errors:
    """Of all outputs and gradients: the relative errors of ours and of torch's at the same dtype, against
    float64 on the same weights and inputs, rounded to that dtype (or another): root mean squares over the
    batches, each with weights of its own.
    """
    squares: dict[str, list[tuple[float, float]]] = {}
    for seed, batch in enumerate(batches):
        batch = of_dtype(of_dtype(batch, rounded or dtype), dtype)
        weights = {n: w.to(rounded or dtype).double() for n, w in random_weights(graph, seed).items()}
        exact = network(graph, torch.float64, "torch", weights)
        want = run_network(exact, [of_dtype(batch, torch.float64)], seed).tensors
        found = []
        for runner, options in (("compiled", more), ("torch", {})):
            net = network(graph, dtype, runner, weights, **options)
            found.append(run_network(net, [batch], seed).tensors)
        for name, w in want.items():
            ours, theirs = (x.get(name) for x in found)
            if w is None or not bool(w.any()):
                continue
            assert ours is not None and theirs is not None and ours.dtype == theirs.dtype == dtype, name
            if not bool(theirs.isfinite().all()):  # float16 has no number so large
                continue
            mine, others = (float((x.double() - w).norm() / w.norm()) ** 2 for x in (ours, theirs))
            squares.setdefault(name, []).append((mine, others))
    out = {}
    for name, pairs in squares.items():
        mine, others = (math.sqrt(sum(x) / len(pairs)) for x in zip(*pairs, strict=True))
        out[name] = (mine, others)
    return out


def mean(found: Errors, which: int) -> float:
    return math.sqrt(sum(e[which] ** 2 for e in found.values()) / len(found))


def assert_no_worse(found: Errors, dtype: torch.dtype) -> None:
    """Each error is at most twice that of torch, up to a last rounding; over all it is not above."""
    for name, (ours, theirs) in found.items():
        assert ours <= 2 * theirs + LAST[dtype], (name, ours, theirs)
    assert found
    assert mean(found, 0) <= mean(found, 1) + 0.1 * LAST[dtype], found


def draws(graph: Graph, count: int, **kind: Any) -> list[Batch]:
    return [random_batch(graph, seed, **kind) for seed in range(count)]


def random_case(seed: int) -> None:
    """A few small numbers say little of errors: only what is wrong would be as far off as this allows."""
    source = random_graph(seed)
    graph = load_graph(source)
    batches = draws(graph, 2, **batch_kind(seed))
    found = errors(graph, batches, torch.bfloat16)
    if not all(math.isfinite(e) and e < 0.1 for _, e in found.values()):
        return  # rounding decides what comes out
    # Where the terms of a sum cancel, float32 loses as many digits as bfloat16 does.
    wide = errors(graph, batches, torch.float32, torch.bfloat16)
    for name, (ours, theirs) in found.items():
        lost = wide[name][1] * torch.finfo(torch.bfloat16).eps / torch.finfo(torch.float32).eps
        assert ours <= 8 * (theirs + LAST[torch.bfloat16]) + 2 * lost, (name, ours, theirs, lost, source)


@pytest.mark.parametrize("seed", [1])
def test_random_graph(seed: int):
    random_case(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *range(2, 120)])
def test_more_random_graphs(seed: int):
    random_case(seed)


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "cut"])
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=["bf16", "fp16"]
)
def test_all_there_is_in_one_loop(dtype: torch.dtype, masked: bool, instructions: str):
    graph = load_graph(RICH)
    batches = draws(graph, 4, lengths=masked, resets=masked, steps=9, lanes=5)
    assert_no_worse(errors(graph, batches, dtype), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"memory": "recompute"}, {"memory": "recompute", "chunk": 5}], ids=str)
def test_less_memory_errs_no_more(more: dict[str, Any]):
    graph = load_graph(RICH)
    batches = draws(graph, 4, lengths=False, resets=True, steps=11, lanes=3)
    assert_no_worse(errors(graph, batches, torch.bfloat16, **more), torch.bfloat16)


@pytest.mark.parametrize("lanes", [1, pytest.param(3, marks=pytest.mark.slow), 13])
def test_sizes_and_lanes_that_fill_no_vector(lanes: int, instructions: str):
    """Half a pair at the end of a row, parts of vectors, panels with a rest, numbers of lanes done apart."""
    graph = load_graph({
        "inputs": {"x": {"size": 3}},
        "nodes": {"h": {"size": 37, "is": "tanh(full(x) + full(h[t-1]) + full(g[t-2]))"},
                  "g": {"size": 33, "is": "sigmoid(full(h[t-1]) + diag(g[t-1]) + bias)"}},
        "outputs": ["h", "g"],
    })  # fmt: skip
    batches = draws(graph, 4, lengths=lanes == 3, resets=False, steps=6, lanes=lanes)
    assert_no_worse(errors(graph, batches, torch.bfloat16), torch.bfloat16)


def test_states_are_carried_in_float32():
    """Steps below half of the last bit of a state are not lost: rounded at every step it would stay at 1."""
    graph = load_graph({
        "inputs": {"x": {"size": 1}},
        "nodes": {"c": {"size": 1, "is": "c[t-1] + x", "init": 1.0}},
        "outputs": ["c"],
    })  # fmt: skip
    x = torch.full((512, 1, 1), 2.0**-10)
    for dtype in NARROW:
        net = Network(graph, runner="compiled").to(dtype)
        assert net.plan.choices[0].runner == "compiled"
        y = net(x.to(dtype))[0]
        assert isinstance(y, Tensor) and y[-1].item() == 1.5


@pytest.mark.parametrize("dtype", NARROW, ids=["bf16", "fp16"])
def test_rounding_is_torchs(dtype: torch.dtype, instructions: str):
    """To the nearest, of two to the even one; too large numbers and what is none. Tiny ones become 0."""
    graph = load_graph({
        "inputs": {"x": {"size": 37}, "y": {"size": 37}},
        "nodes": {"h": {"size": 37, "is": "x + y + 0 * h[t-1]"}},
        "outputs": ["h"],
    })  # fmt: skip
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 37, generator=g).to(dtype)
    exponents = torch.randint(-9, 2, x.shape, generator=g)
    y = torch.ldexp(torch.ones(x.shape), exponents).to(dtype) * x.sign()
    largest = torch.finfo(dtype).max
    x[0, 0, :6] = torch.tensor([largest, largest, -largest, math.inf, math.nan, -math.inf])
    y[0, 0, :6] = torch.tensor([largest, -largest, -largest, 1.0, 1.0, 1.0])
    net = Network(graph, runner="compiled").to(dtype)
    one = {"x": x.reshape(1, -1, 37), "y": y.reshape(1, -1, 37)}  # one step: 0 * inf is none
    got = net(one)[0]
    assert isinstance(got, Tensor)
    want = (one["x"].float() + one["y"].float()).to(dtype)
    want = torch.where(want.abs() < torch.finfo(dtype).smallest_normal, 0.0, want)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))


@pytest.mark.parametrize("near", [0, 1 << 30], ids=["units", "lanes"])
def test_threads_change_no_bit(near: int, monkeypatch: pytest.MonkeyPatch):
    """Where they share lanes, these are done by other tiles, which add up in another order."""
    graph = load_graph(RICH)
    batch = of_dtype(random_batch(graph, 0, lengths=True, resets=True, steps=11, lanes=6), torch.bfloat16)
    net = network(graph, torch.bfloat16, "compiled", random_weights(graph, 0))
    monkeypatch.setattr(compiled_loop, "WORK", 0)
    monkeypatch.setattr(compiled_loop, "NEAR", near)
    found = []
    for n in (1, 3):
        torch.set_num_threads(n)
        found.append(run_network(net, [batch]).tensors)
    for name, x in found[0].items():
        y = found[1][name]
        assert (x is None) == (y is None)
        if x is not None and y is not None:
            apart = (x.float() - y.float()).abs().max() / x.float().abs().max().clamp(min=1e-3)
            assert apart <= (0.0 if near == 0 else 2 * LAST[torch.bfloat16]), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler about its own parts
def test_torch_compile():
    graph = load_graph(RICH)
    net = network(graph, torch.bfloat16, "compiled", random_weights(graph, 0))
    x = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    want, got = [], []
    for run, into in ((net, want), (torch.compile(net, backend="aot_eager", fullgraph=True), got)):
        net.zero_grad()
        x.grad = None
        y = run(x)[0]
        torch.autograd.backward(list(y.values()), [torch.ones_like(v) for v in y.values()])
        into += [*y.values(), x.grad, *(p.grad for p in net.parameters())]
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype == torch.bfloat16 and torch.equal(a, b)


def test_a_processor_without_float16(monkeypatch: pytest.MonkeyPatch):
    class Old:
        def __init__(self, llvm: Any):
            self.llvm = llvm

        def __getattr__(self, name: str) -> Any:
            return getattr(self.llvm, name)

        def get_host_cpu_features(self) -> dict[str, bool]:
            return {"avx": True, "f16c": False}

        def get_process_triple(self) -> str:
            return "x86_64-unknown-linux-gnu"

    old = Old(compiled_native._llvm())
    monkeypatch.setattr(compiled_native, "_llvm", lambda: old)
    with pytest.raises(ConfigError, match="does not convert float16"):
        compiled_native.vectors.__wrapped__("float", "half")
    assert not compiled_native.vectors.__wrapped__("float", "bfloat").pairs


def test_copied_weights_are_counted():
    """Pairs of bfloat take the room of one float; a loop that widens them takes twice that."""
    net = Network(lstm(8, 32).graph, runner="compiled").bfloat16()
    (loop,) = net.loops
    assert isinstance(loop, CompiledLoop)
    numbers, pairs = 4 * 32 * 32, compiled_native.vectors("float", "bfloat").pairs
    assert loop.packed(torch.bfloat16) == numbers * (2 if pairs else 4)
