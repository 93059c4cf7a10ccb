"""Threads of compiled loops: none is left behind when a call ends in the middle, none is made for each number
of lanes; what is kept on disk with forks, full disks and no home.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from framework import Network
from framework.runners import compiled_loop, compiled_native, compiled_threads
from framework.runners.compiled_threads import at_once

pytest.importorskip("llvmlite")

GRAPH = {
    "inputs": {"x": {"size": 3}},
    "nodes": {"h": {"size": 40, "is": "tanh(full(x) + full(h[t-1]) + bias)"}},
    "outputs": ["h"],
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, no threads of other tests, as many threads as before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled_threads._end()
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    compiled_threads._end()


def helpers() -> int:
    return sum(t.name.startswith("intrastream-loop") for t in threading.enumerate())


def test_all_run_at_the_same_time_on_the_same_threads():
    for n in (2, 3, 6, 4, 2):
        here = threading.Barrier(n)
        seen: list[tuple[int, int]] = []

        def part(i: int, of: int, here: threading.Barrier = here, seen: Any = seen) -> None:
            here.wait(200)
            seen.append((i, of))

        at_once(part, n, lambda: None)
        assert sorted(seen) == [(i, n) for i in range(n)]
        assert helpers() <= 5


def test_an_exception_waits_for_the_others():
    begun, free, ended = threading.Barrier(3), threading.Event(), []

    def part(i: int, of: int) -> None:
        begun.wait(200)
        if i == 0:
            raise KeyboardInterrupt
        free.wait(200)
        time.sleep(0.05)
        ended.append(i)

    with pytest.raises(KeyboardInterrupt):
        at_once(part, 3, free.set)
    assert sorted(ended) == [1, 2] and helpers() == 0
    done: list[int] = []
    at_once(lambda i, n: done.append(i), 3, lambda: None)
    assert sorted(done) == [0, 1, 2]


def test_a_second_ctrl_c_waits_as_well():
    free, ended = threading.Event(), []

    def part(i: int, of: int) -> None:
        if i == 0:
            raise ValueError("first")
        free.wait(200)
        ended.append(i)

    def again() -> None:
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.1)
        free.set()

    other = threading.Thread(target=again)
    with pytest.raises(KeyboardInterrupt):
        at_once(part, 2, other.start)
    other.join()
    assert ended == [1]


# Vectors enough for all threads, with a rest; norms and softmax by lanes between products by units.
WIDE = {
    "inputs": {"x": {"size": 5}},
    "nodes": {
        "r": {"size": 70, "is": "sigmoid(full(x) + full(h[t-1]) + diag(c[t-2]) + bias)"},
        "c": {"size": 70, "is": "r * c[t-1] + tanh(norm(full(r * h[t-1]) + block(h[t-3], 2)))"},
        "g": {"size": 1, "is": "sigmoid(full(c) + bias)"},
        "h": {"size": 70, "is": "g * c * softmax(c) + concat(h[t-1][0:33], c[33:70])"},
    },
    "outputs": ["h", "c"],
}


def test_sharing_units_changes_no_bit(monkeypatch: pytest.MonkeyPatch):
    """Each number is computed as by one thread: one read before another thread wrote it would differ."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net, x = Network(WIDE, runner="compiled").double(), torch.randn(25, 5, 5, dtype=torch.float64)
    resets = torch.rand(25, 5) < 0.1
    found = []
    for n in (1, 2, 3, 5):
        monkeypatch.setattr(compiled_loop._Native, "_threads", lambda *_, n=n: (n, n > 1))
        for _ in range(2):
            net.zero_grad()
            given = x.clone().requires_grad_()
            y, _ = net(given, resets=resets)
            (y["h"].square().sum() + y["c"].sin().sum()).backward()
            found.append([y["h"], y["c"], given.grad, *(p.grad for p in net.parameters())])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("near", [0, 1 << 30], ids=["units", "lanes"])
def test_native_threads_do_not_wait_for_one_that_never_came(near: int, monkeypatch: pytest.MonkeyPatch):
    """All wait for all once weights are packed; with shared units at each step, too."""
    monkeypatch.setattr(compiled_loop, "WORK", 0)
    monkeypatch.setattr(compiled_loop, "NEAR", near)
    net, x = Network(GRAPH, runner="compiled"), torch.randn(20, 4, 3)
    torch.set_num_threads(1)
    want = net(x)[0]
    torch.set_num_threads(3)
    monkeypatch.setattr(compiled_loop._Native, "_threads", lambda *_: (3, near == 0))
    submit, calls = ThreadPoolExecutor.submit, []

    def refused(pool: Any, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("can't start new thread")
        return submit(pool, *given)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="start new thread"):
        patch.setattr(ThreadPoolExecutor, "submit", refused)
        net(x)
    assert len(calls) == 2 and helpers() == 0
    torch.testing.assert_close(net(x)[0], want)
    assert helpers() == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's about forks of processes with threads
def test_a_fork_while_another_thread_compiles():
    """The child has the lock, not the thread that would open it."""
    taken = threading.Event()

    def compile_slowly() -> None:
        with compiled_native._lock:
            taken.set()
            time.sleep(0.2)

    thread = threading.Thread(target=compile_slowly)
    thread.start()
    taken.wait(200)
    child = os.fork()
    if child == 0:
        os._exit(0 if compiled_native._lock.acquire(timeout=100) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()
    assert compiled_native._lock.acquire(timeout=100)
    compiled_native._lock.release()


def test_a_full_disk_keeps_no_parts(monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    compiled_native._write("kept", b"code")
    monkeypatch.setattr(compiled_native.os, "replace", full)
    compiled_native._write("lost", b"code")
    assert [path.name for path in compiled_native.folder().iterdir()] == ["kept"]
    assert compiled_native._read("kept") == b"code" and compiled_native._read("lost") is None


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch):
    """As in a container with a user that it does not know."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    compiled_native._write("key", b"code")
    assert compiled_native._read("key") is None
