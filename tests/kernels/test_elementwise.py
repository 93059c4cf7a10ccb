"""The `elementwise` runner under the interpreter: equal to the `torch` runner in all that it gives."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph
from framework.choose import choose
from framework.errors import ConfigError
from framework.machine import machine
from framework.runners.loop import Chunk
from framework.runners.triton_elementwise import ElementwiseLoop
from kernels.elementwise import as_rows
from tests.compare import assert_same, run_network
from tests.graphs import Batch, random_batch
from tests.interpreter import concurrent
from tests.kernels.closeness import assert_as_exact_as

TOLERANCE = 1e-8  # in float64: tanh near 0 is a polynomial that errs by 2e-10
CELLS = ("sru", "indrnn", "mingru", "minlstm")


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """New tensors are full of NaN: what is read before it is written shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def one_cell(cell: str, backward: bool = False, size: int = 5) -> dict[str, Any]:
    node = {"cell": cell, "size": size, "in": "x", "backward": backward}
    return {"inputs": {"x": {"size": 3}}, "nodes": {"l": node}, "outputs": ["l"]}


def delays(seed: int) -> dict[str, Any]:
    """Two states that read each other, near and far, values of one unit, outputs of both, learned starts."""
    pick = random.Random(seed)
    sign, size = "-+"[seed % 2], pick.choice([1, 3, 5])
    there = [[2], [3, 1], [1], [2, 5], [6], [1, 7], [4, 3]][seed % 7]

    def read(name: str) -> str:
        return f"{name}[t{sign}{pick.choice(there)}]"

    gate = f"sigmoid(full(x) + diag({read('c')}) + bias)"
    nodes = {
        "a": {"size": size, "init": "learned", "is": f"{gate} * {read('a')} + 0.3 * tanh({read('c')}) + z"},
        "c": {
            "size": size,
            "init": pick.choice([0.4, "learned"]),
            "is": f"tanh(a * 0.7 + diag(c[t{sign}{there[-1]}]) + full(x)) + 0.1 * y[0:1] * {read('a')}",
        },
        "z": {"size": 1, "is": "tanh(full(x))"},
        "o": {"size": 2, "is": f"full(c) + full(a[t{sign}1])"},
    }
    return {"inputs": {"x": {"size": 3}, "y": {"size": 2}}, "nodes": nodes, "outputs": ["o", "a"]}


def both(source: dict[str, Any], kind: torch.dtype = torch.float64) -> tuple[Network, Network]:
    """The same network with the torch and the elementwise runner."""
    torch.manual_seed(0)
    graph = load_graph(source)
    torch_net = Network(graph, runner="torch").to(kind)
    net = Network(graph, runner="elementwise").to(kind)
    net.load_state_dict(torch_net.state_dict())
    assert any(isinstance(loop, ElementwiseLoop) for loop in net.loops)
    assert not any(isinstance(loop, ElementwiseLoop) for loop in torch_net.loops)
    return torch_net, net


def compare(source: dict[str, Any], chunks: list[Batch], seed: int) -> None:
    torch_net, net = both(source)
    want, got = run_network(torch_net, chunks, seed), run_network(net, chunks, seed)
    assert_same(got, want, source, TOLERANCE)
    for name in want.state.keys():
        torch.testing.assert_close(got.state[name], want.state[name], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("cut", range(4), ids=["plain", "lengths", "resets", "both"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_cell(cell: str, backward: bool, cut: int):
    """In two chunks with carried state, of which one is shorter than the steps under way at once."""
    source = one_cell(cell, backward)
    batch = random_batch(
        load_graph(source), cut, lengths=bool(cut & 1), resets=bool(cut & 2), steps=7, lanes=3
    )
    compare(source, [batch] if backward else [batch.steps(0, 5), batch.steps(5, 7)], cut)


@pytest.mark.parametrize("seed", range(14))
def test_delays(seed: int):
    """Rings in registers and reads further back than them, chunks shorter than a delay, broadcast values."""
    source = delays(seed)
    steps, lanes = [7, 1, 2, 9, 4][seed % 5], [3, 1, 13][seed % 3]
    batch = random_batch(
        load_graph(source), seed, lengths=seed % 3 == 0, resets=seed // 3 % 2 == 0, steps=steps, lanes=lanes
    )
    whole = seed % 2 == 1 or steps < 4
    compare(source, [batch] if whole else [batch.steps(0, 3), batch.steps(3, steps)], seed)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("cell", "masked"), [*((cell, False) for cell in CELLS), ("sru", True)])
def test_rounding(cell: str, masked: bool, kind: torch.dtype):
    """The loop alone, on equal numbers: at every step errors at most twice those of torch in the dtype."""
    steps, lanes, units = 23, 7, 9
    torch_net, net = both(one_cell(cell, size=units))
    c = net.plan.components[0]
    generator = torch.Generator().manual_seed(5)

    def draw(*size: int) -> Tensor:
        """Numbers of size 0.2 to 0.8, of either sign: states stay bounded."""
        x = 0.2 + 0.6 * torch.rand(size, generator=generator, dtype=torch.float64)
        return (x * (torch.rand(size, generator=generator) - 0.5).sign()).to(kind)

    given = {"pre": draw(steps, lanes, c.width)} if c.targets else {}
    given |= {f"ext{i}": draw(steps, lanes, units) for i in range(len(c.ext))}
    given |= {name: draw(units) for name in net.loops[0].singles}
    given |= {f"boundary {n}": draw(d, lanes, units) for n, d in c.states.items()}
    given |= {f"init {n}": draw(units) for n in c.states}
    dy = [draw(steps, lanes, units) for _ in c.outputs]
    keep = torch.rand(steps, lanes, 1, generator=generator) > 0.1
    chunk = Chunk(steps, lanes, {1: keep} if masked else {})

    def run(loop: Any, dtype: torch.dtype) -> dict[str, Tensor]:
        leaves = {name: x.to(dtype).requires_grad_() for name, x in given.items()}
        values = [x * 1 for x in leaves.values()]  # the torch runner writes into `pre`
        n = bool(c.targets)
        ext, rest = values[n : n + len(c.ext)], values[n + len(c.ext) :]
        k, m = len(net.loops[0].singles), len(c.states)
        out = loop(chunk, values[0] if n else None, ext, [], rest[:k], rest[k : k + m], rest[k + m :])
        torch.autograd.backward(out, [g.to(dtype) for g in dy])
        found = {f"out {i}": x.detach() for i, x in enumerate(out)}
        return found | {name: x.grad for name, x in leaves.items() if x.grad is not None}

    exact = run(torch_net.loops[0], torch.float64)
    reference, result = run(torch_net.loops[0], kind), run(net.loops[0], kind)
    assert result.keys() == exact.keys()
    for name, want in exact.items():
        by_step = want.dim() == 3
        triples = (
            zip(result[name], reference[name], want, strict=True)
            if by_step
            else [(result[name], reference[name], want)]
        )
        for triple in triples:
            assert_as_exact_as(*triple)


def test_many_programs_without_a_race():
    """Several programs at once, each reading far back what it has stored itself."""
    source = delays(5)
    torch_net, net = both(source)
    batch = random_batch(load_graph(source), 5, resets=True, steps=9, lanes=70)
    want = run_network(torch_net, [batch])
    with concurrent(seed=1, policy="random") as run:
        got = run_network(net, [batch])
    assert run.launches == 2
    assert_same(got, want, source, TOLERANCE)


def test_training_loses_as_with_torch():
    """Five steps of gradient descent: the same losses, and they fall."""
    losses = []
    for net in both(one_cell("sru"), torch.float32):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        generator = torch.Generator().manual_seed(1)
        x, wanted = (torch.randn(6, 4, n, generator=generator) for n in (3, 5))
        found = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = (net(x)[0] - wanted).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[1][4] < losses[1][0]


def test_frozen_weights_and_no_gradient():
    torch_net, net = both(one_cell("sru"))
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[0], torch_net(x)[0])
    for some in (net, torch_net):
        some.requires_grad_(False)
    x.requires_grad_()
    slopes = [torch.autograd.grad(some(x)[0].sum(), x)[0] for some in (net, torch_net)]
    torch.testing.assert_close(*slopes)


def test_a_copied_network_runs():
    net = both(one_cell("sru"))[1]
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    y = net(x)[0]
    torch.testing.assert_close(copy.deepcopy(net)(x)[0], y)
    torch.testing.assert_close(pickle.loads(pickle.dumps(net))(x)[0], y)


def test_on_a_cpu_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    _, net = both(one_cell("sru"))
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ConfigError, match="'elementwise' runs on GPUs, the network is on a CPU"):
        net(torch.randn(2, 1, 3, dtype=torch.float64))


def test_choice():
    def component(text: str) -> Any:
        graph = {"inputs": {"x": {"size": 3}}, "nodes": {"h": {"size": 3, "is": text}}, "outputs": ["h"]}
        return Network(graph).plan.components[0]

    alone, dense = component("tanh(h[t-1] + x)"), component("tanh(full(h[t-1]) + x)")
    assert choose(alone).runner == "torch"
    assert choose(alone, machine=machine("cuda")).runner == "elementwise"
    assert choose(alone, "elementwise").runner == "elementwise"
    assert choose(alone, "torch", machine("cuda")).runner == "torch"
    forced = choose(dense, "elementwise")
    assert forced.runner == "torch" and forced.notes == (
        "elementwise: units read each other inside the loop",
    )
    assert choose(dense, machine=machine("cuda")).notes == forced.notes and not choose(dense).notes


def test_rows_are_copied_only_where_strides_do_not_fit():
    x = torch.randn(4, 3, 8)
    part = x[:, :, 2:7]
    assert as_rows(part, 5).tensor is part and as_rows(part, 5).lane == 8
    number = x[:, :, :1]
    assert as_rows(number, 5).tensor is number and as_rows(number, 5).unit == 0
    weight = torch.randn(5).expand(4, 3, 5)
    assert as_rows(weight, 5).tensor is weight and as_rows(weight, 5).lane == 0
    for other in (x.transpose(0, 1), x[:, :, ::2], x[::2], x[:, ::2]):
        rows = as_rows(other, other.shape[2])
        assert rows.tensor is not other and (rows.lane, rows.unit) == (other.shape[2], 1)
        assert torch.equal(rows.tensor, other)
    one = x[:, :1]
    assert as_rows(one, 8).tensor is one and as_rows(one, 8).lane == 24


def test_generated_source_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _, net = both(one_cell("indrnn", size=2) | {"nodes": {"l": {"size": 2, "is": "sin(l[t-1] + x[0:1])"}}})
    net(torch.randn(2, 1, 3, dtype=torch.float64))
    (file,) = (tmp_path / "intrastream" / "cells").glob("*.py")
    assert "tl.sin(" in file.read_text()
