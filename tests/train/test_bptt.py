"""BPTT(h; h') against its definition, step by step in float64: old values, weights of now."""

import gc
from unittest.mock import patch

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from framework import Network, load_graph
from framework.bptt import Windows
from framework.data import Batch
from tests import oracle
from tests.graphs import looks_ahead, random_graph

STEPS = 3  # h'
UPDATES = 4
LANES = 2
RATE = 0.3  # the weights move far, so that a derivative by older ones, or values by newer ones, show

pytestmark = pytest.mark.usefixtures("one_thread")


class Definition:
    """Every value of a step is stored when it is first computed. An update goes through the last h steps once
    more with the weights of now: a value found there counts as the stored one, its derivative as found.
    """

    def __init__(self, graph, depth):
        self.graph, self.depth = graph, depth
        self.stored = {}  # (expression, step, lane) -> value
        self.windows = []  # (first step, inputs, resets, state before)

    def update(self, weights, first, x, resets, state, loss_of):
        """Gradients of the newest window's loss by weight name, and the state after it."""
        self.windows = [*self.windows, (first, x, resets, state)][-self.depth :]
        start, _, _, entry = self.windows[0]
        leaves = {name: w.detach().double().requires_grad_() for name, w in weights.items()}
        stored = self.stored

        def as_then(key, value):
            then = stored.setdefault(key, value.detach().clone())
            return value - value.detach() + then

        class Step(oracle.Piece):
            def read(self, name, t):
                found, span = super().read(name, t), self.span
                carried = span.carried and name in self.source.state
                if span.start <= t or carried or not found.is_floating_point():
                    return found
                # Before the sequence: the initial value of the window in which it began.
                return as_then((name, (start + span.start) // STEPS), found[:1]).expand_as(found)

            def value(self, e, t):
                found = super().value(e, t)
                if e.op in ("num", "bias") or not found.is_floating_point():
                    return found  # a bias is a weight; with its sum it is a value again
                rows = zip(found.expand(len(self.lanes), -1).unbind(), self.lanes, strict=True)
                return torch.stack([as_then((e, start + t, lane), row) for row, lane in rows])

        inputs = {next(iter(self.graph.inputs)): torch.cat([w[1] for w in self.windows])}
        cuts = torch.cat([w[2] for w in self.windows])
        with patch.object(oracle, "Piece", Step):
            out, after = oracle.run(self.graph, leaves, inputs, entry, resets=cuts)
        (y,) = out.values()
        found = torch.autograd.grad(loss_of(y[-len(x) :]), list(leaves.values()), allow_unused=True)
        return dict(zip(leaves, found, strict=True)), {n: h.detach() for n, h in after.items()}


CASES = {
    "lstm_peephole": {"cell": "lstm_peephole", "layers": 2},
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru", "layers": 2},
    "gru_cudnn": {"cell": "gru_cudnn"},
    "lstm_norm": {"cell": "lstm_norm"},
    "indrnn": {"cell": "indrnn"},
    "lstm_projection": {"cell": "lstm_projection"},
    "rhn": {"cell": "rhn"},
    "delays": {
        "a": "tanh(full(x) + 0.5 * full(a[t-4]) + diag(b[t-1]) + bias)",
        "b": "sigmoid(full(a) + full(a[t-2]) + block(b[t-1], 2)) * x2[t-1]",
        "x2": "tanh(full(x[t-5]) + bias)",
    },
    "diagonal": {
        "h": "g * h[t-1] + (1 - g) * tanh(full(x) + diag(h[t-1]) * 3)",
        "g": "sigmoid(full(x) + diag(h[t-1]) * 3 + bias)",
    },
    "linear": {"h": "diag(h[t-1]) * 0.5 * sigmoid(full(x)) + tanh(full(x) + bias)"},
    "learned": {"a": "tanh(full(x) + full(a[t-2]) + bias)", "init": {"a": "learned"}},
}


def graph_of(case):
    spec = dict(CASES[case])
    nodes, init = {}, spec.pop("init", {})
    if "cell" in spec:
        layers = [("l1", 4, "x"), ("l2", 6, "l1")][: spec.get("layers", 1)]
        nodes = {n: {"cell": spec["cell"], "size": size, "in": source} for n, size, source in layers}
        last = layers[-1][0]
    else:
        nodes = {n: {"size": 4, "is": text} for n, text in spec.items()}
        for n, value in init.items():
            nodes[n]["init"] = value
        last = next(iter(spec))
    nodes["y"] = {"size": 2, "is": f"full({last}) + bias"}
    return load_graph({"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": ["y"]})


def train(net, depth, seed=0, rate=RATE, resets=True):
    """Yields, for every update, the gradients of the definition and those found."""
    draw = torch.Generator().manual_seed(seed)
    definition, windows = Definition(net.graph, depth), Windows(net, depth)
    dtype = net.like.dtype
    state, expected_state = None, None
    for k in range(UPDATES):
        (given,) = net.graph.inputs.values()
        classes = net.graph.nodes[next(iter(net.graph.outputs.values()))].size
        x = torch.randn(STEPS, LANES, given.size, generator=draw, dtype=torch.float64)
        target = torch.randn(STEPS, LANES, classes, generator=draw, dtype=torch.float64)
        cuts = torch.rand(STEPS, LANES, generator=draw) < (0.15 if resets else 0.0)

        def loss_of(y, target=target):
            return (y - target.to(y.dtype)).square().sum()

        expected, expected_state = definition.update(
            net.weights(), k * STEPS, x, cuts, expected_state, loss_of
        )
        net.zero_grad()
        batch = Batch(x.to(dtype), x, torch.full((LANES,), STEPS), cuts if resets else None, ())
        y, state = windows.forward(batch, state)
        windows.backward(loss_of(y))
        yield expected, net.grads(), net.weights()
        with torch.no_grad():
            for p in net.parameters():
                g = torch.zeros_like(p) if p.grad is None else p.grad
                p -= rate * g / (1 + g.norm())


def compare(updates, tolerance):
    worst = 0.0
    for k, (expected, found, _) in enumerate(updates):
        assert set(expected) >= set(found)
        scale = max(float(g.abs().max()) for g in expected.values() if g is not None)
        for name, g in expected.items():
            g = torch.zeros(()) if g is None else g
            got = torch.zeros(()) if found[name] is None else found[name]
            error = float((got.double() - g).abs().max()) / scale
            worst = max(worst, error)
            assert error < tolerance, f"update {k}, {name}: {error:.2e}"
    return worst


def check(case, depth, memory, parallel="intra", runner="torch"):
    torch.manual_seed(1)
    net = Network(graph_of(case), runner=runner, memory=memory, parallel=parallel).double()
    compare(train(net, depth), 1e-11)


@pytest.mark.parametrize(
    ("case", "depth", "memory"),
    [
        ("lstm_peephole", 2, "save"),
        ("lstm_peephole", 3, "recompute"),
        ("gru", 1, "save"),
        ("gru_cudnn", 2, "recompute"),
        ("lstm_norm", 2, "save"),
        ("indrnn", 2, "recompute"),
        ("delays", 2, "save"),
        ("delays", 3, "recompute"),
        ("learned", 2, "save"),
        ("learned", 2, "recompute"),
    ],
)
def test_gradients_are_those_of_the_definition(case, depth, memory):
    check(case, depth, memory)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["save", "recompute", "parallel=none", "compiled"])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_definition_everywhere(case, depth, how):
    if how == "compiled":  # where its compiler is not installed, by what stands in for it
        check(case, depth, "save", runner="compiled")
    elif how == "parallel=none":
        check(case, depth, "save", "none")
    else:
        check(case, depth, how)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("seed", range(60))
def test_random_graphs(seed, memory):
    source = random_graph(seed)
    source["outputs"] = ["out"]
    graph = load_graph(source)
    if set(source["inputs"]) != {"x"} or looks_ahead(graph):
        pytest.skip("one input, and nothing read from later steps")
    torch.manual_seed(seed)
    net = Network(graph, memory=memory).double().eval()
    compare(train(net, 2), 1e-9)


# Rounding of float32: sums of some tens of terms, three windows deep. Weights of the wrong time show at 1e-3.
FLOAT32 = 1e-5
KERNELS = [
    ("diagonal", "elementwise", "save"),
    ("delays", "persistent", "save"),
    pytest.param("linear", "scan", "save", marks=pytest.mark.slow),
    pytest.param("diagonal", "elementwise", "recompute", marks=pytest.mark.slow),
    pytest.param("diagonal", "persistent", "recompute", marks=pytest.mark.slow),
    pytest.param("lstm_peephole", "persistent", "recompute", marks=pytest.mark.slow),
    pytest.param("gru_cudnn", "persistent", "save", marks=pytest.mark.slow),
    pytest.param("learned", "persistent", "save", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("case", "runner", "memory"), KERNELS)
def test_kernels_know_both_weights(case, runner, memory):
    torch.manual_seed(1)
    net = Network(graph_of(case), runner=runner, memory=memory)
    assert {choice.runner for choice in net.plan.choices} == {runner}
    compare(train(net, 2), FLOAT32)


def test_weights_of_the_wrong_time_are_told_apart():
    """The tests above would see derivatives by the weights of the forward."""
    torch.manual_seed(1)
    net = Network(graph_of("gru"), runner="torch").double()
    with patch("framework.bptt._hold", lambda x, weights: x.clone()):
        with pytest.raises(AssertionError, match="update 1"):
            compare(train(net, 2), FLOAT32)


def test_torchs_own_routines_leave_such_calls_to_others():
    torch.manual_seed(1)
    net = Network(graph_of("lstm"), runner="torch-fused").double()
    assert {choice.runner for choice in net.plan.choices} == {"torch-fused"}
    compare(train(net, 2, resets=False), 1e-11)


@pytest.mark.parametrize("runner", ["torch", "compiled"])
def test_forgotten_windows_leave_no_memory(runner):
    """Streams break before a window was walked for the last time: what it kept must go with it."""
    nodes = {
        "h": {"size": 4, "is": "tanh(full(x) + full(h[t-1]) + bias)"},
        "y": {"size": 2, "is": "sigmoid(full(h) + bias)"},
    }
    net = Network({"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": ["y"]}, runner=runner)
    windows, state = Windows(net, 3), None
    held = []
    for _ in range(2):
        x = torch.randn(STEPS, LANES, 3)
        y, state = windows.forward(Batch(x, x, torch.full((LANES,), STEPS), None, ()), state)
        windows.backward(y.square().sum())
        held.append(StorageWeakRef(y.untyped_storage()))
    del y, state
    windows.clear()
    gc.collect()
    assert all(x.expired() for x in held)


def test_random_masks_are_those_of_their_window():
    """With weights that stay, the gradient is that of the windows run as one chain under autograd."""
    nodes = {
        "h": {"size": 5, "is": "zoneout(tanh(full(x) + full(h[t-1]) + bias), h[t-1], 0.3)"},
        "y": {"size": 2, "is": "full(dropout(h, 0.4))"},
    }
    net = Network({"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": ["y"]}).double()
    x = torch.randn(3, STEPS, LANES, 3, dtype=torch.float64)
    torch.manual_seed(5)
    windows, state = Windows(net, 2), None
    for part in x:
        net.zero_grad()
        y, state = windows.forward(Batch(part, part, torch.full((LANES,), STEPS), None, ()), state)
        windows.backward(y.square().sum())
    found = {name: g.clone() for name, g in net.grads().items()}
    torch.manual_seed(5)
    net.zero_grad()
    _, state = net(x[0])
    _, state = net(x[1], state.detach())
    y, _ = net(x[2], state)
    y.square().sum().backward()
    for name, g in net.grads().items():
        torch.testing.assert_close(found[name], g, rtol=1e-12, atol=1e-14)
