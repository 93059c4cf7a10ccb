"""Loops in one launch, all programs at once under seeded schedules: bit for bit what each computes in a
launch of its own, and what torch computes. That mistakes would be seen: test_persistent_joint_mutants.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from framework import Network, load_graph
from framework.errors import TrainingError
from framework.runners.triton_persistent import PersistentLoop
from kernels import persistent_joint
from kernels.persistent_layout import Layout
from kernels.persistent_source import Kernel
from tests.compare import Results, assert_same, assert_same_state, copy_weights, run_network
from tests.gpu import together
from tests.graphs import Batch, random_batch
from tests.interpreter import concurrent
from tests.interpreter.concurrent import Run
from tests.kernels.persistent_graphs import network, prepared
from tests.oracle import random_weights

BOTH = {"cell": "lstm_peephole", "size": 4, "in": "x"}
GRAPHS: dict[str, dict[str, Any]] = {
    "both directions": {"f": BOTH, "b": {**BOTH, "backward": True}},
    "branches": {
        "g": {"cell": "gru", "size": 3, "in": "x"},
        "m": {"size": 4, "is": "tanh(norm(full(m[t-1])) + full(tanh(x)))"},
        "h": {"size": 2, "init": "learned", "is": "tanh(full(x) + full(h[t-3]) + block(h[t-1], 2) + bias)"},
    },
    "equal ones": {"a": {"cell": "lstm", "size": 4, "in": "x"}, "b": {"cell": "lstm", "size": 4, "in": "x"}},
    "random masks": {
        "d": {"size": 4, "is": "zoneout(tanh(dropout(full(d[t-1]), 0.3) + full(x)), d[t-1], 0.2)"},
        "e": {"size": 3, "is": "tanh(dropout(full(e[t+1]), 0.4) + full(x) + bias)"},
    },
}
POLLS = 300  # reads of a counter: long enough for programs that take turns
ONE, TWO = Layout(lanes=2, least=2), Layout(programs=2, lanes=2, least=2, chunk=16, groups=1)
THREE = Layout(programs=3, lanes=2, least=1, chunk=16)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with prepared():
        yield


def source(nodes: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": {"x": {"size": 3}}, "nodes": nodes, "outputs": list(nodes)}


def outcome(
    graph: Any, layouts: Sequence[Layout], chunks: list[Batch], seed: int, together: bool, training: bool
) -> tuple[Results, Run, Network]:
    """Outputs, states and gradients under a schedule, by launches of all loops together or of each."""
    net = network(graph, together=together).train(training)
    copy_weights(net, random_weights(net.graph, seed))
    for i, loop in enumerate(net.loops):
        assert isinstance(loop, PersistentLoop)
        loop._layout = layouts[i % len(layouts)]
    torch.manual_seed(seed)
    policy = "priority" if seed % 2 else "random"
    with concurrent(seed=seed, policy=policy, max_steps=2_000_000) as run:
        return run_network(net, chunks, seed), run, net


def same(left: Results, right: Results) -> None:
    """All is equal to the bit."""
    assert left.tensors.keys() == right.tensors.keys()
    for name, x in left.tensors.items():
        y = right.tensors[name]
        assert (x is None) == (y is None), name
        assert x is None or y is None or torch.equal(x, y), name
    assert all(torch.equal(x, right.state.history[n]) for n, x in left.state.history.items())


def check(name: str, layouts: Sequence[Layout], kind: int, seed: int, steps: int = 2, lanes: int = 3) -> None:
    """kind: 1: lengths, 2: resets, 3: both."""
    print(f"seed {seed}")
    graph = load_graph(source(GRAPHS[name]))
    batch = random_batch(graph, seed, bool(kind & 1), bool(kind & 2), steps, lanes)
    ahead = any("backward" in x or "t+" in str(x) for x in GRAPHS[name].values())
    chunks = [batch] if ahead else [batch.steps(0, 1), batch.steps(1, steps)]
    training = name == "random masks"
    got, run, net = outcome(graph, layouts, chunks, seed, True, training)
    assert run.launches == 2 * len(chunks), "a launch for all loops, forward and backward"
    assert len(set(run.grids)) == 1 and run.grids[0][0] > 1, run.grids
    alone, apart, _ = outcome(graph, layouts, chunks, seed, False, training)
    assert apart.launches == run.launches * len(net.loops)
    same(got, alone)
    want = by_torch(graph, chunks, seed, training)
    assert_same(got, want, GRAPHS[name])
    assert_same_state(got.state, {n: x[-1:] for n, x in want.state.history.items()}, GRAPHS[name])


def by_torch(graph: Any, chunks: list[Batch], seed: int, training: bool) -> Results:
    net = Network(graph, runner="torch").double().train(training)
    copy_weights(net, random_weights(graph, seed))
    torch.manual_seed(seed)
    return run_network(net, chunks, seed)


@pytest.mark.parametrize(("name", "kind", "seed"), [(name, kind, kind) for kind, name in enumerate(GRAPHS)])
def test_one_program_each(name: str, kind: int, seed: int):
    """Two tiles of lanes, a program for each."""
    check(name, [ONE], kind, seed)


@pytest.mark.parametrize(
    ("name", "layouts", "kind", "seed"),
    [
        ("both directions", [TWO, THREE], 3, 4),
        ("branches", [THREE, TWO], 2, 6),
        pytest.param("equal ones", [TWO], 1, 7, marks=pytest.mark.slow),
        pytest.param("random masks", [THREE, TWO], 3, 8, marks=pytest.mark.slow),
    ],
)
def test_many_programs_each(name: str, layouts: list[Layout], kind: int, seed: int):
    """Barriers of their own: loops have different numbers of programs, tiles one after the other or not."""
    check(name, layouts, kind, seed, lanes=3 if kind == 3 else 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [n for n in range(9, 33) if n % 6 != 5])  # 5: no gradient for some outputs
def test_schedules(seed: int):
    """More seeds, layouts with weights that come from L2 at every step."""
    streamed = Layout(programs=2, lanes=2, least=4, chunk=16, resident=0)
    layouts = [[TWO, THREE], [THREE, streamed], [streamed], [THREE]][seed % 4]
    name = list(GRAPHS)[seed // 4 % len(GRAPHS)]
    check(name, layouts, seed % 4, seed, steps=4, lanes=5)


def run_of(net: Network, x: Tensor, outputs: Sequence[str]) -> tuple[dict[str, Tensor | None], Run]:
    """Gradients of a loss of some outputs, by parameter; the launches."""
    net.zero_grad()
    with concurrent(seed=3) as run:
        y, _ = net(x)
        torch.stack([y[name].square().sum() for name in outputs]).sum().backward()
    return {n: p.grad for n, p in net.named_parameters()}, run


def joined(name: str, layout: Layout) -> Network:
    net = network(source(GRAPHS[name]), together=True)
    for loop in net.loops:
        assert isinstance(loop, PersistentLoop)
        loop._layout = layout
    return net


def test_only_loops_with_a_gradient_go_back():
    """Of three one has none: two are launched; with one left it is its own kernel."""
    net, x = joined("branches", ONE), torch.randn(3, 2, 3, dtype=torch.float64)
    whole, _ = run_of(net, x, ["g", "m", "h"])
    for outputs in (["g", "h"], ["m"]):
        some, run = run_of(net, x, outputs)
        assert run.launches == 2 and run.grids == [(3, 1, 1), (len(outputs), 1, 1)]
        own = {n.partition(":")[0].partition("/")[0] for n, g in net.grads().items() if g is not None}
        assert own == set(outputs)
        assert all(torch.equal(g, whole[n]) for n, g in some.items() if g is not None)


def test_a_frozen_loop_has_no_gradient():
    """Its outputs need none, the others' are what they were."""
    net, x = joined("equal ones", ONE), torch.randn(3, 2, 3, dtype=torch.float64)
    want, _ = run_of(net, x, ["b"])
    frozen = {n for n in want if want[n] is None}
    assert frozen
    for n, p in net.named_parameters():
        p.requires_grad_(n not in frozen)
    with concurrent(seed=1):
        y, _ = net(x)
    assert not y["a"].requires_grad and y["b"].requires_grad
    got, _ = run_of(net, x, ["b"])
    assert all((want[n] is None) == (g is None) for n, g in got.items())
    assert all(torch.equal(g, w) for n, g in got.items() if g is not None and (w := want[n]) is not None)


def test_equal_loops_share_their_source():
    """One function, called twice."""
    net = joined("equal ones", TWO)
    run_of(net, torch.randn(2, 2, 3, dtype=torch.float64), ["a", "b"])
    (joint,) = net._joint.values()
    texts = [code.text for code, _ in joint._code.values()]
    assert len(texts) == 2 and all(text.count("@triton.jit") == 2 for text in texts)


def test_loops_that_cannot_share_a_launch_go_one_by_one():
    """Another number of warps, or of programs: the layouts of a tuning file may be so."""
    net = joined("equal ones", TWO)
    net.loops[1]._layout = ONE
    _, run = run_of(net, torch.randn(2, 2, 3, dtype=torch.float64), ["a", "b"])
    assert run.launches == 4


def test_a_copy_of_a_network_runs_its_own_loops():
    import copy

    net = joined("equal ones", ONE)
    run_of(net, torch.randn(2, 2, 3, dtype=torch.float64), ["a", "b"])
    other = copy.deepcopy(net)
    (joint,) = other._joint.values()
    assert all(mine is theirs for mine, theirs in zip(joint.members, other.loops, strict=True))
    assert joint.members[0] is not net.loops[0]
    run_of(other, torch.randn(2, 2, 3, dtype=torch.float64), ["a", "b"])


def test_layers_in_parts():
    """A wave through time and layers: part k of one beside part k - 1 of the next, of other length; what the
    torch runner computes in one go.
    """
    cells = {"a": {"cell": "gru", "size": 3, "in": "x"}, "b": {"cell": "lstm", "size": 4, "in": "a"}}
    graph = load_graph({"inputs": {"x": {"size": 3}}, "nodes": cells, "outputs": ["b", "a"]})
    batch = random_batch(graph, 2, True, True, 3, 2)
    net = network(graph, together=True, overlap=2)
    copy_weights(net, random_weights(graph, 2))
    for loop, layout in zip(net.loops, (TWO, THREE), strict=True):
        assert isinstance(loop, PersistentLoop)
        loop._layout = layout
    with concurrent(seed=2) as run:
        got = run_network(net, [batch], 2)
    # First the first part of a; then its second one (a single step) with the first of b; then the rest of b.
    assert run.grids == [(2, 1, 1), (5, 1, 1), (3, 1, 1), (3, 1, 1), (5, 1, 1), (2, 1, 1)]
    assert_same(got, by_torch(graph, [batch], 2, False), cells)


def test_what_a_gpu_would_run():
    """The functions of tests/gpu on a CPU, where they are interpreted."""
    source = together.branches({"a": ("lstm", 3), "b": ("gru", 2)}, "b")
    together.agree(source, "cpu", 2, 2, torch.float32, [[2], [2]], repeats=1, runner="persistent")
    together.replays(source, "cpu", 2, 2, torch.float32, runner="persistent")
    together.overlaps("gru", "cpu", 5, 2, 3, torch.float32, 2, "persistent")


def test_a_hang_names_the_loop(monkeypatch: pytest.MonkeyPatch):
    """With a watchdog: one program of the second loop never arrives; the launch ends, and says whose."""
    stock = persistent_joint.joint

    def broken(codes: Sequence[Kernel]) -> Kernel:
        code = stock(codes)
        head, _, last = code.text.rpartition("def forward_kernel_1(")
        blanks = last.split("arrive(p_bar)")[0].rsplit("\n", 1)[1]
        assert last.count("arrive(p_bar)") == 1
        last = last.replace("arrive(p_bar)", f"if (i_part != 1) | (s < 1):\n{blanks}    arrive(p_bar)")
        return replace(code, text=f"{head}def forward_kernel_1({last}")

    monkeypatch.setattr(persistent_joint, "joint", broken)
    net = joined("both directions", TWO)
    net.watchdog = POLLS
    said = (
        r"^loops f, b, joint_forward_kernel: loop b: program \d of 2 .*waited too long at barrier 1 of step 2"
    )
    with concurrent(seed=3, races=False, spin=True), pytest.raises(TrainingError, match=said):
        net(torch.randn(4, 2, 3, dtype=torch.float64))
