"""Kernels over many programs with one mistake each: a race, a deadlock or a wrong value shows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import pytest
import torch

from framework import Network, load_graph
from framework.graph import Graph
from framework.runners import triton_persistent
from kernels import persistent, persistent_cell
from kernels.persistent_cell import Saved
from kernels.persistent_layout import Layout
from kernels.persistent_source import Kernel
from tests.compare import Results, assert_same, call, copy_weights, run_network, run_oracle
from tests.graphs import Batch, random_batch
from tests.interpreter import DeadlockError, RaceError
from tests.interpreter.races import RaceDetector
from tests.kernels.persistent_graphs import network, prepared
from tests.kernels.persistent_spread import scheduled, spread
from tests.oracle import random_weights

GRAPHS = {
    # Products of reads and of values of the step, a statistic, a single unit that all programs have: with
    # three barriers in a step.
    "all": {
        "s": {"size": 1, "is": "sigmoid(full(x) + full(h[t-1]) + diag(s[t-1]))"},
        "r": {"size": 5, "is": "sigmoid(norm(full(h[t-1]) + full(x)))"},
        "h": {"size": 5, "init": "learned", "is": "s * h[t-1] + (1 - s) * tanh(full(r * h[t-1]) + full(x))"},
    },
    # One barrier: a program may store its part before another has read that of the step before.
    "a statistic": {"h": {"size": 5, "is": "softmax(diag(h[t-1]) + full(x))"}},
    "a single unit": {
        "s": {"size": 1, "is": "sigmoid(full(x) + full(h[t-1]))"},
        "h": {"size": 5, "is": "tanh(s * h[t-1] + full(x))"},
    },
}
LAYOUT = Layout(programs=3, lanes=2, least=2, chunk=16, groups=1)
STEPS, LANES = 4, 3  # lanes: two tiles, one after the other

Which = Literal["forward", "backward"]
RACE, DEADLOCK, VALUE = "race", "deadlock", "wrong value"


class Mutant(NamedTuple):
    """A change of the source (a pattern and what stands for all it matches), and what may show it."""

    which: Which
    pattern: str
    new: str
    shown: tuple[str, ...]
    graph: str = "all"


ARRIVE, WAIT = r"^ *arrive\(p_bar\)\n", r"^ *wait\(p_bar, .*\)\n"
ADD = 'tl.atomic_add(p_bar, {}, sem="{}", scope="{}")'
ANY: tuple[str, ...] = (RACE, VALUE)
SPIN = r"\1while {} < \2:\n\1    pass"
MUTANTS = {
    # The barrier
    "no barrier": Mutant("forward", f"{ARRIVE}|{WAIT}", "", ANY),
    "no barrier in the backward": Mutant("backward", f"{ARRIVE}|{WAIT}", "", ANY),
    "arrives but does not wait": Mutant("forward", WAIT, "", ANY),
    "does not wait for the last step": Mutant("forward", r"^ *wait\(p_bar, \(s \* 3 \+ 0\) .*\n", "", ANY),
    "does not wait for statistics": Mutant("forward", r"^ *wait\(p_bar, \(s \* 3 \+ 1\) .*\n", "", ANY),
    "does not wait for a product": Mutant("backward", r"^ *wait\(p_bar, \(s \* \d \+ 1\) .*\n", "", ANY),
    "waits for one who never comes": Mutant("forward", ARRIVE, "", (DEADLOCK,)),
    "one arrival is missing": Mutant(
        "forward", rf"({ARRIVE})( *wait\(p_bar, \(s \* 3 \+ 2\))", r"\2", (DEADLOCK,)
    ),
    "relaxed arrival": Mutant("forward", r"arrive\(p_bar\)", ADD.format(1, "relaxed", "gpu"), (RACE,)),
    "relaxed wait": Mutant(
        "forward", r"^( *)wait\(p_bar, (.*)\)$", SPIN.format(ADD.format(0, "relaxed", "gpu")), (RACE,)
    ),
    "arrival within a program": Mutant(
        "backward", r"arrive\(p_bar\)", ADD.format(1, "release", "cta"), (RACE,)
    ),
    "wait by a volatile load": Mutant(
        "forward", r"^( *)wait\(p_bar, (.*)\)$", SPIN.format("tl.load(p_bar, volatile=True)"), (RACE,)
    ),
    "waits for one program": Mutant("forward", r"(wait\(p_bar, \(s \* 3 \+ \d\)) \* 3\)", r"\1)", ANY),
    "waits for one too few": Mutant("backward", r"(wait\(p_bar, .*)\)$", r"\1 - 1)", ANY),
    "waits for the next barrier": Mutant(
        "forward", r"wait\(p_bar, \(s \* 3 \+ (\d)\)", r"wait(p_bar, (s * 3 + \1 + 1)", (DEADLOCK,)
    ),
    "a counter for all tiles": Mutant("forward", r"p_counter \+ i_tile \* 32", "p_counter", ANY),
    # What is exchanged
    "a state is stored after the arrival": Mutant(
        "forward", r"^( *tl\.store\(p_node.*, h\.to.*\n)( *arrive\(p_bar\)\n)", r"\2\1", ANY
    ),
    "a value is stored after the arrival": Mutant(
        "forward", r"^( *tl\.store\(p_extra.*mask=m5\)\n)( *arrive\(p_bar\)\n)", r"\2\1", ANY
    ),
    "a gradient is stored after the arrival": Mutant(
        "backward", r"^( *tl\.store\(p_d_pre.*mask=m5\)\n)( *arrive\(p_bar\)\n)", r"\2\1", ANY
    ),
    "one place for statistics": Mutant("forward", r"s % 2 \*", "0 *", ANY, "a statistic"),
    "one place for sums of the backward": Mutant("backward", r"s % 2 \*", "0 *", ANY, "a statistic"),
    "the row of the step before": Mutant(
        "forward", r"(tl\.load\(p_extra\d+ \+ \()o_row(\).*\.cg)", r"\1tl.maximum(o_row - B, o_lane)\2", ANY
    ),
    "the gradient of the step before": Mutant(
        "backward", r"(tl\.load\(p_d_pre \+ )\(\(?o_row\)?(\[None, :, :\])?\)",
        r"\1(tl.minimum(o_row + B, tl.cast(T - 1, tl.int64) * B + o_lane)\2)", ANY,
    ),
    "statistics of this program alone": Mutant(
        "forward", r"(tl\.load\(p_stat .*?\b)i_parts\b", r"\1i_part", (VALUE,)
    ),
    # A single unit
    "a single unit is stored by all": Mutant("forward", r"mask=m_first", "mask=m_lane", (RACE,)),
    "its gradient is stored by all": Mutant("backward", r"mask=m_first", "mask=m_lane", (RACE,)),
    "its sum is stored by all": Mutant("backward", r"tl\.where\(i_part == 0, 1, 0\)", "1", (RACE,)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with prepared():
        yield


def graph_of(name: str) -> Graph:
    return load_graph({"inputs": {"x": {"size": 3}}, "nodes": GRAPHS[name], "outputs": ["h"]})


def forward(net: Network, batch: Batch) -> Results:
    """Outputs alone, with all that a backward would need."""
    y, state = call(net, batch.inputs, None, batch)
    return Results(y, state, {f"out {name}": x for name, x in y.items()})


def outcome(seed: int, name: str = "all", which: Which = "backward") -> str:
    """What showed a mistake in the forward, or in either; or ""."""
    graph = graph_of(name)
    weights, batch = random_weights(graph, 1), random_batch(graph, 1, steps=STEPS, lanes=LANES)
    net = spread(network(graph), [LAYOUT])
    copy_weights(net, weights)
    try:
        with scheduled(seed):
            got = run_network(net, [batch], 1) if which == "backward" else forward(net, batch)
    except DeadlockError:
        return DEADLOCK
    except RaceError:
        return RACE
    want = run_oracle(graph, weights, [batch], 1)
    want.tensors = {n: x for n, x in want.tensors.items() if which == "backward" or n.startswith("out ")}
    try:
        assert_same(got, want)
    except AssertionError as error:
        assert "off by" in str(error)
        return VALUE
    return ""


def change(monkeypatch: pytest.MonkeyPatch, mutant: Mutant) -> list[int]:
    """Have a mutant made in the place of the kernel; a list of how often its pattern was there."""
    name, found = f"{mutant.which}_code", list[int]()
    make: Callable[..., Kernel] = getattr(triton_persistent, name)

    def code(*given: Any) -> Kernel:
        made = make(*given)
        text, count = re.subn(mutant.pattern, mutant.new, made.text, flags=re.MULTILINE)
        found.append(count)
        return Kernel(**{**vars(made), "text": text})

    monkeypatch.setattr(triton_persistent, name, code)
    return found


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(s, marks=pytest.mark.slow) for s in range(2, 10))])
@pytest.mark.parametrize("graph", GRAPHS)
def test_without_a_mistake(graph: str, seed: int):
    assert outcome(seed, graph) == ""


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 6))])
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant(name: str, seed: int, monkeypatch: pytest.MonkeyPatch):
    mutant = MUTANTS[name]
    found = change(monkeypatch, mutant)
    shown = outcome(seed, mutant.graph, mutant.which)
    print(f"{name}, seed {seed}: {shown}")
    assert found and all(found), "the text to change is not there"
    assert shown in mutant.shown, shown


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_used_counter(seed: int, monkeypatch: pytest.MonkeyPatch):
    """As the launch before has left it: nobody waits."""
    make = persistent.new_counters
    monkeypatch.setattr(persistent, "new_counters", lambda *given: make(*given) + 1000)
    assert outcome(seed) in ANY


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_single_unit_written_over_what_others_read(seed: int, monkeypatch: pytest.MonkeyPatch):
    """Its activation over its hoisted sum, which the other programs load, too: as with one program."""
    make = persistent_cell.saved_values

    def alone(cell: Any, d: Any, many: bool = False) -> Saved:
        return make(cell, d, False)

    monkeypatch.setattr(persistent_cell, "saved_values", alone)
    assert outcome(seed, "a single unit") == RACE


def test_without_a_detector_values_show_a_missing_barrier(monkeypatch: pytest.MonkeyPatch):
    """Schedules alone let programs read too early: it is not the detector that makes up a mistake."""
    change(monkeypatch, MUTANTS["no barrier"])
    monkeypatch.setattr(RaceDetector, "raise_if_any", lambda self: None)
    assert outcome(0, which="forward") == VALUE


def test_groups():
    """As many groups as the layout has, at most one for a tile."""
    graph = graph_of("all")
    batch = random_batch(graph, 1, steps=1, lanes=7)
    for groups, programs in ((1, 3), (3, 9), (9, 12)):
        net = spread(network(graph), [Layout(3, 2, least=2, chunk=16, groups=groups)])
        with scheduled(1) as run, torch.no_grad():
            net(batch.inputs["x"])
        assert run.grids == [(programs, 1, 1)]
