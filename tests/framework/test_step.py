"""`Network.step`: one step of a stream is the chunk form, for every shared cell, model and random graph."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph
from framework.errors import ConfigError
from framework.plain import PlainPlan
from framework.state import State
from tests.compare import copy_weights, random_loss
from tests.graphs import looks_ahead, random_batch, random_graph
from tests.oracle import random_weights

CELLS = (
    "gru gru_cudnn indrnn lstm lstm_cifg lstm_norm lstm_peephole lstm_projection mgu mingru minlstm mlstm "
    "nas rhn rnn_relu rnn_tanh scrn sru ugrnn"
).split()
CLOCKWORK = {
    "inputs": {"x": {"size": 3}, "tick": {"size": 1}},
    "nodes": {
        "l1": {"cell": "clockwork", "size": 4, "in": {"x": "x", "mask": "tick"}},
        "y": {"size": 2, "is": "full(l1)"},
    },
    "outputs": ["y"],
}
MEMORY = {  # reads of inputs, indices and nodes at several distances; start values; outputs that are states
    "inputs": {"x": {"size": 2}, "k": {"vocab": 5}},
    "nodes": {
        "c": {"size": 1, "is": "c[t-1] + 1", "init": -1},
        "e": {"size": 3, "is": "full(k) + full(k[t-2])"},
        "h": {"size": 3, "is": "tanh(full(h[t-3]) + diag(h[t-1]) + e + full(x[t-1]))", "init": "learned"},
        "one": {"size": 2, "is": "1"},
        "y": {"size": 4, "is": "concat(h, c[t-2])"},
        "z": {"size": 2, "is": "x"},
    },
    "outputs": ["y", "h", "z", "one"],
}
TOLERANCE = 1e-13  # float64: 2e-16 for each of some hundred terms of a sum that stand in another order


def one(cell: str) -> dict[str, Any]:
    """A network with one layer of a cell."""
    nodes = {"l1": {"cell": cell, "size": 4, "in": "x"}, "y": {"size": 2, "is": "full(l1) + bias"}}
    return {"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": ["y"]}


def made(source: Any, seed: int = 1, **options: Any) -> Network:
    """A float64 network with random weights (biases, too)."""
    net = Network(load_graph(source), **options).double().eval()
    copy_weights(net, random_weights(net.graph, seed))
    return net


def named(y: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return y if isinstance(y, dict) else {"y": y}


def steps(net: Network, inputs: Mapping[str, Tensor], state: State | None = None):
    """All steps one by one: outputs by name, and the state."""
    outs: list[dict[str, Tensor]] = []
    for t in range(next(iter(inputs.values())).shape[0]):
        y, state = net.step({n: v[t] for n, v in inputs.items()}, state)
        outs.append(named(y))
    assert state is not None
    return {n: torch.stack([y[n] for y in outs]) for n in outs[0]}, state


def assert_near(a: Tensor, b: Tensor, what: object) -> None:
    a, b = a.detach(), b.detach()
    assert a.shape == b.shape and a.dtype == b.dtype, what
    scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
    assert float((a - b).abs().max()) <= TOLERANCE * scale, what


def assert_steps_are_the_chunk(net: Network, inputs: Mapping[str, Tensor], what: object) -> None:
    """Outputs, the state, and the gradients of all weights; then in turns with chunks."""
    y, after = net(inputs)
    net.zero_grad()
    random_loss(named(y), 1).backward()
    want = net.grads()
    y2, after2 = steps(net, inputs)
    y = dict(zip(y2, named(y).values(), strict=True))
    net.zero_grad()
    random_loss(y2 if len(y2) > 1 else {"y": next(iter(y2.values()))}, 1).backward()
    for name, value in y.items():
        assert_near(y2[name], value, (name, what))
    for name, value in after.history.items():
        assert_near(after2.history[name], value, (name, what))
    for name, gradient in net.grads().items():
        expected = want[name]
        if expected is not None and gradient is not None:
            scale = max(1.0, float(expected.abs().max()))
            assert float((gradient - expected).abs().max()) <= 1e-10 * scale, (name, what)
        else:
            assert all(g is None or not g.any() for g in (gradient, expected)), (name, what)
    first, second = ({n: v[part] for n, v in inputs.items()} for part in (slice(2), slice(2, None)))
    with torch.inference_mode():
        state = net(first)[1]
        rest, end = steps(net, second, state)
        for name, value in y.items():
            assert_near(rest[name], value[2:], (name, "after a chunk", what))
        again = net(second, steps(net, first)[1])[1]
    for name, value in again.history.items():
        assert_near(end.history[name], value, (name, "before a chunk", what))


def assert_eager_loops_are_the_chunk(net: Network, inputs: Mapping[str, Tensor], what: object) -> None:
    """The source for whole sequences, with loops of Python."""
    plain = PlainPlan(net.plan, whole=True, eager=True)
    state = net.initial_state(next(iter(inputs.values())).shape[1])
    with torch.no_grad():
        found, history = plain.run(dict(net.named_parameters()), inputs, state.history, net.like)
        y, after = net(inputs)
    for value, want in zip(found.values(), named(y).values(), strict=True):
        assert_near(value, want, what)
    for name, want in after.history.items():
        assert_near(history[name], want, (name, what))


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell(cell: str):
    net = made(one(cell))
    assert_steps_are_the_chunk(net, random_batch(net.graph, 3, steps=5, lanes=2).inputs, cell)


@pytest.mark.parametrize("source", [CLOCKWORK, MEMORY], ids=["clockwork", "memory"])
@pytest.mark.parametrize("parallel", ["intra", "none"])
def test_inputs_of_all_kinds(source: dict[str, Any], parallel: Any):
    net = made(source, parallel=parallel)
    assert_steps_are_the_chunk(net, random_batch(net.graph, 3, steps=6, lanes=2).inputs, source)


@pytest.mark.parametrize("model", ["dilated", "feedback", "gru", "lstm", "lstm_variant", "stack"])
def test_shared_models(model: str):
    net = Network(load_graph(model, size=8)).double().eval()
    assert_steps_are_the_chunk(net, random_batch(net.graph, 3, steps=4, lanes=2).inputs, model)


@pytest.mark.parametrize("seed", range(25))
def test_random_graphs(seed: int):
    source = random_graph(seed)
    graph = load_graph(source)
    net = Network(graph, parallel="none" if seed % 5 == 4 else "intra").double().eval()
    copy_weights(net, random_weights(graph, seed))
    inputs = random_batch(graph, seed, steps=5, lanes=2).inputs
    assert_eager_loops_are_the_chunk(net, inputs, {"seed": seed, **source})
    ahead = any(op.kind == "shift" and op.shift > 0 for op in net.plan.ops)
    assert ahead == looks_ahead(graph), "no output of these graphs leaves a node out"
    if not ahead:
        assert_steps_are_the_chunk(net, inputs, {"seed": seed, **source})
        return
    with pytest.raises(ConfigError, match=r"reads '\w+(/\w+)*\[t\+\d\]'"):
        net.step({n: v[0] for n, v in inputs.items()})


@pytest.mark.parametrize(
    ("model", "edge"),
    [("blstm", r"'l1/bwd/\w+' reads 'l1/bwd/h\[t\+1\]'"), ("tdnn_lstm", r"'d1' reads 'x\[t\+1\]'")],
)
def test_look_ahead_is_refused_by_its_edge(model: str, edge: str):
    net = Network(load_graph(model, size=4))
    with pytest.raises(ConfigError, match=edge):
        net.step(torch.zeros(2, net.graph.inputs["x"].size))


@pytest.mark.parametrize("whole", [False, True], ids=["step", "sequence"])
def test_source_as_it_stands(whole: bool, golden: Callable[[str, str], None]):
    """What a step and a sequence of one peephole layer run, to be read."""
    text = PlainPlan(Network(load_graph(one("lstm_peephole"))).plan, whole).text
    golden(f"plain/{'sequence' if whole else 'step'}.py.txt", text)


def test_source_is_written_once_and_follows_weights():
    net = made(one("lstm"))
    x = torch.ones(2, 3, dtype=torch.float64)
    before, state = net.step(x)
    written = net._stepper
    net.step(x, state)
    assert net._stepper is written
    with torch.no_grad():
        for view in net.weights().values():
            view.mul_(2)
    assert not torch.equal(net.step(x)[0], before)
    assert net.float().step(x)[0].dtype == torch.float32
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other.step(x)[0], net.step(x)[0])


def test_what_is_returned_stays_when_buffers_are_used_again():
    """A stream fills one buffer again and again, and may change what it got."""
    net = made(MEMORY)
    inputs = random_batch(net.graph, 5, steps=4, lanes=1).inputs
    want, _ = steps(net, inputs)
    buffers = {n: v[0].clone() for n, v in inputs.items()}
    state = None
    with torch.no_grad():
        for t in range(4):
            for name, v in inputs.items():
                buffers[name].copy_(v[t])
            y, state = net.step(buffers, state)
            for name, value in named(y).items():
                assert_near(value, want[name][t], (name, t))
                if name != "one":  # which shows a number to all lanes
                    value.fill_(7.0)


def test_masks_are_their_mean_and_refused_in_training():
    source = one("lstm")
    source["nodes"]["y"]["is"] = "full(dropout(l1, 0.5)) + bias"
    source["nodes"]["z"] = {"size": 4, "is": "zoneout(tanh(diag(z[t-1]) + l1), z[t-1], 0.25)"}
    source["outputs"] = ["y", "z"]
    net = made(source)
    assert_steps_are_the_chunk(net, random_batch(net.graph, 3, steps=4, lanes=2).inputs, source)
    net.train()
    with pytest.raises(ConfigError, match=r"net\.eval\(\)"):
        net.step(torch.zeros(1, 3))


def test_autocast_changes_nothing():
    net = made(one("gru"))
    x = torch.ones(2, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = net.step(x)
    assert torch.equal(y, net.step(x)[0])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 2, 3), "one step"), (torch.zeros(3), "one step"), (torch.zeros(0, 3), "one step"),
        ({"z": torch.zeros(2, 3)}, "inputs are x, given are z"),
    ],
)  # fmt: skip
def test_wrong_inputs(x: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        made(one("lstm")).step(x)


def test_wrong_indices_lanes_and_states():
    net = made(MEMORY)
    good = {"x": torch.zeros(2, 2), "k": torch.tensor([1, 2])}
    _, state = net.step(good)
    for bad, message in (
        ({"k": torch.tensor([1, 5])}, "from 1 to 5"), ({"k": torch.tensor([-1, 1])}, "from -1 to 1"),
        ({"k": torch.tensor([1.0, 2.0])}, "indices"), ({"k": torch.tensor([1])}, "lanes"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            net.step({**good, **bad})
    with pytest.raises(ConfigError, match="'c' holds"):
        net.step({n: v[:1] for n, v in good.items()}, state)
    with pytest.raises(ConfigError, match="a dict, not what"):
        net.step(good, state.tensors())  # type: ignore[arg-type]
