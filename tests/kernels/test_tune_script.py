"""scripts/tune.py, with a stand-in for the clock: what it takes, what it leaves out, what it writes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from framework import load_graph
from framework.errors import ConfigError
from kernels import tuning
from kernels.persistent_choice import Room
from kernels.persistent_layout import Layout
from kernels.tuning import bucket
from scripts import tune, tune_loops
from tests.interpreter import concurrent
from tests.kernels.persistent_graphs import of_cell

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Room(programs=6, loaded=64)
OTHER = 12 - Layout().back_warps  # 4 or 8 warps, what the model does not take


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_loops, "CHECKED", 2)
    monkeypatch.setattr(tune_loops, "REPEATS", 1)


def tuner(
    seconds: Callable[[Layout], float], lines: list[str], cell: str = "rnn_tanh", layers: int = 1
) -> tune_loops.LoopTuner:
    """Of equal layers of 40 units; seconds: what a launch takes, by its layout."""
    source = of_cell(cell, 40, features=40)
    names = ["l", *(f"l{k}" for k in range(2, layers + 1))]
    for below, name in pairwise(names):
        source["nodes"][name] = {**source["nodes"]["l"], "in": below}
    made: list[tune_loops.LoopTuner] = []

    def clock(run: Callable[[], object]) -> float:
        run()
        return seconds(next(loop._layout for loop in made[0].net.loops if loop._layout))

    graph = load_graph({**source, "outputs": [names[-1]]})
    made.append(
        tune_loops.LoopTuner(graph, "cpu", torch.float32, "persistent", clock, lines.append, limits=LIMITS)
    )
    return made[0]


def test_the_fastest_is_kept():
    """Of equal layers one is measured; stages: places and tiles first, then warps, then what is loaded."""
    lines: list[str] = []

    def seconds(x: Layout) -> float:
        return 1e-6 * (5 + abs(x.programs - 3) + (x.lanes != 8) + (x.back_warps != OTHER) + (x.loaded != 32))

    with concurrent(seed=1, races=False) as ran:
        (row,) = tuner(seconds, lines, layers=2).rows("two layers", [6], 1)
    best = row.layout
    assert (best.programs, best.lanes, best.back_warps, best.loaded) == (3, 8, OTHER, 32)
    assert row.lanes == 6 and row.dtype == "fp32" and row.name == "two layers, l/h"
    assert row.microseconds == pytest.approx((5, 5), abs=1e-3)
    assert {grid[0] for grid in ran.grids} >= {1, 3}  # one program as well
    assert "the best so far" in lines[0] and not any("wrong" in line for line in lines)
    assert len(lines) == len(set(lines)) >= 6


def test_what_is_wrong_is_left_out(monkeypatch):
    """However fast: results are compared before anything is timed."""
    lines: list[str] = []
    stock = tune_loops.outcome

    def outcome(net, steps, lanes):
        found = stock(net, steps, lanes)
        if any(getattr(loop, "_layout", None) and loop._layout.programs > 1 for loop in net.loops):
            found[0] = found[0] + 0.01
        return found

    monkeypatch.setattr(tune_loops, "outcome", outcome)
    with concurrent(seed=2, races=False):
        (row,) = tuner(lambda x: 1e-6 / x.programs, lines).rows("one layer", [3], 1)
    assert row.layout.programs == 1
    assert sum("programs" in line and ": wrong, its error is" in line for line in lines) >= 1
    assert not any(line.split(": ")[1].startswith("3 programs") and "us a step" in line for line in lines)


def test_what_cannot_run_is_left_out(monkeypatch):
    """A refusal is told, and the others are measured."""
    from kernels import persistent
    from kernels.persistent import NoRoom

    def launch(code, module, layout, *rest, **more):
        if layout.lanes == 8:
            raise NoRoom("there is none", "Take another.")
        return stock(code, module, layout, *rest, **more)

    stock = persistent.launch
    monkeypatch.setattr(persistent, "launch", launch)
    lines: list[str] = []
    with concurrent(seed=3, races=False):
        (row,) = tuner(lambda x: 1e-6, lines).rows("one layer", [2], 1)
    assert row.layout.lanes == 16 and any("8 lanes" in x and "there is none" in x for x in lines)


def test_products(monkeypatch):
    """Forward and both gradients; the faster one is named, with the tile of the table."""
    lines: list[str] = []
    turn = iter([3.0, 1.0] * 2 + [1.0, 3.0])

    def clock(run: Callable[[], object]) -> float:
        run()
        return next(turn) * 1e-6

    net = tuner(lambda x: 1.0, [], "sru", layers=2).net
    net.plan = replace(net.plan, packs={n: p for n, p in list(net.plan.packs.items()) if p.kind == "full"})
    shapes = {p.shape for p in net.plan.packs.values()}
    assert len(shapes) >= 1
    first = min(shapes)
    net.plan = replace(net.plan, packs={n: p for n, p in net.plan.packs.items() if p.shape == first})
    rows = list(tune_loops.product_rows(net, 6, clock, lines.append))
    n, k = first
    assert [(r.m, r.n, r.k) for r in rows] == [(6, n, k), (6, k, n), (n, k, 6)]
    assert [r.backend for r in rows] == ["torch", "torch", "triton"] and len(lines) == 3
    assert rows[0].microseconds == (3.0, 1.0) and bucket(rows[0].m) == 8


def test_rows_are_read_again(tmp_path, monkeypatch):
    """From the options to the file."""
    path = tmp_path / "mine.json"
    own, model, params = tune.options(
        ["model=stack", "cell=rnn_tanh", "size=24", "layers=1", "lanes=2", "steps=2",
         "dtype=fp32", "device=cpu", "products=no", f"file={path}"]
    )  # fmt: skip
    assert own["lanes"] == [2] and params["size"] == 24 and model["runner"] == "persistent"
    lines: list[str] = []

    def clock(run: Callable[[], object]) -> float:
        run()
        return 1e-6

    with concurrent(seed=4, races=False):
        found = tune.measured(own, model, params, clock=clock, report=lines.append, limits=LIMITS)
    tuning.save(tuning.read(path).joined(found), path)
    assert tuning.read(path) == found and found.loops and not found.products
    assert "stack rnn_tanh" in found.loops[0].name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=lstm", "lanes=0"], "lanes: '0' is no list of numbers"),
        (["model=lstm", "dtype=fp8"], "dtype: no dtype 'fp8'"),
        (["model=lstm", "runner=torch"], "runner: 'torch' has no layouts"),
        (["model=lstm", "products=maybe"], "products: 'maybe' is neither"),
        (["lstm"], "lstm: there is no value"),
    ],
)
def test_mistakes(arguments, said):
    with pytest.raises(ConfigError, match=said):
        tune.options(arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    """One line, and nothing is written."""
    ran = subprocess.run(
        [sys.executable, "scripts/tune.py", "model=lstm"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 2 and not ran.stdout
    assert ran.stderr.splitlines()[-1].startswith("ConfigError: device: there is no GPU here")
