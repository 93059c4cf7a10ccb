"""The watch over workers, which tests.train.parallel_fake plays here; and who started this process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from framework import parallel_launch
from framework.errors import ConfigError, DataError, TrainingError
from framework.parallel import own_gpu
from framework.parallel_place import Place, first_host, outer_place, tasks_of_node
from framework.parallel_run import start
from tests.train.meanwhile import once

ROOT = Path(__file__).resolve().parents[2]
TINY = ["data=adding", "data.train=8", "data.dev=4", "data.test=4", "data.batch_size=4", "model=lstm",
        "train=smoke", "logger=none"]  # fmt: skip


@pytest.fixture
def play(monkeypatch, tmp_path, capfd):
    """Run two workers that do as they are told: {rank: what in the first start, then in each after it}."""
    monkeypatch.setattr(parallel_launch, "WORKER", "tests.train.parallel_fake")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(acts, restarts=2, **values):
        values = {"acts": acts, "folder": tmp_path, "resume_from": None} | values
        return parallel_launch.supervise(values, 2, restarts)

    return run


def test_what_the_first_worker_returns_is_the_result(play, tmp_path):
    assert play({0: ["fine"], 1: ["fine"]}) == 0.25
    assert [line.split() for line in (tmp_path / "starts").read_text().splitlines()] == [["0", "None"]]


def test_what_happens_to_a_worker_after_its_work_is_no_loss(play, tmp_path):
    assert play({0: ["slow fine"], 1: ["abort"]}, restarts=0) == 0.25
    assert play({0: ["abort"], 1: ["slow fine"]}, restarts=0) == 0.25
    assert len((tmp_path / "starts").read_text().splitlines()) == 2


def test_workers_start_again_from_the_last_checkpoint(play, tmp_path, capfd):
    assert play({0: ["save wait", "fine"], 1: ["killed", "fine"]}) == 0.25
    err = capfd.readouterr().err
    assert (
        "worker 1 died (SIGKILL)" in err and f"all 2 workers start again from {tmp_path / 'last.pt'}" in err
    )
    assert (tmp_path / "starts").read_text().splitlines()[1] == f"1 {tmp_path / 'last.pt'}"


def test_workers_that_keep_dying_are_given_up(play, tmp_path, capfd):
    with pytest.raises(TrainingError, match=r"exit code 7.*2 restarts since the last checkpoint") as error:
        play({0: ["save wait", "wait"], 1: ["crash"]})
    assert f"resume={tmp_path}" in str(error.value)
    err = capfd.readouterr().err
    assert err.count("all 2 workers start again") == 2
    assert "worker 1: why\n" in err, "its last lines are shown"
    # Each start that brought a new checkpoint counts anew.
    (tmp_path / "starts").unlink()
    acts = {0: ["save wait"] * 4 + ["fine"], 1: ["killed"] * 4 + ["fine"]}
    assert play(acts, restarts=1) == 0.25
    with pytest.raises(TrainingError, match="0 restarts"):
        play({0: ["save wait"], 1: ["killed"]}, restarts=0)


def test_a_death_before_the_first_checkpoint(play):
    """Before the folder is known all start as new; after it there is nothing to go on from."""
    assert play({0: ["wait", "fine"], 1: ["killed", "fine"]}) == 0.25
    with pytest.raises(TrainingError, match="no checkpoint yet"):
        play({0: ["folder wait"], 1: ["killed"]})


def test_the_cause_is_told_by_the_worker_that_has_it(play, capfd, monkeypatch):
    monkeypatch.setattr(parallel_launch, "PATIENCE", 200.0)  # it may take long to start the other one
    with pytest.raises(DataError, match=r"^a\.wav: worker 1 cannot read it\. Mend it\.$"):
        play({0: ["lost"], 1: ["slow mistake"]})  # the first one only lost the connection
    monkeypatch.setattr(parallel_launch, "PATIENCE", 0.2)
    with pytest.raises(TrainingError, match="lost the others"):
        play({0: ["wait"], 1: ["lost"]}, restarts=0)
    assert "start again" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_all_workers_saved(play, tmp_path, name):
    """The workers get it once, though a terminal sends it to all processes, and end as they like."""
    thread = once(
        lambda: len([*tmp_path.glob("waits?")]) == 2, lambda: os.kill(os.getpid(), signal.Signals[name])
    )
    assert play({0: ["until signal"], 1: ["until signal"]}) == 0.25
    thread.join()
    assert sorted((tmp_path / "signals").read_text().split()) == [f"0:{name}", f"1:{name}"]


def test_workers_end_with_the_process_that_started_them(tmp_path):
    """The real worker's watch: it is given a job that waits for a second worker, and its pipe is closed."""
    code = (
        "import os, sys, threading, time\n"
        "from framework.parallel_worker import watch\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
        "time.sleep(600)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE)
    assert worker.stdin is not None
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.5)
    worker.stdin.close()
    assert worker.wait(250) == parallel_launch.ENDED


# ---- who started this process


def test_places_given_by_torchrun_and_slurm():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "a", "MASTER_PORT": "1", "TORCHELASTIC_RESTART_COUNT": "1"}  # fmt: skip
    assert outer_place(torchrun) == Place(3, 4, 1, 2, "env://", True, True)
    slurm = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "7", "SLURM_LOCALID": "1", "SLURM_NODEID": "2",
             "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_STEP_NODELIST": "gpu[03-05,9],cpu1",
             "SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "1"}  # fmt: skip
    assert outer_place(slurm) == Place(5, 7, 1, 2, "tcp://gpu03:24568", False, True)
    assert outer_place(slurm | {"MASTER_ADDR": "m", "MASTER_PORT": "9"}).meeting == "tcp://m:9"
    # Eight tasks of a machine see its eight GPUs, or each its own alone.
    task, ours = outer_place(slurm), Place(1, 2, 1, 2, "file:///m")
    assert (own_gpu(task, 2), own_gpu(task, 1), own_gpu(ours, 4)) == (1, 0, 1)
    with pytest.raises(ConfigError, match=r"2 workers on this machine, and torch sees 1 GPU"):
        own_gpu(ours, 1)
    # A batch script outside of srun has its job's tasks around it, and is one process.
    assert outer_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}) is None
    assert outer_place({}) is None
    assert first_host("a1") == first_host("a1,b2") == "a1" and first_host("n[7]-ib,m") == "n7-ib"
    assert [tasks_of_node("2(x2),1", node) for node in range(3)] == [2, 2, 1]
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        first_host("")


def test_mistakes_about_workers(cli, monkeypatch, tmp_path):
    for given, expected in {
        ("train.gpus=2", "train.device=cpu"): "train.gpus: train.device=cpu is no GPU",
        ("train.gpus=2", "train.workers=3"): "train.workers: 3 workers for 2 GPUs",
        ("train.workers=-1",): "train.workers: -1 is too small",
    }.items():
        code, _, err = cli(*TINY, *given)
        assert code == 2 and expected in err and len(err.splitlines()) == 1, err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(ConfigError, match="3, and 2 process"):
        start({"train": {"device": "cpu"}}, workers=3, gpus=0, restarts=0)
    assert list(tmp_path.iterdir()) == []
