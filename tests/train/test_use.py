"""What step records say of the machine: the CPU's for real, a GPU's through a stand-in for NVML."""

import sys
import threading
import time
from types import ModuleType

import pytest
import torch

from framework import use
from framework.parallel import Group
from framework.use import Gauge, Use

pytestmark = pytest.mark.usefixtures("one_thread")


class NvmlError(Exception):
    """As pynvml's: no RuntimeError."""


def busy(seconds):
    """This thread's processor works for `seconds` of its own time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.fixture
def nvml(monkeypatch):
    """The module pynvml, of a machine with two GPUs, as far as torch asks it; `answers` may be changed."""
    found = ModuleType("pynvml")
    found.answers = {"gpu": [75, 25], "power": [300_000, 100_000]}
    found.asked = []

    def answer(key, index):
        found.asked.append((key, index))
        value = found.answers[key]
        if isinstance(value, Exception):
            raise value
        return value[index]

    class Rates:
        def __init__(self, index):
            self.gpu = answer("gpu", index)

    found.NVMLError_DriverNotLoaded = NvmlError
    found.nvmlInit = lambda: None
    found.nvmlDeviceGetHandleByIndex = lambda index: index
    found.nvmlDeviceGetUtilizationRates = Rates
    found.nvmlDeviceGetPowerUsage = lambda index: answer("power", index)
    monkeypatch.setitem(sys.modules, "pynvml", found)
    monkeypatch.setattr(torch.cuda, "pynvml", found, raising=False)
    monkeypatch.setattr(torch.cuda, "_HAS_PYNVML", True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return found


class Two(Group):
    """The first of two workers; the other one's numbers are `other`."""

    world = 2

    def __init__(self, other):
        self.other = other

    def sum(self, *numbers):
        assert len(numbers) == len(self.other), "all workers have to ask the same"
        return [a + b for a, b in zip(numbers, self.other, strict=True)]


# ---- processors


def test_a_busy_thread_is_seen():
    watch = Use()
    busy(0.1)
    shares = watch.shares()
    assert set(shares) == {"cpu_use"}
    assert 0.1 / watch.seconds() <= shares["cpu_use"] <= 1.5, "a shared machine lowers it"


def test_it_is_a_share_of_all_threads(monkeypatch):
    clocks = {"perf_counter": 10.0, "process_time": 3.0}
    for name in clocks:
        monkeypatch.setattr(use.time, name, lambda name=name: clocks[name])
    watch = Use()
    clocks.update(perf_counter=14.0, process_time=9.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert watch.shares() == {"cpu_use": 0.5}
    watch.restart()
    clocks["perf_counter"] += 1
    assert watch.shares() == {"cpu_use": 0.0}


def test_waiting_uses_nothing():
    watch = Use()
    time.sleep(0.2)
    assert watch.shares()["cpu_use"] < 0.5


def test_other_threads_of_the_process_count():
    thread = threading.Thread(target=busy, args=(0.1,))
    watch = Use()
    thread.start()
    thread.join()
    assert watch.shares()["cpu_use"] >= 0.1 / watch.seconds()


def test_what_is_aside_counts_for_nothing_and_may_be_nested():
    watch = Use()
    with watch.aside():
        busy(0.05)
        with watch.aside():
            busy(0.05)
        busy(0.05)
        before = time.process_time() - watch.processor_begun
    after = time.process_time() - watch.processor_begun
    assert before > 0.09, "the outer one's own time runs until it ends"
    assert 0 <= after < 0.05 and 0 <= watch.seconds(), "counted twice, the stretch would be negative"


def test_a_failure_inside_is_aside_too():
    watch = Use()
    with pytest.raises(ValueError, match="broken"), watch.aside():
        busy(0.05)
        raise ValueError("broken")
    assert time.process_time() - watch.processor_begun < 0.05


def test_workers_are_one():
    watch = Use(group=Two([30e6, 40e6]))
    assert watch.shares()["cpu_use"] == pytest.approx(0.75, abs=0.05), "this one has hardly begun"


# ---- GPUs


def test_a_gpu_is_asked_by_its_number(nvml, capsys):
    shares = Use("cuda:1").shares()
    assert shares["gpu_use"] == 0.25 and shares["gpu_watts"] == 100.0 and shares["cpu_use"] > 0
    assert nvml.asked == [("gpu", 1), ("power", 1)] and capsys.readouterr().err == ""


def test_it_is_asked_no_more_often_than_it_counts(nvml, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(use.time, "monotonic", lambda: now[0])
    gauge = Gauge("gpu_use", "cuda:0")
    assert gauge.read() == 0.75
    nvml.answers["gpu"] = [50, 25]
    assert gauge.read() == 0.75 and len(nvml.asked) == 1
    now[0] += use.PERIOD
    assert gauge.read() == 0.5 and len(nvml.asked) == 2


def test_workers_have_the_mean_use_and_all_the_power(nvml):
    shares = Use("cuda:0", Two([1.0, 2.0, 0.25, 0, 100.0, 0])).shares()
    assert shares["gpu_use"] == 0.5 and shares["gpu_watts"] == 400.0
    silent = Use("cuda:0", Two([1.0, 2.0, 0.25, 0, 0.0, 1])).shares()
    assert silent["gpu_use"] == 0.5 and "gpu_watts" not in silent, "a part of the power is no power of all"


def test_what_is_not_told_is_left_out_and_said_once(nvml, capsys):
    nvml.answers["power"] = NvmlError("Not Supported")
    watch = Use("cuda:0")
    for _ in range(3):
        assert set(watch.shares()) == {"cpu_use", "gpu_use"}
    assert nvml.asked.count(("power", 0)) == 1
    err = capsys.readouterr().err
    assert err.count("warning: no gpu_watts in the records: Not Supported") == err.count("\n") == 1


def test_without_nvml_there_is_one_line_and_the_use_of_the_processor(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "_HAS_PYNVML", False)
    monkeypatch.setattr(torch.cuda, "_PYNVML_ERR", None, raising=False)
    monkeypatch.setattr(torch.version, "hip", None)
    watch = Use("cuda:0")
    assert set(watch.shares()) == set(watch.shares()) == {"cpu_use"}
    err = capsys.readouterr().err
    assert err.startswith("warning: no gpu_use and gpu_watts in the records: nvidia-ml-py does not seem")
    assert err.count("\n") == 1 and "pip install nvidia-ml-py" in err


def test_of_workers_one_speaks(nvml, capsys):
    nvml.answers["power"] = NvmlError("Not Supported")
    group = Two([1.0, 2.0, 0.25, 0, 0.0, 1])
    group.rank = 1
    Use("cuda:1", group).shares()
    assert capsys.readouterr().err == ""
