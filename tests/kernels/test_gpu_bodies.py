"""What tests/gpu does on a GPU, tiny and interpreted: the first run there must not die of a typing error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from framework import Network, make_plan
from framework.cells import CONF, yaml_names
from framework.choose import TABLE
from framework.machine import Machine, machine
from kernels.persistent_layout import Layout
from tests.compare import Results
from tests.gpu import bodies, cases, product_bodies, test_large, test_networks
from tests.interpreter import concurrent

ROOT = Path(__file__).parents[2]
KERNELS = [("elementwise", "sru"), ("scan", "mingru"), ("persistent", "lstm_peephole"), ("persistent", "rhn")]
SOME = [("torch", "lstm"), ("torch", "clockwork"), *KERNELS]


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    with cases.poisoned():
        assert torch.empty(3).isnan().all()
        yield


def test_every_shared_cell_and_runner_is_there():
    assert sorted(cases.DENSE + cases.ELEMENTWISE) == yaml_names(CONF / "cell")
    where = machine("cuda", "sm_90", "fp32")
    loops = [c for cell in ("lstm", "sru", "mingru") for c in make_plan(cases.graph_of(cell, 8)).components]
    named = {r.name for r in TABLE if not all(r.refuses(c, where) for c in loops)}
    assert set(cases.RUNNERS) == named - {"torch-fused"}  # which has a file of its own


def networks() -> Iterator[tuple[str, str, int, torch.dtype]]:
    """Runner, cell, units and dtype of the tests on a GPU."""
    for runner, cell in cases.PAIRS:
        yield runner, cell, cases.RUNNERS[runner].units, torch.float32
    for runner, cell, _, size in test_networks.SIZES:
        yield runner, cell, size, torch.float32
    for runner, cell, _, size, kind in [*test_networks.WIDE, *test_large.LARGE]:
        yield runner, cell, size, kind


def test_every_graph_can_be_made():
    for cell, size in {(cell, size) for _, cell, size, _ in networks()}:
        assert cases.graph_of(cell, size, 24).outputs, (cell, size)


@pytest.mark.slow
def test_every_loop_is_taken_on_an_h100():
    """By the runner that the test is about, so that none of them fails for want of a kernel."""
    kinds = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    for runner, cell, size, kind in set(networks()):
        where = machine("cuda", "sm_90", kinds[kind])
        cases.check_taken(make_plan(cases.graph_of(cell, size, 24), runner=runner, device=where), runner)


def test_what_is_too_large_for_a_small_gpu_is_skipped():
    graph, ends = (
        cases.graph_of("lstm", 4),
        {99: pytest.skip.Exception, 0: AssertionError, 227: AssertionError},
    )
    for shared, outcome in ends.items():
        where = Machine("cuda", "sm_90", shared=shared << 10, units=40)
        with pytest.raises(outcome, match="elementwise"):
            cases.check_taken(make_plan(graph, runner="elementwise", device=where), "elementwise")


@pytest.mark.parametrize(("units", "runner"), [(8, "persistent"), (50_000, "torch")])
def test_auto_may_be_anything_but_torch_on_a_gpu(units: int, runner: str):
    where = machine("cuda", "sm_90", "fp16")
    plan = make_plan(cases.graph_of("rnn_tanh", units), device=where)
    assert plan.choices[0].runner == runner
    if runner == "torch":
        with pytest.raises(AssertionError, match="l/h"):
            cases.check_taken(plan, "auto")
    else:
        cases.check_taken(plan, "auto")


def test_a_short_check_has_some_of_everything():
    """`some` takes every runner, and 16-bit dtype; the rest is marked slow."""
    for rows in (test_networks.WIDE, test_networks.SIZES, test_large.LARGE):
        chosen = [row for row in cases.some(rows, 9, 4) if not hasattr(row, "marks")]
        assert len(chosen) == len(range(4, len(rows), 9))
        assert {row[0] for row in chosen} == {row[0] for row in rows}
        assert {row[-1] for row in chosen if len(row) > 4} == {row[-1] for row in rows if len(row) > 4}


@pytest.mark.parametrize(
    ("runner", "cell"),
    # Other tests run each cell by the persistent runner; here it is about these functions.
    [
        pytest.param(*pair, marks=pytest.mark.slow) if pair[0] == "persistent" and pair not in SOME else pair
        for pair in cases.PAIRS
        if cases.RUNNERS[pair[0]].cpu
    ],
)
def test_agrees(runner: str, cell: str):
    bodies.agrees(runner, cell, "cpu", 5, 2, 6, True, torch.float32)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("runner", "cell"), KERNELS)
def test_agrees_in_sixteen_bits(runner: str, cell: str, kind: torch.dtype):
    bodies.agrees(runner, cell, "cpu", 5, 3, 17, False, kind)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("runner", "cell"), SOME)
def test_hoisted_products_by_our_kernels(runner: str, cell: str, kind: torch.dtype):
    bodies.agrees(runner, cell, "cpu", 5, 2, 6, True, kind, products="triton")


@pytest.mark.parametrize(("runner", "cell"), SOME)
def test_repeats(runner: str, cell: str):
    bodies.repeats(runner, cell, "cpu", 5, 2, 5, launches=2)


@pytest.mark.parametrize(("runner", "cell"), SOME)
def test_never_waits(runner: str, cell: str):
    bodies.never_waits(runner, cell, "cpu", 5, 2, 5)


def test_repeats_with_the_watchdog(monkeypatch: pytest.MonkeyPatch):
    """On three programs, which the interpreter runs at once."""
    stock, made = bodies.network, []

    def spread(*given: Any) -> Network:
        made.append(net := stock(*given))
        net.loops[0]._layout = Layout(programs=3, lanes=2, least=2, chunk=16)
        return net

    with pytest.raises(AssertionError, match="no program waits"):
        bodies.repeats("persistent", "rnn_tanh", "cpu", 2, 2, 5, 2, watchdog=True)
    monkeypatch.setattr(bodies, "network", spread)
    with concurrent(seed=1, spin=True) as run:
        bodies.repeats("persistent", "rnn_tanh", "cpu", 3, 2, 5, 2, watchdog=True)
    assert run.launches == 4 and made[0].watchdog


@pytest.mark.parametrize(
    ("runner", "model"), [("auto", "blstm"), ("persistent", "feedback"), ("torch", "tdnn_lstm")]
)
def test_models(runner: str, model: str):
    bodies.model_agrees(runner, model, "cpu", 4, 2, 5, torch.float32)


@pytest.mark.parametrize("runner", [name for name, takes in cases.RUNNERS.items() if takes.cpu])
def test_random_masks(runner: str):
    bodies.masks_agree(runner, "cpu", 7, 3, 9, torch.float32)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("runner", "cell"), SOME)
def test_replays(runner: str, cell: str, backward: bool):
    bodies.replays(runner, cell, "cpu", 5, 2, 5, backward)


@pytest.mark.parametrize(
    "runner", [name for name, takes in cases.RUNNERS.items() if takes.cpu and takes.graphs]
)
def test_random_graphs(runner: str):
    bodies.random_graphs(runner, "cpu", range(5), cases.RUNNERS[runner].kind)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_products(kind: torch.dtype):
    product_bodies.product(20, 33, 17, kind, "cpu")
    product_bodies.table(20, 7, 5, kind, "cpu")
    product_bodies.bias(300, 7, kind, "cpu")


def test_too_far_sees_what_is_wrong():
    """One step that is off, a NaN, and a dtype's own error that is forgiven."""
    exact = {"y": torch.randn(50, 2, 3, dtype=torch.float64)}
    own = {"y": exact["y"].float()}
    assert cases.too_far(own, own, exact) == []
    assert cases.too_far({"y": exact["y"].bfloat16()}, {"y": exact["y"].bfloat16()}, exact) == []
    spoilt = own["y"].clone()
    spoilt[7] *= 1 + 1e-6
    assert "worst_step" in cases.too_far({"y": spoilt}, own, exact)[-1]
    spoilt[7, 0, 0] = float("nan")
    assert len(cases.too_far({"y": spoilt}, own, exact)) == 2


def test_largest_error_sees_what_is_wrong():
    right = {"a": torch.tensor([1.0, 4.0], dtype=torch.float64), "b": None, "c": torch.zeros(2)}
    want = Results({}, None, right)

    def off(**tensors: torch.Tensor | None) -> float:
        return bodies.largest_error(Results({}, None, {**right, **tensors}), want)

    assert off() == off(b=torch.zeros(1)) == off(c=None) == 0
    assert off(a=torch.tensor([1.0, 4.4])) == pytest.approx(0.1)
    for wrong in (None, torch.tensor([float("nan"), 4.0])):
        assert off(a=wrong) == float("inf")
    assert off(b=torch.ones(1)) == float("inf")


def test_a_runner_that_does_not_take_a_cell_is_a_failure():
    with pytest.raises(AssertionError, match="elementwise"):
        cases.network(cases.graph_of("lstm", 4), "elementwise", "cpu", torch.float32)
    with pytest.raises(AssertionError, match="none of these graphs"):
        bodies.random_graphs("elementwise", "cpu", range(0), torch.float64)


# What is not installed is not found: every finder of modules gives None for it.
BARE = """
import sys
from importlib.machinery import PathFinder
class Without:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {absent} else PathFinder.find_spec(name, path, target)
sys.meta_path = [Without() if finder is PathFinder else finder for finder in sys.meta_path]
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_they_collect_on_a_bare_machine():
    """Without hydra, wandb, datasets and the like, and without plugins of pytest; all are marked gpu."""
    absent = {"hydra", "omegaconf", "wandb", "datasets", "soundfile", "tqdm", "matplotlib", "pytest_timeout"}
    options = ["-c", "tests/gpu/pytest.ini", "tests/gpu", "--collect-only", "-m", "not gpu"]
    run = subprocess.run(
        [sys.executable, "-c", BARE.format(absent=absent), *options],
        cwd=ROOT, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 5, run.stdout + run.stderr  # all were imported, and nothing is left
    assert re.search(r"\d{3} deselected", run.stdout), run.stdout
