"""`train.workers=2` from the command line: one folder, one log, and a worker that is killed."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.train.meanwhile import once

TINY = ["data=adding", "data.length=24", "data.train=60", "data.dev=10", "data.test=10", "data.batch_size=9",
        "model=lstm", "model.params.size=4", "train.epochs=3", "train.log_steps=1", "train.save_minutes=1e-9",
        "train.threads=1", "logger=none", "optimizer.lr=0.01"]  # fmt: skip


def numbers(folder):
    """Kinds of a run's records, and what its updates and evaluations computed."""
    clock = ("frames_per_s", "step_s", "hoisted_s", "loop_s", "cpu_use", "peak_bytes", "seconds")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [
        {k: v for k, v in r.items() if isinstance(v, int | float) and k not in clock}
        for r in records
        if r["kind"] in ("step", "eval", "end")
    ]
    return [r["kind"] for r in records], found


def children():
    """Processes of workers: (id, rank) by the place where each of them reads its job."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            parent = int(path.with_name("stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue  # it has ended
        if b"framework.parallel_worker" in words and parent == os.getpid():
            found.append(int(path.parent.name))
    return sorted(found)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds workers by /proc")
def test_a_worker_that_is_killed_is_no_loss(cli, tmp_path):
    """kill -9 in the middle: all go on from the last checkpoint, every number is that of one process."""
    assert cli(*TINY, "run_dir=one")[0] == 0
    log = tmp_path / "two" / "metrics.jsonl"
    killed = []

    def kill():
        killed.append(children()[-1])
        os.kill(killed[0], signal.SIGKILL)

    thread = once(lambda: log.exists() and log.read_text().count("\n") > 5, kill)
    code, out, err = cli(*TINY, "run_dir=two", "train.workers=2", "train.epochs=3")
    thread.join()
    assert code == 0 and killed, err
    assert "worker 1 died (SIGKILL)" in err and "all 2 workers start again from two/last.pt" in err
    assert "resuming two at update" in err and out.count("test: ") == 1
    (_, expected), (kinds, found) = numbers(tmp_path / "one"), numbers(tmp_path / "two")
    assert kinds.count("resume") == 1 and kinds.count("end") == 1, err
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    assert not children()
