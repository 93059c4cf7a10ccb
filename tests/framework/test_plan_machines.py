"""Plans for a machine: what auto takes where, and a network that is moved chooses again."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from framework import network
from framework.choose import TABLE, Runner, choose
from framework.errors import ConfigError
from framework.load import load_graph
from framework.machine import CPU, Machine, machine
from framework.network import RUNNERS, Network
from framework.plan import make_plan
from framework.runners import place
from framework.runners.torch_loop import TorchLoop
from framework.runners.triton_elementwise import ElementwiseLoop

ROOT = Path(__file__).parents[2]
CUDA = machine("cuda", "sm_80", "bf16")


def sru():
    """A graph whose loop has no exchange."""
    return load_graph("stack", cell="sru", layers=1, size=4, input={"size": 3}, classes=2)


def test_every_row_has_its_class_and_every_class_its_row():
    assert sorted(RUNNERS) == sorted(row.name for row in TABLE)


def test_names_of_machines():
    assert machine() == CPU and str(CPU) == "cpu fp32"
    assert str(machine("cuda")) == "cuda sm_90 fp32"
    assert CUDA.itemsize == 2 and CUDA.shared == 163 * 1024
    assert machine("cuda", "sm_120") == Machine("cuda", "sm_80", shared=99 * 1024, units=170)
    assert [machine("cpu", dtype=d).itemsize for d in ("fp64", "fp32", "tf32", "fp16")] == [8, 4, 4, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("gpu",), "device: no device 'gpu'. There are: cpu, cuda."),
        (("cuda", "sm_9"), "chip: no chip 'sm_9'. There are: sm_80, .* Did you mean 'sm_90'"),
        (("cuda", "", "float"), "dtype: no dtype 'float'. There are: fp64, fp32"),
        (("cpu", "sm_90"), "chip: 'sm_90' on a CPU. Add device=cuda"),
    ],
)
def test_unknown_machines(given, message):
    with pytest.raises(ConfigError, match=message):
        machine(*given)


def test_a_plan_for_another_machine_differs_in_choices_only():
    plan = make_plan(sru())
    moved = plan.on(CUDA)
    assert [c.runner for c in plan.choices] == ["torch"]
    assert [c.runner for c in moved.choices] == ["elementwise"]
    assert moved.steps is plan.steps and moved.components is plan.components
    assert moved.on(CPU) == plan
    assert make_plan(sru(), device=CUDA) == moved
    assert make_plan(sru(), device="cuda").machine == machine("cuda")
    assert make_plan(sru(), device=Machine("meta")).choices == plan.choices


def test_predicted_bytes_are_those_of_the_machine():
    plan = make_plan(sru())
    assert (
        plan.on(CUDA).activation_bytes(7, 3) * 2
        == plan.activation_bytes(7, 3)
        == plan.activation_bytes(7, 3, 4)
    )


def test_a_forced_runner_stays_forced_when_moved():
    plan = make_plan(sru(), runner="torch")
    assert [c.runner for c in plan.on(CUDA).choices] == ["torch"]


def test_auto_takes_no_kernels_without_triton():
    without = Machine("cuda", "sm_90", triton=False)
    (choice,) = make_plan(sru(), device=without).choices
    assert choice.runner == "torch" and choice.notes[0] == "elementwise: triton is not installed"


def test_a_runner_may_refuse_by_machine(monkeypatch):
    def refuses(c, machine):
        return "" if machine.itemsize * 1000 <= machine.shared else "no room"

    monkeypatch.setattr("framework.choose.TABLE", (Runner("tiny", refuses, ("cuda",)), *TABLE))
    (c,) = make_plan(load_graph("gru", size=4, layers=1)).components
    assert choose(c).runner == "torch" and not choose(c).notes
    assert choose(c, machine=CUDA).runner == "tiny"
    refused = choose(c, "tiny", Machine("cuda", shared=10))
    assert refused.runner == "torch" and refused.notes[0] == "tiny: no room"


@pytest.fixture
def moving(monkeypatch):
    """bf16 stands for a GPU."""
    real = network.machine_of

    def machine_of(x):
        return CUDA if x.dtype == torch.bfloat16 else real(x)

    monkeypatch.setattr(network, "machine_of", machine_of)


@pytest.mark.parametrize(
    "move", [lambda net: net.bfloat16(), lambda net: torch.nn.Sequential(net).bfloat16()]
)
def test_a_moved_network_chooses_again(moving, move):
    net = Network(sru())
    assert isinstance(net.loops[0], TorchLoop) and net.plan.machine == CPU
    before = net.loops[0]
    move(net)
    assert isinstance(net.loops[0], ElementwiseLoop) and net.plan.machine == CUDA
    assert "runner elementwise" in str(net.plan)
    net.float()
    assert isinstance(net.loops[0], TorchLoop) and net.plan == make_plan(sru())
    after = net.loops[0]
    net.float()
    assert net.loops[0] is after is not before


def test_a_network_that_is_loaded_elsewhere_chooses_again(moving, monkeypatch):
    net = Network(sru()).bfloat16()
    file = io.BytesIO()
    torch.save(net, file)
    assert isinstance(copy.deepcopy(net).loops[0], ElementwiseLoop)
    monkeypatch.setattr(network, "machine_of", lambda x: Machine(x.device.type, dtype="bf16"))
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert isinstance(loaded.loops[0], TorchLoop) and loaded.plan.machine == Machine(dtype="bf16")


def test_weights_stay_where_they_are(moving):
    net = Network(sru())
    before = {name: w.bfloat16() for name, w in net.state_dict().items()}
    net.bfloat16()
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(w, before[name]) for name, w in net.state_dict().items())


def test_devices_and_dtypes_that_torch_knows():
    net = Network(sru()).to("meta")
    assert net.plan.machine == Machine("meta") and net.plan.choices[0].runner == "torch"
    assert Network(sru()).double().plan.machine == Machine(dtype="fp64")
    with pytest.raises(ConfigError, match=r"dtype: networks do not compute in torch\.complex64"):
        network.machine_of(torch.zeros((), dtype=torch.complex64))


@pytest.mark.parametrize("runner", ["auto", "torch", "elementwise"])
def test_step_by_step_stays_with_torch(runner):
    """parallel=none is there to be compared with, by the runner that needs nothing else."""
    choices = make_plan(sru(), "none", runner, CUDA).choices
    asked = runner == "elementwise"
    assert {choice.runner for choice in choices} == {"torch"}
    notes = ("elementwise: parallel=none is for the torch runner",) if asked else ()
    assert {choice.notes for choice in choices} == {notes}


def test_a_runner_must_exist_even_where_there_is_no_loop():
    graph = {"inputs": {"x": {"size": 3}}, "nodes": {"y": {"size": 2, "is": "full(x)"}}, "outputs": ["y"]}
    with pytest.raises(ConfigError, match=r"runner: no runner 'elementwize'. .* Did you mean 'elementwise'"):
        make_plan(load_graph(graph), runner="elementwize")


@pytest.mark.parametrize(
    ("major", "minor", "chip"), [(8, 0, "sm_80"), (8, 9, "sm_80"), (9, 0, "sm_90"), (10, 3, "sm_100")]
)
def test_a_device_is_asked_what_it_is(major, minor, chip, monkeypatch):
    """Stands in for the driver: there may be no GPU here."""
    found = SimpleNamespace(
        major=major, minor=minor, shared_memory_per_block_optin=101376, multi_processor_count=46, name="A GPU"
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    place._properties.cache_clear()
    like = cast(torch.Tensor, SimpleNamespace(dtype=torch.float16, device=torch.device("cuda", 0)))
    assert place.machine_of(like) == Machine("cuda", chip, "fp16", 101376, 46, name="A GPU")
    place._properties.cache_clear()


def test_float32_is_tf32_where_torch_may_multiply_so(monkeypatch):
    monkeypatch.setattr(place, "_properties", lambda device: ("sm_80", 1, 1, ""))
    like = cast(torch.Tensor, SimpleNamespace(dtype=torch.float32, device=torch.device("cuda", 0)))
    assert place.machine_of(like).dtype == "fp32"
    monkeypatch.setattr(place, "tf32_allowed", lambda: True)
    assert place.machine_of(like).dtype == "tf32"


def test_both_settings_of_torch_allow_tf32():
    """In a process of its own: torch cannot take the new setting back where the old one is read."""
    check = """
import torch
from framework.runners.place import tf32_allowed
assert not tf32_allowed()
torch.backends.cuda.matmul.allow_tf32 = True
assert tf32_allowed()
torch.backends.cuda.matmul.fp32_precision = "ieee"
assert not tf32_allowed()
torch.backends.fp32_precision = "tf32"
torch.backends.cuda.matmul.fp32_precision = "none"
assert tf32_allowed()
torch.set_float32_matmul_precision("highest")
assert not tf32_allowed()
"""
    assert subprocess.run([sys.executable, "-W", "error", "-c", check], cwd=ROOT).returncode == 0
