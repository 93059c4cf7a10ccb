"""The compiled runner: the network is the oracle, however threads share the work, whoever made the code."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph, make_plan
from framework.errors import ConfigError
from framework.machine import Machine
from framework.runners import compiled_loop, compiled_native, compiled_rebuild, place
from framework.runners.compiled_loop import CompiledLoop
from framework.runners.loop import Chunk
from tests.compare import assert_same, assert_same_state, copy_weights, random_loss, run_network, run_oracle
from tests.framework.test_network_cells import CELLS, MODELS, cell_graph
from tests.graphs import Batch, batch_kind, looks_ahead, random_batch, random_graph
from tests.oracle import random_weights

pytest.importorskip("llvmlite")

# Two phases, a norm, blocks, delays, a slice, random masks, a vector in the loop, a learned state.
RICH = {
    "inputs": {"x": {"size": 5}},
    "nodes": {
        "r": {"size": 6, "is": "sigmoid(full(x) + full(h[t-1]) + diag(c[t-2]) + bias)"},
        "c": {
            "size": 6,
            "is": "r * c[t-1] + tanh(norm(full(r * h[t-1]) + block(h[t-3], 2)))",
            "init": "learned",
        },
        "h": {"size": 6, "is": "zoneout(c * softmax(c) + concat(h[t-1][0:2], c[2:6]), h[t-1], 0.3)"},
        "y": {"size": 3, "is": "full(h) + bias"},
    },
    "outputs": ["y", "c"],
}  # fmt: skip


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


def compiled(graph: Any, **more: Any) -> Network:
    """A network whose loops are all compiled."""
    net = Network(graph, runner="compiled", **more)
    assert {choice.runner for choice in net.plan.choices} <= {"compiled"}, net.plan
    return net


def check(graph: Any, source: Any, batch: Batch, seed: int = 0, train: bool = False, **more: Any) -> None:
    """Outputs, states and gradients are the oracle's, in one call and in chunks."""
    weights = random_weights(graph, seed)
    net = compiled(graph, **more).double().train(train)
    copy_weights(net, weights)
    got = run_network(net, [batch], seed)
    want = run_oracle(graph, weights, [batch], seed, train, [net.seed])
    assert_same(got, want, source)
    assert_same_state(got.state, want.state, source)
    if looks_ahead(graph) or train:
        return
    steps = next(iter(batch.inputs.values())).shape[0]
    cuts = sorted({0, min(2, steps), min(3, steps), steps})
    got = run_network(net, [batch.steps(a, b) for a, b in itertools.pairwise(cuts)], seed)
    assert_same(got, want, source)
    assert_same_state(got.state, want.state, source)


def random_case(seed: int) -> None:
    source = random_graph(seed)
    graph = load_graph(source)
    batch = random_batch(graph, seed, **batch_kind(seed))
    check(graph, {"seed": seed, **source}, batch, seed, train=seed % 4 == 1)


@pytest.mark.parametrize("seed", range(6))
def test_random_graph(seed: int):
    random_case(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 160))
def test_more_random_graphs(seed: int):
    random_case(seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_cell(name: str):
    cell_or_model(load_graph(cell_graph(name)), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_model(name: str):
    cell_or_model(load_graph(name, input={"size": 5}, classes=4, size=6), name)


def cell_or_model(graph: Any, name: str) -> None:
    for cut in (True, False):
        check(graph, name, random_batch(graph, 1, lengths=cut, resets=cut, steps=6, lanes=3))


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "cut"])
def test_all_there_is_in_one_loop(masked: bool):
    graph = load_graph(RICH)
    batch = random_batch(graph, 3, lengths=masked, resets=masked, steps=9, lanes=5)
    check(graph, RICH, batch, train=True)
    check(graph, RICH, batch)


@pytest.mark.parametrize("direction", [-1, 1])
def test_sizes_and_lanes_that_fill_no_vector(direction: int):
    """Whole vectors, parts of one, panels with a rest; every number of lanes that a product does apart."""
    graph = load_graph({
        "inputs": {"x": {"size": 3}},
        "nodes": {"h": {"size": 37, "is": f"tanh(full(x) + full(h[t{direction:+d}]) + full(g))"},
                  "g": {"size": 1, "is": f"sigmoid(full(h[t{direction:+d}]) + bias)"}},
        "outputs": ["h"],
    })  # fmt: skip
    for lanes in (1, 2, 3, 7, 8, 13):
        check(graph, "h", random_batch(graph, lanes, lengths=lanes == 7, resets=False, steps=4, lanes=lanes))


# Precision ---------------------------------------------------------------------------------------------


def test_float32_error_at_most_twice_that_of_torch_at_each_step():
    """Against float64 by the torch runner, with which it is compared in float32, too. Errors: root mean
    squares over lanes, units of weights, and draws.
    """
    graph = load_graph({
        "inputs": {"x": {"size": 8}},
        "nodes": {"l": {"cell": "lstm_peephole", "size": 24, "in": "x"},
                  "n": {"size": 24, "is": "tanh(norm(full(l) + full(n[t-1])))"}},
        "outputs": ["n"],
    })  # fmt: skip
    exact = Network(graph, runner="torch").double()
    systems = {"ours": compiled(graph), "theirs": Network(graph, runner="torch")}
    squares: dict[str, dict[str, Any]] = {name: {} for name in systems}

    def run(net: Network, x: Tensor) -> dict[str, Tensor]:
        net.zero_grad()
        given = x.detach().to(net.like.dtype, copy=True).requires_grad_()
        y = net(given)[0]
        assert isinstance(y, Tensor)
        random_loss({"n": y}, 0).backward()
        assert given.grad is not None
        grads = {name: g for name, g in net.grads().items() if g is not None}
        return {"step y": y.detach(), "step dx": given.grad, **{n: g.flatten() for n, g in grads.items()}}

    for seed in range(8):
        torch.manual_seed(seed)
        exact.reset_parameters()
        for w in exact.weights().values():
            w.copy_(w.float())
        x = torch.randn(16, 4, 8).double()
        want = run(exact, x)
        found = {}
        for who, net in systems.items():
            copy_weights(net, {name: w.float() for name, w in exact.weights().items()})
            found[who] = run(net, x)
        for name, value in want.items():
            dims = (1, 2) if name.startswith("step") else (0,)
            errors = {who: (x[name].double() - value).square().sum(dims) for who, x in found.items()}
            for who, error in errors.items():  # an ill-conditioned draw counts no more than others
                squares[who][name] = squares[who].get(name, 0.0) + error / errors["theirs"].mean()
    for name, ours in squares["ours"].items():
        worst = (ours / squares["theirs"][name]).sqrt().max().item()
        assert worst <= 2.0, f"{name}: {worst:.2f} times the error of torch"


def test_denormals_are_flushed_inside_only():
    torch.set_flush_denormal(False)
    try:
        net = compiled(load_graph(cell_graph("gru")))
        net(torch.randn(3, 2, 4))
        tiny = torch.tensor([1e-40])
        assert (tiny * 1.0).item() > 0.0
    finally:
        torch.set_flush_denormal(False)


# Threads -----------------------------------------------------------------------------------------------


def results(net: Network, batch: Batch) -> dict[str, Tensor]:
    return {k: x for k, x in run_network(net, [batch]).tensors.items() if x is not None}


@pytest.mark.parametrize("near", [0, 1 << 30], ids=["units", "lanes"])
def test_threads_do_not_change_results(near: int, monkeypatch: pytest.MonkeyPatch):
    graph = load_graph(RICH)
    weights, net = random_weights(graph, 0), compiled(graph).double().eval()
    copy_weights(net, weights)
    batch = random_batch(graph, 0, lengths=True, resets=True, steps=11, lanes=6)
    monkeypatch.setattr(compiled_loop, "WORK", 0)
    monkeypatch.setattr(compiled_loop, "NEAR", near)
    found = []
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        found.append(results(net, batch))
    for other in found[1:]:
        for name, x in found[0].items():
            scale = x.abs().max().clamp(min=1e-3)
            assert (x - other[name]).abs().max() <= 1e-13 * scale, name
    want = run_oracle(graph, weights, [batch])
    assert_same(run_network(net, [batch]), want, RICH)


def test_two_python_threads_at_once(monkeypatch: pytest.MonkeyPatch):
    """The second one finds the helpers taken, and does its work alone."""
    graph = load_graph(cell_graph("lstm"))
    net = compiled(graph).double().eval()
    batch = random_batch(graph, 0, lengths=False, resets=False, steps=40, lanes=6)
    want = net(batch.inputs["x"])[0]
    monkeypatch.setattr(compiled_loop, "WORK", 0)
    monkeypatch.setattr(compiled_loop, "NEAR", 0)
    wrong: list[str] = []

    def work() -> None:
        torch.set_num_threads(2)
        for _ in range(10):
            y = net(batch.inputs["x"])[0]
            if not torch.allclose(y, want, rtol=0, atol=1e-12):
                wrong.append("differs")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(250)
    assert not any(t.is_alive() for t in threads) and not wrong


# Where it runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{"memory": "recompute"}, {"chunk": 4}, {"memory": "recompute", "chunk": 5}])
def test_less_memory_gives_the_same(more: dict[str, Any]):
    graph = load_graph(RICH)
    batch = random_batch(graph, 5, lengths=False, resets=True, steps=11, lanes=3)
    weights, net = random_weights(graph, 5), compiled(graph, **more).double().eval()
    copy_weights(net, weights)
    assert_same(run_network(net, [batch]), run_oracle(graph, weights, [batch]), RICH)


@pytest.mark.parametrize("cell", ["indrnn", "sru"])
def test_less_memory_where_little_is_computed_again(cell: str):
    """A backward of indrnn reads its states alone; sru gives out its state of the step before, too."""
    graph = load_graph(cell_graph(cell))
    for cut in (False, True):
        batch = random_batch(graph, 5, lengths=cut, resets=cut, steps=7, lanes=3)
        check(graph, cell, batch, memory="recompute")


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "cut"])
@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_computed_again_is_what_was_there(
    masked: bool, threads: int, monkeypatch: pytest.MonkeyPatch
):
    """All that a forward keeps, from the sequences of nodes; slabs of three steps, the last one shorter."""
    monkeypatch.setattr(compiled_loop, "WORK", 0)
    monkeypatch.setattr(compiled_rebuild, "SLAB", 3 * 2)
    torch.set_num_threads(threads)
    graph, steps, lanes = load_graph(RICH), 20, 2
    net = compiled(graph).double().eval()
    loop = net.loops[0]
    assert isinstance(loop, CompiledLoop)
    c, g = loop.c, torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    distances = sorted({abs(op.shift) for op in c.cell if op.kind == "shift"})
    masks = {d: draw(steps, lanes, 1) > -1 for d in distances} if masked else {}
    chunk = Chunk(steps, lanes, masks)
    pre = draw(steps, lanes, c.width)
    ext = [draw(steps, lanes, op.size) for op in c.cell if op.kind == "ext"]
    weights = [draw(run.hi - run.lo, c.cell[run.source].size) for run in c.runs]
    weights += [net.weights()[name].detach() for name in loop.singles]
    edges = [draw(d, lanes, c.cell[c.roots[n]].size) for n, d in c.states.items()]
    edges += [draw(c.cell[c.roots[n]].size) for n in c.states]
    first, again = pre.clone(), pre.clone()
    _, kept = loop.run(chunk, len(ext), [first, *ext, *weights, *edges], True)
    stored = {name: kept[name].clone() for name, k in loop.keeps(chunk).items() if k.op is not None}
    assert set(stored) < set(kept)
    found = loop.rebuild(chunk, len(ext), [again, *ext, *weights, *edges], stored)
    assert found.keys() == kept.keys()
    for name in kept.keys() - stored.keys():
        assert torch.allclose(found[name], kept[name], rtol=0, atol=1e-12), name
    columns = [i for i in loop.backward_cell().saved if loop.source("train", masked)[0].places[i].base == "P"]
    assert columns
    for i in columns:
        p = loop.source("train", masked)[0].places[i]
        assert torch.allclose(again[..., p.lo : p.hi], first[..., p.lo : p.hi], rtol=0, atol=1e-12), i


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler about its own parts
def test_torch_compile():
    graph = load_graph(RICH)
    net = compiled(graph).double().eval()
    x = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    plain = net(x)[0]
    random_loss(plain, 0).backward()
    want = [*plain.values(), x.grad, *(p.grad for p in net.parameters())]
    net.zero_grad()
    x.grad = None
    y = torch.compile(net, backend="aot_eager", fullgraph=True)(x)[0]
    random_loss(y, 0).backward()
    got = [*y.values(), x.grad, *(p.grad for p in net.parameters())]
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_without_llvmlite_torch_takes_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(place, "_has_llvm", lambda: False)
    net = Network(load_graph(cell_graph("lstm")), runner="compiled")
    assert "not compiled: llvmlite 0.45 or newer is not installed" in str(net.plan)
    assert {c.runner for c in net.plan.choices} == {"torch"}
    net(torch.randn(3, 2, 4))


@pytest.mark.parametrize(("found", "enough"), [("0.44.0", False), ("0.45.0rc1", True), ("1.0", True)])
def test_old_llvm_is_none(found: str, enough: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(place, "version", lambda name: found)
    assert place._has_llvm.__wrapped__() is enough


def test_refusals_say_why():
    machine = Machine("cuda", "sm_90", "fp32", 1 << 17, 100)
    plan = make_plan(load_graph(cell_graph("lstm")), runner="compiled", device=machine)
    assert plan.choices[0].runner != "compiled" and "compiled: it is for CPUs" in plan.choices[0].notes


def test_other_devices_are_an_error():
    (loop,) = compiled(load_graph(cell_graph("lstm"))).loops
    assert isinstance(loop, CompiledLoop)
    with pytest.raises(ConfigError, match="runs on a CPU"):
        loop.check_device("cuda")


def test_what_is_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Code is made once, read by others, and made again where the file is torn, foreign or cannot be kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled_native, "_functions", {})
    made: list[int] = []
    plain = compiled_native._compile
    monkeypatch.setattr(compiled_native, "_compile", lambda text: made.append(1) or plain(text))
    x = torch.randn(3, 2, 4)

    def run() -> Tensor:
        compiled_native._functions.clear()
        torch.manual_seed(0)
        with torch.no_grad():
            return compiled(load_graph(cell_graph("rnn_tanh")))(x)[0]

    want = run()
    (file,) = (tmp_path / "intrastream" / "loops").iterdir()
    assert made == [1]
    assert torch.equal(run(), want) and made == [1]
    content = file.read_bytes()
    for torn in (b"", content[: len(content) // 2], content[:40] + b"x" + content[41:]):
        file.write_bytes(torn)
        assert torch.equal(run(), want)
        assert file.read_bytes()[:32] == content[:32]  # whole again
    assert made == [1] * 4
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # no folder
    assert torch.equal(run(), want) and made == [1] * 5
