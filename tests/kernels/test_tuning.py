"""What was measured on a GPU takes the place of the model there, as far as it fits; a broken file is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from framework import Network, persistent_fit, tuning
from framework.errors import ConfigError
from framework.load import load_graph
from framework.machine import Machine, machine
from framework.persistent import cell_of, derivative_of
from framework.plan import make_plan
from framework.runners.triton_persistent import PersistentLoop
from kernels import tuning as files
from kernels.launch import GEMM_TABLE, Chip, Operands, gemm_launch
from kernels.persistent_choice import Room
from kernels.persistent_layout import Layout
from kernels.persistent_tuned import candidates, misfit
from kernels.tuning import LoopRow, ProductRow, Tuning, cell_key, malformed, read, save, versions_now
from tests.gpu.cases import graph_of
from tests.interpreter import concurrent
from tests.kernels.persistent_graphs import of_cell

GPU = replace(machine("cuda", "sm_90", "bf16"), name="NVIDIA Test")
LAYOUT = Layout(programs=16, lanes=8, splits=4, groups=8, loaded=64, back_warps=2)


@pytest.fixture(autouse=True)
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No test sees the file of whoever runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files.use(None)
    yield files.default_file()
    monkeypatch.undo()
    files.active.cache_clear()


def loop(cell: str = "lstm", units: int = 256):
    (c,) = make_plan(graph_of(cell, units)).components
    return c


def row(layout: Layout = LAYOUT, **changes) -> LoopRow:
    key = cell_key(cell_of(loop(), True))
    made = LoopRow(GPU.name, key, "bf16", 16, layout, name="lstm 256", versions=versions_now())
    return replace(made, microseconds=(1.5, 2.5), **changes)


def plan_of(*rows: LoopRow, on: Machine = GPU):
    save(Tuning(rows), files.default_file())
    files.use(None)
    return make_plan(graph_of("lstm", 256), "intra", "persistent", on)


def test_a_file_holds_what_was_written(own_file):
    tile = next(r.tile for r in GEMM_TABLE if r.chip == "sm_90" and r.tile.tma)
    product = ProductRow(GPU.name, "half", 4096, 1024, 256, "torch", tile, versions=versions_now())
    written = Tuning((row(), row(lanes=64, streamed=True)), (product,))
    save(written, own_file)
    assert read(own_file) == written
    assert read(own_file.with_name("absent.json")) == Tuning()


def test_newer_rows_take_the_place_of_older_ones():
    other = replace(LAYOUT, lanes=16)
    joined = Tuning((row(), row(lanes=64))).joined(Tuning((row(other),)))
    assert {r.lanes: r.layout for r in joined.loops} == {16: other, 64: LAYOUT}


def test_a_measured_layout_takes_the_place_of_the_model():
    """For the lanes that it was measured for; the plan says so."""
    c = loop()
    model = persistent_fit.layout_of(c, GPU)
    plan = plan_of(row())
    found = persistent_fit.layout_of(c, GPU)
    assert found == replace(model, tuned=((16, LAYOUT),)) and model != LAYOUT
    assert found.at(1) == found.at(16) == LAYOUT and found.at(17) == replace(model.at(17), tuned=found.tuned)
    assert "; up to 16 lanes as measured: 16 programs, 8 lanes" in plan.choices[0].how
    assert found.at(16).backward().warps == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": "NVIDIA Other"}, {"dtype": "fp16"}, {"streamed": True}, {"cell": "0123456789abcdef"},
        {"versions": {**versions_now(), "triton": "1.0"}}, {"versions": {}},
    ],
)  # fmt: skip
def test_a_row_about_something_else_changes_nothing(changes):
    plan = plan_of(row(**changes))
    assert plan.choices == make_plan(graph_of("lstm", 256), "intra", "persistent", GPU).choices
    assert not persistent_fit.layout_of(loop(), GPU).tuned


def test_a_gpu_without_a_name_has_no_measurements():
    """A plan for a chip that is not here."""
    plan_of(row(gpu=""))
    assert not persistent_fit.layout_of(loop(), replace(GPU, name="")).tuned


@pytest.mark.parametrize(
    ("units", "layout", "said"),
    [
        (100, replace(LAYOUT, groups=8), "16 programs for each of 8 tiles; there is room for 100"),
        (8, replace(LAYOUT, groups=1), "16 programs for each of 1 tiles; there is room for 8"),
        (132, replace(LAYOUT, programs=17, groups=1), "256 units do not go over 17 programs, 16 each"),
        (132, Layout(), "matrices of 262144 numbers in a program that has room for "),
        (132, Layout(2, groups=1), "matrices and sources of "),
    ],
)
def test_what_does_not_fit_is_refused(units, layout, said):
    """A slice of the GPU that it was measured on, or numbers written by hand: never launched, and told."""
    here = replace(GPU, units=units)
    plan = plan_of(row(layout), on=here)
    assert not persistent_fit.layout_of(loop(), here).tuned
    assert f"; not that measured for 16 lanes: {said}" in plan.choices[0].how


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("format",), 7, "it is not of format 1"),
        (("loops", 0, "layout", "lanes"), 12, r"loops\[0\]: lanes is 12, which is no power of 2"),
        (("loops", 0, "layout", "warps"), 16, "warps is 16: one of 1, 2, 4, 8"),
        (("loops", 0, "layout", "programs"), "many", "programs is 'many', which is no whole number"),
        (("loops", 0, "layout", "groups"), 0, "there is no program in it"),
        (("loops", 0, "layout", "wide"), [32], "Layout has no wide"),
        (("loops", 0, "speed"), 1, "LoopRow has no speed"),
        (("products", 0, "backend"), "cublas", r"products\[0\]: backend is 'cublas'"),
        (("products", 0, "tile", "bm"), 1024, "GEMM_TABLE has no such tile"),
    ],
)
def test_a_broken_file_is_told(own_file, path, value, said):
    """Place, cause and fix, as every error of a user."""
    tile = next(r.tile for r in GEMM_TABLE if r.chip == "sm_90")
    save(Tuning((row(),), (ProductRow(GPU.name, "half", 16, 64, 64, "torch", tile),)), own_file)
    found = json.loads(own_file.read_text())
    inside = found
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    own_file.write_text(json.dumps(found))
    files.active.cache_clear()
    with pytest.raises(ConfigError, match=rf"tuning.json.*{said}.* Mend it, or delete the file"):
        make_plan(graph_of("lstm", 256), "intra", "persistent", GPU)


def test_no_json_and_no_file(own_file):
    own_file.parent.mkdir(parents=True, exist_ok=True)
    own_file.write_text("{")
    with pytest.raises(ConfigError, match="it cannot be read as JSON"):
        tuning.use(own_file)
    with pytest.raises(ConfigError, match="there is no such file"):
        tuning.use(own_file.with_name("other.json"))


def test_a_file_of_ones_own(tmp_path):
    """Named by the user: it takes the place of that in the cache folder."""
    save(Tuning((row(),)), tmp_path / "mine.json")
    tuning.use(tmp_path / "mine.json")
    assert persistent_fit.layout_of(loop(), GPU).tuned
    tuning.use(None)
    assert not persistent_fit.layout_of(loop(), GPU).tuned


def test_layouts_change_with_the_number_of_lanes():
    """One program for few lanes, three for more: what a backward finds is what its forward has left."""
    torch.manual_seed(0)
    graph = load_graph(of_cell("lstm_norm", 5))
    nets = [Network(graph, runner=runner) for runner in ("persistent", "torch")]
    nets[1].load_state_dict(nets[0].state_dict())
    (run,) = nets[0].loops
    assert isinstance(run, PersistentLoop)
    many = Layout(programs=3, lanes=2, least=2, chunk=16, splits=2, groups=2)
    run._layout = Layout(lanes=2, least=2, tuned=((1, many), (2, Layout(lanes=4, least=2)), (5, many)))
    for lanes in (1, 2, 4, 8):
        x, found = torch.randn(3, lanes, 3), list[list[torch.Tensor]]()
        for net in nets:
            given = x.clone().requires_grad_()
            net.zero_grad()
            with concurrent(seed=lanes) as ran:
                y, _ = net(given)
                y.square().sum().backward()
            assert all((grid[0] % 3 == 0) == (lanes in (1, 4)) for grid in ran.grids) or net is nets[1]
            found.append([y.detach(), given.grad, *(g for g in net.grads().values() if g is not None)])
        for a, b in zip(*found, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_keys_are_of_content():
    """Equal for equal layers and for other names; another size, cell or direction is another loop."""

    def keys(source) -> list[str]:
        return [cell_key(cell_of(c, True)) for c in make_plan(load_graph(source)).components]

    def net(cell="gru", size=8, backward=False):
        node = {"cell": cell, "size": size, "in": "x", "backward": backward}
        return {"inputs": {"x": {"size": 3}}, "nodes": {"here": node}, "outputs": ["here"]}

    two = net()
    two["nodes"]["there"] = {"cell": "gru", "size": 8, "in": "here"}
    two["outputs"] = ["there"]
    first, second = keys(two)
    assert first == second == keys(net())[0]
    assert len({*keys(net()), *keys(net("lstm")), *keys(net(size=9)), *keys(net(backward=True))}) == 4


def test_candidates_fit():
    """The model's own comes first; none is malformed or too large, in a slice either."""
    c = loop()
    cell, d = cell_of(c, True), derivative_of(c)
    for room in (persistent_fit.room(GPU), replace(persistent_fit.room(GPU), programs=20)):
        found = list(candidates(cell, d, room, 16))
        assert len(found) > 4 and not any(malformed(x) or misfit(cell, d, x, room) for x in found)
        assert len({x.programs for x in found}) > 1 and all(
            x.programs * x.groups <= room.programs for x in found if x.programs > 1
        )
    model = persistent_fit.layout_of(c, GPU)
    assert next(candidates(cell, d, persistent_fit.room(GPU), 16)) == replace(model, wide=())
    assert all(x.resident == 0 for x in candidates(cell, d, persistent_fit.room(GPU), 16, streamed=True))
    small = loop("gru", 24)
    assert any(x.programs == 1 for x in candidates(cell_of(small, True), derivative_of(small), Room(), 4))


def test_products_as_measured():
    """On that GPU, for such shapes and operands alone."""
    chip = Chip("sm_90", 132, GPU.name)
    tile = next(r.tile for r in GEMM_TABLE if r.chip == "sm_90" and r.wide and r.max_m == 64)
    rows = (ProductRow(GPU.name, "half", 4096, 1024, 256, "triton", tile, versions=versions_now()),)
    before = gemm_launch(chip, "half", 4000, 1024, 256)
    save(Tuning((), rows), files.default_file())
    files.use(None)
    found = gemm_launch(chip, "half", 4000, 1024, 256)
    assert (found.tile, found.backend, found.measured) == (tile, "triton", True) and before.tile != tile
    for m, n, operands, where in (
        (2048, 1024, Operands(), chip), (4000, 1000, Operands(), chip),
        (4000, 1024, Operands(wide=False), chip), (4000, 1024, Operands(), Chip("sm_90", 132, "Other")),
        (4000, 1024, Operands(), Chip("gfx9", 304, GPU.name)),
    ):  # fmt: skip
        assert not gemm_launch(where, "half", m, n, 256, operands).measured
