"""Loops that are torch's LSTM, GRU or RNN: which are recognised, and the torch-fused runner."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph, make_plan
from framework import measured as table
from framework.cells import CONF, yaml_names
from framework.machine import Machine, machine
from framework.measured import Row
from framework.runners import fused
from framework.vanilla import Vanilla
from tests.compare import assert_same, assert_same_state, copy_weights, run_network, run_oracle
from tests.graphs import Batch, random_batch
from tests.oracle import random_weights

CELLS = {
    "lstm": "lstm",
    "lstm_projection": "lstm",
    "gru_cudnn": "gru",
    "rnn_tanh": "rnn_tanh",
    "rnn_relu": "rnn_relu",
}
SUM = "full(x) + full(h[t-1])"
LSTM = {
    "i": f"sigmoid({SUM} + bias)",
    "f": f"sigmoid({SUM} + bias)",
    "g": f"tanh({SUM} + bias)",
    "o": f"sigmoid({SUM} + bias)",
    "c": "f * c[t-1] + i * g",
    "h": "o * tanh(c)",
}
GRU = {
    "r": f"sigmoid({SUM} + bias)",
    "u": f"sigmoid({SUM} + bias)",
    "n": "tanh(full(x) + bias + r * (full(h[t-1]) + bias))",
    "h": "u * h[t-1] + (1 - u) * n",
}
RNN = {"h": f"tanh({SUM} + bias)"}

# What is another way to write one of them.
SAME: dict[str, dict[str, Any]] = {
    "lstm": LSTM,
    "no bias": {**LSTM, **{n: LSTM[n].replace(" + bias", "") for n in "ifgo"}},
    "some bias": {**LSTM, "i": f"sigmoid({SUM})", "o": f"sigmoid(bias + {SUM} + bias + 0.25)"},
    "numbers for biases": {**LSTM, **{n: LSTM[n].replace("bias", "0.5") for n in "ifgo"}},
    "two inputs": {**LSTM, "i": "sigmoid(full(z) + full(x) + full(h[t-1]))",
                   "f": "sigmoid(full(h[t-1]) + full(z))"},
    "twice one input": {**LSTM, "i": "sigmoid(full(x) + full(x) + full(h[t-1]) + bias)"},
    "input of a step before": {**LSTM, "i": "sigmoid(full(x[t-1]) + full(x) + full(h[t-1]) + bias)"},
    "a gate without an input": {**LSTM, "o": "sigmoid(full(h[t-1]) + bias)"},
    "factors in another order": {**LSTM, "c": "g * i + c[t-1] * f", "h": "tanh(c) * o"},
    "other names": {
        "d": {"size": 4, "is": "tanh(q) * a"},
        "a": "sigmoid(bias + full(d[t-1]) + full(x))",
        "q": "b * tanh(full(d[t-1]) + full(x)) + q[t-1] * sigmoid(full(x) + full(d[t-1]))",
        "b": "sigmoid(full(d[t-1]) + full(x))",
        "h": "d",
    },
    "a copy in the loop": {**LSTM, "m": "o * tanh(c)", "h": "m"},
    "one gate twice": {**LSTM, "c": "f * c[t-1] + f * g"},
    "numbers before the first step": {"h": {"is": LSTM["h"], "init": 0.3}, **{n: LSTM[n] for n in "ifgoc"}},
    "learned before the first step": {
        **{n: LSTM[n] for n in "ifgo"},
        "c": {"is": LSTM["c"], "init": "learned"},
        "h": {"is": LSTM["h"], "init": "learned"},
    },
    "projection": {**LSTM, "m": "o * tanh(c)", "h": {"size": 3, "is": "full(m)"}},
    "gru": GRU,
    "gru, mixed in two steps": {**GRU, "h": "n + u * (h[t-1] - n)"},
    "gru, no inner bias": {**GRU, "n": "tanh(full(x) + r * full(h[t-1]))"},
    "gru, learned before the first step": {**GRU, "h": {"is": GRU["h"], "init": "learned"}},
    "gru, numbers": {**GRU, "n": "tanh(full(x) + 0.5 + (full(h[t-1]) - 0.25) * r)"},
    "rnn": RNN,
    "relu": {"h": "relu(full(h[t-1]) + full(x))"},
    "rnn, number before the first step": {"h": {"is": RNN["h"], "init": 0.5}},
}  # fmt: skip

# What is none, and what the reason says.
OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "peephole": ({**LSTM, "i": f"sigmoid({SUM} + diag(c[t-1]) + bias)"}, "adds up more"),
    "coupled gates": ({**LSTM, "c": "f * c[t-1] + (1 - f) * g"}, "no sum|sum"),
    "another gate": ({**LSTM, "i": f"hard_sigmoid({SUM})"}, "hard_sigmoid"),
    "another output": ({**LSTM, "h": "o * c"}, "o \\* tanh"),
    "a factor": ({**LSTM, "c": "f * c[t-1] + 0.5 * i * g"}, "f \\* c"),
    "a factor of a product": ({**LSTM, "i": "sigmoid(2 * full(x) + full(h[t-1]))"}, "factor"),
    "a factor of the reset": ({**GRU, "n": "tanh(full(x) + 2 * r * full(h[t-1]))"}, ""),
    "minus": ({**LSTM, "i": "sigmoid(full(x) - full(h[t-1]))"}, ""),
    "another delay": ({**LSTM, "i": "sigmoid(full(x) + full(h[t-2]))"}, "further back"),
    "two products": ({**LSTM, "i": f"sigmoid({SUM} + full(c[t-1]))"}, "more than one state"),
    "a mask": ({**LSTM, "h": "dropout(o, 0.5) * tanh(c)"}, "from outside"),
    "zoneout": ({**LSTM, "c": "zoneout(f * c[t-1] + i * g, c[t-1], 0.1)"}, "from outside"),
    "diagonal": ({**LSTM, "i": "sigmoid(diag(x4) + full(h[t-1]))"}, ""),
    "norm": ({**LSTM, "i": f"sigmoid(norm({SUM}))"}, ""),
    "a stopped gradient": ({**LSTM, "h": "stop(o) * tanh(c)"}, ""),
    "bias of the projection": (
        {**LSTM, "m": "o * tanh(c)", "h": {"size": 3, "is": "full(m) + bias"}}, "projection"),
    "a projection that is none": ({**LSTM, "m": "o * tanh(c)", "h": "full(m)"}, "fewer"),
    "an input that is added": ({**RNN, "h": "tanh(full(x) + full(h[t-1]) + x4)"}, "inputs alone"),
    "no input": (
        {**LSTM, **{n: LSTM[n].replace("full(x) + ", "") for n in "ifgo"}, "y": "h + x4"}, "no input"),
    "reset before": ({**GRU, "n": "tanh(full(x) + full(r * h[t-1]))"}, ""),
    "reset of the input": (
        {**GRU, "n": "tanh(full(x) + r * (full(h[t-1]) + full(x)))"}, "product of the input"),
    "mixed the other way": ({**GRU, "h": "(1 - u) * h[t-1] + u * n"}, "u \\* h"),
    "mixed by two gates": ({**GRU, "h": "u * h[t-1] + (1 - r) * n"}, "u \\* h"),
    "c is read outside": ({**LSTM, "y": "h + c"}, "c is read outside"),
    "c of the step before": ({**LSTM, "y": "h + c[t-1]"}, "outside"),
    "a gate is read outside": ({**LSTM, "y": "h * i"}, "inside it"),
    "two of them in one loop": (
        {"k": "tanh(full(h) + full(k[t-1]))", "h": "tanh(full(x) + full(k[t-1]))"}, ""),
}  # fmt: skip


def graph_of(nodes: dict[str, Any], backward: bool = False, out: str = "") -> dict[str, Any]:
    """A graph of nodes of four units; backward: every read of a step before becomes one of a step after."""
    full: dict[str, Any] = {}
    for name, node in nodes.items():
        node = node if isinstance(node, dict) else {"is": node}
        text = node["is"].replace("[t-", "[t+") if backward else node["is"]
        full[name] = {"size": 4, **node, "is": text}
    inputs = {"x": {"size": 5}, "z": {"size": 2}, "x4": {"size": 4}}
    used = {n: v for n, v in inputs.items() if any(f"({n})" in str(v["is"]) or n in v["is"].split() or
            f"{n}[" in v["is"] or f"{n})" in v["is"] for v in full.values())}  # fmt: skip
    return {"inputs": used, "nodes": full, "outputs": [out or ("y" if "y" in full else "h")]}


def network(source: dict[str, Any], runner: str = "torch-fused") -> tuple[Network, dict[str, Tensor]]:
    graph = load_graph(source)
    weights = random_weights(graph, 3)
    net = Network(graph, runner=runner).double()
    copy_weights(net, weights)
    return net, weights


def only(source: dict[str, Any], where: Machine | str = "cpu", **options: Any) -> Any:
    """The choice for the one loop of a graph."""
    (choice,) = make_plan(load_graph(source), device=where, **options).choices
    return choice


@pytest.fixture
def calls(monkeypatch) -> list[bool]:
    """One entry for each call that torch's routine has run."""
    seen: list[bool] = []
    real = fused.FusedLoop.fused

    def counted(self, *args, **options):
        seen.append(self.c.direction > 0)
        return real(self, *args, **options)

    monkeypatch.setattr(fused.FusedLoop, "fused", counted)
    return seen


# Recognition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", yaml_names(CONF / "cell"))
def test_shared_cells(cell: str):
    layer = {"cell": cell, "size": 6, "in": {"x": "x", "mask": "x"} if cell == "clockwork" else "x"}
    plan = make_plan(load_graph({"inputs": {"x": {"size": 1}}, "nodes": {"l": layer}, "outputs": ["l"]}))
    kinds = [c.vanilla.kind for c in plan.components if isinstance(c.vanilla, Vanilla)]
    assert kinds == ([CELLS[cell]] if cell in CELLS else [])


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", SAME)
def test_is_recognised(name: str, backward: bool):
    (c,) = make_plan(load_graph(graph_of(SAME[name], backward))).components
    assert isinstance(c.vanilla, Vanilla), c.vanilla
    kind = (
        "gru" if "gru" in name else "rnn_relu" if name == "relu" else "rnn_tanh" if "rnn" in name else "lstm"
    )
    assert c.vanilla.kind == kind
    assert bool(c.vanilla.project) == (name == "projection")


@pytest.mark.parametrize("name", OTHER)
def test_is_not_recognised(name: str):
    nodes, reason = OTHER[name]
    plan = make_plan(load_graph(graph_of(nodes)), runner="torch-fused")
    for c, choice in zip(plan.components, plan.choices, strict=True):
        assert isinstance(c.vanilla, str) and c.vanilla
        assert choice.runner == "torch" and choice.notes == (f"torch-fused: {c.vanilla}",)
    assert re.search(reason, str(plan.choices))


def test_a_table_of_weights_is_no_input():
    nodes = {"k": {"vocab": 7}}
    source = {
        "inputs": nodes,
        "nodes": {"h": {"size": 4, "is": "tanh(full(k) + full(h[t-1]))"}},
        "outputs": ["h"],
    }
    (c,) = make_plan(load_graph(source)).components
    assert c.vanilla == "its hoisted sums are not products of inputs alone"


# Results ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", SAME)
def test_equals_the_oracle(name: str, backward: bool, lengths: bool, calls: list[bool]):
    source = graph_of(SAME[name], backward)
    net, weights = network(source)
    batch = random_batch(net.graph, 4, lengths, steps=9, lanes=3)
    got, want = run_network(net, [batch]), run_oracle(net.graph, weights, [batch])
    assert_same(got, want, source)
    assert_same_state(got.state, want.state, source)
    still = "gru" in name or not (
        "rnn" in name or name == "relu" or "before the first" in name or name == "projection"
    )
    assert calls == ([not backward] if still or not backward or not lengths else [])


@pytest.mark.parametrize("name", ["lstm", "projection", "gru", "rnn", "learned before the first step"])
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
@pytest.mark.parametrize("cuts", [[0, 4, 9], [0, 1, 2, 9]], ids=str)
def test_chunks_equal_the_whole(name: str, lengths: bool, cuts: list[int], calls: list[bool]):
    source = graph_of(SAME[name])
    net, weights = network(source)
    batch = random_batch(net.graph, 5, lengths, steps=9, lanes=3)
    chunks = [batch.steps(a, b) for a, b in itertools.pairwise(cuts)]
    got, want = run_network(net, chunks), run_oracle(net.graph, weights, [batch])
    assert_same(got, want, source)
    assert_same_state(got.state, want.state, source)
    assert len(calls) == len(chunks)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_resets_go_to_the_other_runner(name: str, calls: list[bool]):
    source = graph_of(SAME[name])
    net, weights = network(source)
    chunks = [random_batch(net.graph, seed, True, seed == 2, steps=6, lanes=3) for seed in (1, 2, 3)]
    got, want = run_network(net, chunks), run_oracle(net.graph, weights, chunks)
    assert_same(got, want, source)
    assert_same_state(got.state, want.state, source)
    assert len(calls) == 2


def test_gradients_through_the_state_of_padded_lanes():
    """The loss of the second chunk reaches the first one's inputs through h and c of each lane's own end."""
    for name in ("lstm", "gru"):
        source = graph_of(SAME[name])
        found = []
        for runner in ("torch", "torch-fused"):
            net, _ = network(source, runner)
            batch = random_batch(net.graph, 7, True, steps=6, lanes=3)
            x = batch.inputs["x"].detach().requires_grad_()
            _, state = net(x, lengths=batch.lengths)
            y, _ = net(random_batch(net.graph, 8, steps=4, lanes=3).inputs["x"].detach(), state=state)
            y.square().sum().backward()
            found.append(x.grad)
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)
        assert found[1].any() and not found[1][batch.lengths[1] :, 1].any()


def random_cell(pick: random.Random) -> dict[str, Any]:
    """An LSTM, GRU or RNN in which some things are otherwise."""
    nodes = dict(pick.choice([LSTM, GRU, RNN]))
    for name, text in nodes.items():
        for old, new in (
            ("sigmoid(", "tanh("), ("tanh(", "sigmoid("), ("full(h[t-1])", "full(h[t-1]) + diag(h[t-1])"),
            ("full(x)", "full(z)"), ("full(x)", "(full(x) + full(z))"), ("full(x) + ", ""), (" + bias", ""),
            (" + bias", " - bias"), ("(1 - u)", "(1 + u)"), ("[t-1]", "[t-2]"), ("tanh(c)", "c"),
            ("i * g", "g"), ("bias", "0.5"), ("r *", "u *"), ("u *", "r *"), ("f *", "i *"),
            ("full(x)", "full(x[t-1])"),
        ):  # fmt: skip
            if old in text and pick.random() < 0.04:
                text = text.replace(old, new, 1)
        nodes[name] = text
    if pick.random() < 0.1:
        nodes["y"] = pick.choice(["h", "h[t-1]", "h + h[t-2]", f"h + {pick.choice(list(nodes))}"])
    return nodes


def test_random_cells_equal_the_oracle(calls: list[bool]):
    """Whatever is changed in an equation: it is seen, or makes no difference."""
    runs = 0
    for seed in range(150):
        print(f"seed {seed}")
        pick = random.Random(seed)
        source = graph_of(random_cell(pick), pick.random() < 0.3)
        if not source["inputs"]:
            continue
        net, weights = network(source)
        if not any(isinstance(c.vanilla, Vanilla) for c in net.plan.components):
            continue
        runs += 1
        batch = random_batch(net.graph, seed, pick.random() < 0.5, steps=5, lanes=2)
        got, want = run_network(net, [batch]), run_oracle(net.graph, weights, [batch])
        assert_same(got, want, source)
        assert_same_state(got.state, want.state, source)
    assert 40 < runs < 130 and len(calls) > 40, (runs, len(calls))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_errors_are_at_most_twice_those_of_the_torch_runner(cell: str, kind: torch.dtype):
    from tests.gpu import bodies
    from tests.gpu.test_fused import agree_with_lengths

    bodies.agrees("torch-fused", cell, "cpu", 23, 5, 12, False, kind)
    agree_with_lengths(cell, "cpu", kind, 23, 5, 12)


# The runner -------------------------------------------------------------------------------------------


def test_who_is_chosen(monkeypatch):
    source, gpu = graph_of(LSTM), machine("cuda", "sm_90", "bf16")
    monkeypatch.setattr(table, "TABLE", ())
    assert only(source).runner == "torch" and not only(source).notes
    assert only(source, gpu).runner == "persistent" and "torch-fused" not in str(only(source, gpu))
    assert only(source, runner="torch-fused").runner == "torch-fused"
    named = only(source, gpu, runner="torch-fused")
    assert (named.runner, named.other, named.how) == (
        "torch-fused",
        "persistent",
        "cuDNN's LSTM, product of the input included; resets by persistent",
    )
    assert only(source, Machine("meta"), runner="torch-fused").notes[0].endswith("not for meta")

    rows = [Row("sm_90", "bf16", "lstm", 64, lanes, 1.5, 1.2) for lanes in (1, 16)]
    monkeypatch.setattr(table, "TABLE", tuple(rows))
    assert only(source, gpu).runner == "torch-fused" and only(source).runner == "torch"
    for other in ("persistent", "streamed", "torch", "scan", "elementwise"):
        assert only(source, gpu, runner=other).runner != "torch-fused"
    assert only(source, gpu, parallel="none").runner == "torch"
    assert only(graph_of(GRU), gpu).runner == "persistent"
    rows.append(Row("sm_90", "bf16", "lstm", 64, 256, 1.1, 0.9))
    monkeypatch.setattr(table, "TABLE", tuple(rows))
    assert only(source, gpu).runner == "persistent"
    monkeypatch.setattr(table, "TABLE", (*rows, Row("sm_90", "bf16", "lstm", 32, 1, 2.0, 1.1)))
    assert only(source, gpu).runner == "torch-fused", "the next larger size decides"


@pytest.mark.parametrize("options", [{"memory": "recompute"}, {"products": "triton"}], ids=str)
def test_not_where_something_is_asked_of_our_own(options: dict[str, Any]):
    ((name, value),) = options.items()
    choice = only(graph_of(LSTM), runner="torch-fused", **options)
    assert choice.runner == "torch"
    assert choice.notes == (f"torch-fused: {name}={value} is for our own runners",)
    assert only(graph_of(LSTM)).runner == "torch-fused"
    assert only(graph_of(LSTM), **options).runner == "torch" and not only(graph_of(LSTM), **options).notes


def test_the_plan_names_it():
    text = str(make_plan(load_graph(graph_of(LSTM)), runner="torch-fused"))
    assert "runner torch-fused (torch's LSTM, product of the input included; resets by torch)" in text


def test_double_backward_is_refused():
    net, _ = network(graph_of(LSTM))
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    y, _ = net(x)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_parts_may_be_frozen_and_copied():
    net, _ = network(graph_of(GRU))
    for made in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        first, *rest = made.parameters()
        first.requires_grad_(False)
        y, _ = made(torch.ones(3, 2, 5, dtype=torch.float64))
        y.sum().backward()
        assert first.grad is None and all(p.grad is not None for p in rest)
        with torch.no_grad():
            again, _ = made(torch.ones(3, 2, 5, dtype=torch.float64))
        torch.testing.assert_close(again, y.detach(), rtol=0, atol=1e-14)


def test_profile_counts_both_ways():
    net, _ = network(graph_of(LSTM))
    net.profile = True
    x = torch.randn(40, 2, 5, dtype=torch.float64, requires_grad=True)
    y, _ = net(x)
    forward = net.timing["loop"]
    assert forward > 0
    y.sum().backward()
    assert net.timing["loop"] > forward and not x._backward_hooks


def test_a_pack_in_torchs_order_is_not_copied():
    """A plain RNN has one gate: its packs are what torch wants."""
    net, _ = network(graph_of(RNN))
    (loop,) = net.fused.values()
    packs = {p: net.get_parameter(p) for p in loop.packs}
    weights = loop.weights(packs, False)
    own = {p.data_ptr() for p in packs.values()}
    assert [w.data_ptr() in own for w in weights] == [True, True, True, False]  # the second bias is zeros


def test_weights_for_cudnn_stand_in_one_buffer(monkeypatch):
    """A stand-in for cuDNN's own routine, which moves the tensors that it is given."""
    moved = []

    def flatten(weights, count, inputs, mode, size, proj, layers, batch_first, bidirectional):
        assert mode == 2
        buffer = torch.cat([w.flatten() for w in weights])
        moved.append((count, inputs, size, proj, layers, batch_first, bidirectional))
        at = 0
        for w in weights:
            w.set_(buffer[at : at + w.numel()].view(w.shape))
            at += w.numel()

    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", flatten)
    monkeypatch.setattr(torch, "_use_cudnn_rnn_flatten_weight", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "is_acceptable", lambda x: True)
    monkeypatch.setattr(torch.backends.cudnn.rnn, "get_cudnn_mode", ["", "", "LSTM"].index)
    net, _ = network(graph_of(SAME["projection"]))
    (loop,) = net.fused.values()
    packs = {p: net.get_parameter(p) for p in loop.packs}
    before = {p: (x.data_ptr(), x.detach().clone()) for p, x in packs.items()}
    plain = loop.weights(packs, False)
    made = fused._one_buffer(plain, loop.v)
    assert moved == [(5, 5, 4, 3, 1, False, False)]
    assert len({w.untyped_storage().data_ptr() for w in made}) == 1
    for a, b in zip(plain, made, strict=True):
        assert torch.equal(a, b) and b.shape == a.shape
    for p, x in packs.items():
        assert x.data_ptr() == before[p][0] and torch.equal(x, before[p][1]), "a parameter was moved"
    sum((k + 1) * w.sum() for k, w in enumerate(made)).backward()
    grads = {n: g for n, g in net.grads().items() if g is not None}
    assert all(
        (g == (1 if "(x)" in n else 3 if "bias" in n else 5 if "(m)" in n else 2)).all()
        for n, g in grads.items()
    )
    assert grads.keys() == net.weights().keys()


def test_compiled_it_is_the_other_runner(calls: list[bool]):
    net, _ = network(graph_of(LSTM))
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    want, _ = net(x)
    got, _ = torch.compile(net, backend="eager", fullgraph=True)(x)
    assert calls == [True]
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


def test_stacked_and_both_ways(calls: list[bool]):
    layers = {"cell": "lstm", "size": 4, "in": "x", "layers": 2, "bidirectional": True}
    source = {"inputs": {"x": {"size": 3}}, "nodes": {"l": layers}, "outputs": ["l"]}
    net, weights = network(source)
    batch = Batch(random_batch(net.graph, 3, steps=70, lanes=2).inputs, torch.tensor([70, 31]))
    assert_same(run_network(net, [batch]), run_oracle(net.graph, weights, [batch]), source)
    assert sorted(calls) == [False, False, True, True]
