"""`overlap`: the same call in parts whose layers run beside each other."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from framework import Network, load_graph, make_plan
from framework.errors import ConfigError
from framework.graph import Graph
from framework.machine import machine
from framework.order import order, stages
from framework.steps import Loop
from tests.compare import Results, copy_weights, run_network
from tests.graphs import Batch, batch_kind, looks_ahead, random_batch, random_graph
from tests.oracle import random_weights

STACKS = {
    "lstm": load_graph("stack", cell="lstm_peephole", input={"size": 3}, classes=2, size=4, layers=3),
    "gru": load_graph("stack", cell="gru", input={"size": 3}, classes=2, size=5, layers=2),
    "sru": load_graph("stack", cell="sru", input={"size": 3}, classes=2, size=4, layers=2),
    "dilated": load_graph("dilated", input={"size": 3}, classes=2, size=4),
    "delays between layers": load_graph(
        {
            "inputs": {"x": {"size": 3}},
            "nodes": {
                "a": {"size": 4, "init": "learned", "is": "tanh(full(x[t-2]) + full(a[t-3]))"},
                "m": {"size": 4, "is": "sigmoid(full(a[t-1]) + full(dropout(a, 0.3)) + bias)"},
                "b": {"size": 3, "is": "zoneout(tanh(full(m) + full(b[t-1])), b[t-1], 0.2)"},
                "c": {"size": 2, "is": "tanh(full(b[t-4]) + full(m) + full(c[t-1]))"},
            },
            "outputs": ["c", "m"],
        }
    ),
}


def results(graph: Graph, chunks: list[Batch], seed: int, **options: Any) -> Results:
    net = Network(graph, **options).double()
    copy_weights(net, random_weights(graph, seed))
    torch.manual_seed(seed)
    return run_network(net, chunks, seed)


def check(graph: Graph, chunks: list[Batch], seed: int, parts: int, **options: Any) -> None:
    """Outputs, states and gradients of a plain call, to rounding in float64."""
    print(f"seed {seed}, {parts} parts")
    want = results(graph, chunks, seed, **options)
    got = results(graph, chunks, seed, overlap=parts, **options)
    assert got.tensors.keys() == want.tensors.keys()
    for name, x in [*want.tensors.items(), *((f"state {n}", h) for n, h in want.state.history.items())]:
        y = got.state.history[name[6:]] if name.startswith("state ") else got.tensors[name]
        zero = torch.zeros_like(x if x is not None else y) if x is not None or y is not None else None
        assert zero is None or torch.allclose(
            zero if y is None else y, zero if x is None else x, rtol=1e-10, atol=1e-11
        ), name


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("name", STACKS)
def test_equal_to_a_plain_call(name: str, kind: int):
    """Parts longer and shorter than delays, more than there are steps; chunks; lengths, resets, both."""
    graph, seed = STACKS[name], 10 * kind + len(name)
    batch = random_batch(graph, seed, bool(kind & 1), bool(kind & 2), 7, 3)
    chunks = [batch] if kind % 2 else [batch.steps(0, 4), batch.steps(4, 7)]
    check(graph, chunks, seed, (2, 3, 5, 9)[kind])


@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_with_other_options(memory: str):
    graph = STACKS["lstm"]
    check(graph, [random_batch(graph, 5, True, True, 6, 2)], 5, 3, runner="torch", memory=memory)


def test_by_torch_s_own_routines():
    """They take their inputs themselves, and give the last state alone."""
    graph = load_graph("stack", cell="lstm", input={"size": 3}, classes=2, size=4, layers=2)
    nets = [Network(graph, overlap=parts) for parts in (None, 3)]
    nets[1].load_state_dict(nets[0].state_dict())
    assert {c.runner for c in nets[1].plan.choices} == {"torch-fused"}
    x, found = torch.randn(7, 3, 3, generator=torch.Generator().manual_seed(4)), []
    for net in nets:
        given = x.clone().requires_grad_()
        y, state = net(given, lengths=torch.tensor([7, 2, 5]))
        y.square().sum().backward()
        grads = [g for g in (given.grad, *(p.grad for p in net.parameters())) if g is not None]
        found.append([y.detach(), *grads, *(h.detach() for h in state.history.values())])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 80), marks=pytest.mark.slow)])
def test_random_graphs(seeds: range):
    done = 0
    for seed in seeds:
        graph = load_graph(random_graph(seed))
        if looks_ahead(graph) or not make_plan(graph).components:
            continue
        batch = random_batch(graph, seed, **batch_kind(seed))
        check(graph, [batch], seed, 2 + seed % 3)
        done += 1
    assert done > 2


def test_without_gradients():
    graph = STACKS["lstm"]
    net = Network(graph, overlap=3).double()
    plain = Network(graph).double()
    plain.load_state_dict(net.state_dict())
    x = torch.randn(8, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        (y, state), (want, other) = net(x), plain(x)
    assert torch.allclose(y, want, atol=1e-13)
    assert all(torch.allclose(h, other.history[n], atol=1e-13) for n, h in state.history.items())


def test_stages():
    """Each loop is a stage behind those it reads; what is hoisted stands with the next loop."""
    plan = make_plan(STACKS["lstm"], overlap=2)
    found = {plan.components[s.component].name: stage
             for s, stage in zip(plan.steps, stages(plan), strict=True) if isinstance(s, Loop)}  # fmt: skip
    assert found == {"l1": 1, "l2": 2, "l3": 3}
    assert max(stages(plan)) == 4, "what reads the last one comes after it"
    assert sorted(k for k in order(plan) if isinstance(k, int)) == list(range(len(plan.steps)))


def wave(graph: Graph, **options: Any) -> str:
    plan = make_plan(graph, device=machine("cuda", "sm_90", "bf16"), overlap=4, **options)
    (line,) = re.findall(r"overlap = (.*)", str(plan))
    assert "at the same time: loops" not in str(plan)
    return line


def stack(size: int, cell: str = "lstm") -> Graph:
    return load_graph("stack", cell=cell, input={"size": 3}, classes=2, size=size, layers=3)


def test_what_a_plan_says():
    prefix = "4 parts; at the same time, each in another part: "
    assert wave(stack(512)) == f"{prefix}l1, l2, l3 in one launch, 32 + 32 + 32 of 132 programs"
    assert wave(stack(1024)).startswith(f"{prefix}l1, l2 in one launch, 64 + 64 of 132 programs, then l3 (")
    assert wave(stack(64, "sru")) == f"{prefix}l2 on a cuda_stream; l3 on a cuda_stream; l1"
    assert wave(stack(512), together=False) == f"{prefix}l1, then l2, then l3 (together=False)"


def test_default_is_off():
    assert make_plan(STACKS["lstm"]).overlap is None and Network(STACKS["lstm"]).plan.wave is None


@pytest.mark.parametrize("parts", [0, 1, -2, 2.5, "4", True])
def test_a_number_of_parts(parts: Any):
    with pytest.raises(ConfigError, match=r"^overlap: .* is no number of parts"):
        make_plan(STACKS["lstm"], overlap=parts)


def test_what_cannot_overlap(monkeypatch: pytest.MonkeyPatch):
    ahead = load_graph("blstm", input={"size": 3}, classes=2, size=4)
    with pytest.raises(ConfigError, match=r"^overlap: a node reads later steps"):
        make_plan(ahead, overlap=2)
    with pytest.raises(ConfigError, match=r"^overlap: chunk runs one part after the other"):
        make_plan(STACKS["lstm"], overlap=2, chunk=8)
    flat = {"inputs": {"x": {"size": 2}}, "nodes": {"y": {"size": 2, "is": "full(x)"}}, "outputs": ["y"]}
    with pytest.raises(ConfigError, match=r"^overlap: there is no loop"):
        make_plan(load_graph(flat), overlap=2)
    net = Network(STACKS["lstm"], overlap=2)
    with pytest.raises(ConfigError, match=r"^overlap: peaks"):
        net.peak_bytes(8, 2)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(ConfigError, match=r"^overlap: torch\.compile decides itself"):
        net(torch.randn(4, 2, 3))
