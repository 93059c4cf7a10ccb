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

from framework import Network
from framework.cells import CONF, yaml_names
from kernels.persistent_layout import Layout
from tests.compare import Results
from tests.gpu import bodies, cases, product_bodies
from tests.interpreter import concurrent

ROOT = Path(__file__).parents[2]
KERNELS = [("elementwise", "sru"), ("scan", "mingru"), ("persistent", "lstm_peephole"), ("persistent", "rhn")]
SOME = [("torch", "lstm"), ("torch", "clockwork"), *KERNELS]


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    with cases.poisoned():
        assert torch.empty(3).isnan().all()
        yield


def test_every_shared_cell_is_there():
    assert sorted(cases.DENSE + cases.ELEMENTWISE) == yaml_names(CONF / "cell")


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
    ("runner", "kind"),
    [
        (name, kind)
        for name, takes in cases.RUNNERS.items()
        if takes.cpu and takes.graphs
        for kind in dict.fromkeys((takes.kind, torch.float32))
    ],
    ids=str,
)
def test_random_graphs(runner: str, kind: torch.dtype):
    bodies.random_graphs(runner, "cpu", range(5), kind)


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
