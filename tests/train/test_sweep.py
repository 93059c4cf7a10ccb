"""Sweeps: what is drawn, that nothing stops the rest, and that a stopped one goes on."""

import importlib.util
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from framework import sweep, sweep_space
from framework.errors import ConfigError, TrainingError
from framework.sweep_jobs import Processes, held
from framework.sweep_space import Choice, Interval, Tried, check, grid, propose
from framework.sweep_state import Job, Sweep, quoted, read_sweep

ROOT = Path(__file__).resolve().parents[2]
# In the place of train.py: a run that takes no time. lr decides how it goes: 1 is refused, 2 is killed the
# first time, 3 waits to be told to end, the first time; else the metric is -|lr - 0.5|.
STUB = """
import json, os, pathlib, signal, sys, time
given = dict(each.split("=", 1) for each in sys.argv[1:])
folder = pathlib.Path((given.get("resume") or given["run_dir"]).strip("'"))
folder.mkdir(parents=True, exist_ok=True)
if "resume" in given:
    lr = float((folder / "last.pt").read_text())
else:
    lr = float(given["optimizer.lr"])
    if lr == 1:
        print("a word before"); sys.exit("ConfigError: optimizer.lr: too much.")
(folder / "times").open("a").write("again " if "resume" in given else "first ")
log = (folder / "metrics.jsonl").open("a")
write = lambda **record: (log.write(json.dumps(record) + "\\n"), log.flush())
write(kind="start", step=0, metric="accuracy", better="higher")
(folder / "last.pt").write_text(str(lr))
if "resume" not in given:
    if lr == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if lr == 3:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        (folder / "ready").touch()
        time.sleep(600)
write(kind="eval", step=1, accuracy=-abs(lr - 0.5))
write(kind="end", step=1, why="over")
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    monkeypatch.setattr(sweep, "TRAIN", path)
    return path


def states(folder):
    return [job.state for job in read_sweep(folder).jobs]


# ---- what is drawn


def test_draws_stay_inside_and_depend_on_seed_and_number_alone():
    space = {
        "lr": Interval(1e-4, 1e-1, log=True),
        "size": Interval(3, 5, whole=True),
        "layers": Interval(1, 8, log=True, whole=True),
        "cell": Choice(("lstm", "gru")),
    }
    jobs = [propose("random", space, number, 7, [], True) for number in range(400)]
    print("seed 7")
    assert jobs[5] == propose("random", space, 5, 7, [], False) != propose("random", space, 5, 8, [], True)
    rates = [float(job["lr"]) for job in jobs]
    assert min(rates) >= 1e-4 and max(rates) <= 1e-1
    assert 0.4 < sum(rate < 10**-2.5 for rate in rates) / 400 < 0.6  # even in the logarithm
    assert {job["size"] for job in jobs} == {"3", "4", "5"}
    assert min(sum(job["size"] == n for job in jobs) for n in "345") > 90  # the ends like the middle
    assert {job["layers"] for job in jobs} == set("12345678")
    assert {job["cell"] for job in jobs} == {"lstm", "gru"}


def test_rounding_does_not_leave_the_interval():
    third = Interval(1 / 3, 2 / 3)
    assert float(third.text(1 / 3)) == 1 / 3 and float(third.text(2 / 3)) == 2 / 3


def test_a_grid_has_every_combination_once():
    jobs = grid({"a": Choice(("1", "2")), "b": Choice(("x", "y", "z"))})
    assert [f"{job['a']}{job['b']}" for job in jobs] == ["1x", "1y", "1z", "2x", "2y", "2z"]
    assert grid({}) == [{}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k=a,b", Choice(("a", "b"))),
        ("k=choice('a b',2)", Choice(("a\\ b", "2"))),
        ("k=range(1,4)", Choice(("1", "2", "3"))),
        ("k=interval(1,2)", Interval(1.0, 2.0)),
        ("k=int(interval(1,9))", Interval(1.0, 9.0, whole=True)),
        ("k=tag(log,int(interval(1,9)))", Interval(1.0, 9.0, log=True, whole=True)),
        ("k=tag(log,interval(1e-4,1e-2))", Interval(1e-4, 1e-2, log=True)),
    ],
)
def test_values_are_read_from_hydras_grammar(text, expected):
    assert sweep.domain(OverridesParser.create().parse_override(text)) == expected


@pytest.mark.parametrize("text", ["runs/a b", "it's", "a\\", "a\\'b\\\\", "x=1,y", "${a}", "[1]"])
def test_quoted_text_is_one_value_of_hydras_grammar(text):
    if "$" in text:
        text = text.replace("$", "")
    override = OverridesParser.create().parse_override(f"k={quoted(text)}")
    assert not override.is_sweep_override() and override.value() == text


@pytest.mark.parametrize(
    ("space", "method", "trials", "words"),
    [
        ({"a": Interval(1, 2)}, "grid", 0, "no combinations"),
        ({"a": Interval(2, 1)}, "random", 3, "no interval"),
        ({"a": Interval(0, 1, log=True)}, "random", 3, "no logarithm"),
        ({}, "random", 0, "needs a number of jobs"),
        ({}, "bayes", 3, "there is no 'bayes'"),
        ({}, "grid", -1, "-1 is too small"),
        ({}, "tpe", 3, "3 jobs would all be the same"),
    ],
)
def test_a_search_that_cannot_be_is_refused(space, method, trials, words):
    with pytest.raises(ConfigError, match=words):
        check(space, method, trials)


def test_tpe_looks_where_it_was_good_and_remembers_nothing_else():
    pytest.importorskip("optuna")
    space = {"lr": Interval(1e-5, 1e-1, log=True), "cell": Choice(("lstm", "gru"))}

    def error(values):
        return (math.log10(float(values["lr"])) + 2) ** 2 + (values["cell"] == "gru")

    found = {}
    for method in ("tpe", "random"):
        tried = [Tried({"lr": "0.1", "cell": "gru"}, None), Tried({"lr": "0.05", "cell": "gru"}, math.nan)]
        for number in range(30):
            values = propose(method, space, number, 3, tried, False)
            tried.append(Tried(values, error(values)))
        found[method] = statistics.median(each.metric for each in tried[-10:])
    print("seed 3", found)
    assert found["tpe"] < 0.5 * found["random"]
    assert propose("tpe", space, 30, 3, tried, False) == propose("tpe", space, 30, 3, list(tried), False)


def test_without_optuna_auto_is_random_and_tpe_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert sweep_space.chosen("auto", 5) == "random" and sweep_space.chosen("auto", 0) == "grid"
    with pytest.raises(ConfigError, match="pip install"):
        propose("tpe", {"a": Interval(1, 2)}, 0, 1, [], True)


# ---- nothing stops the rest, and it goes on


def test_failed_and_killed_jobs_stop_nothing_and_a_resumed_sweep_goes_on(cli, stub, tmp_path):
    code, out, err = cli("-m", "optimizer.lr=0.1,1,2,0.4", "seed=3", "hydra.sweeper.at_once=2")
    assert code == 1 and out == ""
    (folder,) = (tmp_path / "runs").glob("*_sweep")
    assert states(folder) == ["done", "failed", "killed", "done"]
    assert "job 1 failed: ConfigError: optimizer.lr: too much.  optimizer.lr=1" in err
    assert "job 2 killed: killed by signal 9" in err
    assert "best: job 3, dev accuracy -0.1000: optimizer.lr=0.4" in err
    assert "of 4 jobs 1 failed (1) and 1 were killed (2)" in err.splitlines()[-1]
    assert (folder / "1.txt").read_text().startswith("a word before")

    code, _, err = cli(f"resume={folder}")
    assert code == 1 and "2 of them done before" in err
    assert states(folder) == ["done", "failed", "done", "done"]
    assert [(folder / str(n) / "times").read_text() for n in (0, 2, 3)] == [
        "first ",
        "first again ",
        "first ",
    ]

    code, _, err = cli(f"resume={folder}", "hydra.sweeper.retry=true")
    assert "job 1 failed" in err and "job 0" not in err
    assert (folder / "1.txt").read_text().count("a word before") == 2


def test_a_resumed_search_draws_what_it_would_have_drawn_and_can_be_longer(cli, stub, tmp_path):
    arguments = [
        "-m",
        "optimizer.lr=interval(0.2,0.3)",
        "hydra.sweeper.method=random",
        "hydra.sweeper.trials=2",
    ]
    assert cli(*arguments, "hydra.sweeper.folder=a b/s")[0] == 0
    assert cli("resume=a b/s", "hydra.sweeper.trials=4")[0] == 0
    assert cli(*arguments[:-1], "hydra.sweeper.trials=4", "hydra.sweeper.folder=whole")[0] == 0
    parts, whole = read_sweep(tmp_path / "a b" / "s"), read_sweep(tmp_path / "whole")
    assert len(whole.jobs) == 4 and parts.jobs == whole.jobs
    assert len({job.values["optimizer.lr"] for job in whole.jobs}) == 4
    assert (tmp_path / "a b" / "s" / "0" / "times").read_text() == "first "


def test_mistakes_are_told_before_anything_is_written(cli, stub, tmp_path):
    for arguments, words in (
        (("optimizer.lr=interval(1,2)",), "no combinations"),
        (("cell=lstm,lstmm", "model=stack"), "there is no 'lstmm'"),
        (("train.epoch=1,2",), "train.epoch:"),
        (("hydra.sweeper.at_once=0",), "at_once: 0 is too small"),
        (("sweep=lstm_serch",), "there is no 'lstm_serch'"),
        (("optimizer.lr=1,2", "hydra/launcher=jobblib"), "hydra/launcher: there is no 'jobblib'"),
        (("hydra.sweeper.trials=3",), "3 jobs would all be the same"),
    ):
        code, out, err = cli("-m", *arguments)
        assert code == 2 and words in err and out == "" and len(err.splitlines()) == 1, (arguments, err)
    assert [path.name for path in tmp_path.iterdir()] == ["stub.py"]


def test_a_sweep_keeps_its_values(cli, stub, tmp_path):
    folder = tmp_path / "s"
    assert cli("-m", "optimizer.lr=0.1,0.2", f"hydra.sweeper.folder={folder}")[0] == 0
    code, _, err = cli("-m", "optimizer.lr=0.1,0.3", f"hydra.sweeper.folder={folder}")
    assert code == 2 and "the sweep in it goes through other values" in err
    code, _, err = cli(f"resume={folder}", "seed=2")
    assert code == 2 and "seed: a resumed sweep keeps it" in err
    (folder / "sweep.json").write_text("{")
    code, _, err = cli(f"resume={folder}")
    assert code == 2 and "sweep.json: it is no sweep's file" in err


def test_two_processes_cannot_run_one_sweep(tmp_path):
    with held(tmp_path) as lock:
        child = Processes(1, lock)
        child_done = child.run([sys.executable, "-c", "print('fine')"], tmp_path / "out.txt")
        assert child_done == (0, "fine")
        with pytest.raises(ConfigError, match="still running"), held(tmp_path):
            pass
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        orphan = subprocess.Popen(command, pass_fds=() if lock is None else (lock,))
    try:  # the sweep is gone, one of its jobs is not
        with pytest.raises(ConfigError, match="still running"), held(tmp_path):
            pass
    finally:
        orphan.kill()
        orphan.wait()
    with held(tmp_path):
        pass


def test_a_stopped_sweep_lets_its_jobs_save_themselves(stub, tmp_path, cli):
    """Ctrl-C and SIGTERM: the running job ends by itself, no other begins, and all of them can go on."""
    starter = (
        "import sys, pathlib; sys.path.insert(0, sys.argv.pop(1)); import train; from framework import sweep;"
        "sweep.TRAIN = pathlib.Path(sys.argv.pop(1)); sys.exit(train.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", starter, str(ROOT), str(stub)]
    command += ["-m", "optimizer.lr=3,0.1", "hydra.sweeper.folder=s"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    folder, until = tmp_path / "s", time.monotonic() + 200
    while not (folder / "0" / "ready").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGINT
    assert states(folder) == ["killed", "waiting"]
    assert cli("resume=s")[0] == 0
    assert states(folder) == ["done", "done"]
    assert (folder / "0" / "times").read_text() == "first again "


def test_a_signal_right_after_a_job_was_begun_loses_none(tmp_path, monkeypatch):
    """Before its place among the running ones was noted; and once more while its end is told."""
    submit, told = ThreadPoolExecutor.submit, []

    def interrupted(pool, *given):
        future = submit(pool, *given)
        os.kill(os.getpid(), signal.SIGINT)
        return future

    def work(job):
        return processes.run(["sleep", "600"], tmp_path / f"{job}.txt")

    def over(job, ended):
        os.kill(os.getpid(), signal.SIGTERM)
        told.append((job, ended.code))

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    processes, jobs = Processes(2), iter(range(3))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        processes.all(lambda: next(jobs, None), work, over)
    assert told == [(0, -signal.SIGINT)]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# ---- launchers


class Returned:
    def __init__(self, error=None):
        self.error = error

    @property
    def return_value(self):
        if self.error:
            raise self.error
        return 0.5


def test_a_launcher_gets_jobs_together_and_its_failures_stop_nothing(tmp_path, monkeypatch):
    batches = []
    monkeypatch.setenv("PYTHONPATH", "")

    class Launcher:
        def launch(self, lines, initial_job_idx):
            batches.append((initial_job_idx, lines))
            found = []
            for line in lines:
                folder = tmp_path / str(len(found) + initial_job_idx)
                if "optimizer.lr=1" in line:
                    found.append(Returned(TrainingError("update 3", "the loss is not finite")))
                    continue
                folder.mkdir()
                records = [
                    {"kind": "eval", "step": 1, "accuracy": 0.5},
                    {"kind": "end", "step": 1, "why": "over"},
                ]
                (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
                found.append(Returned())
            return found

    search = sweep.Search("grid", 0, 1, 2, False, None, {})
    search.launcher, search.space, search.lines = Launcher(), {}, ["seed=2"]
    jobs = [Job(number, {"optimizer.lr": lr}) for number, lr in enumerate(("0.1", "1", "0.2"))]
    made = Sweep(tmp_path, [], [], {}, "grid", 1, jobs)
    search._launch(made)
    assert [(first, len(lines)) for first, lines in batches] == [(0, 2), (2, 1)]
    assert batches[0][1][0] == ["seed=2", "optimizer.lr=0.1", f"run_dir='{tmp_path / '0'}'"]
    assert [job.state for job in jobs] == ["done", "failed", "done"]
    assert "the loss is not finite" in jobs[1].why and jobs[0].metric == 0.5

    def no_cluster(lines, initial_job_idx):
        raise RuntimeError("there is no sbatch")

    search.launcher.launch = no_cluster
    made.jobs.append(Job(3, {"optimizer.lr": "0.3"}))
    search._launch(made)
    assert (jobs[3].state, jobs[3].why) == ("failed", "RuntimeError: there is no sbatch")


def test_errors_go_from_one_process_to_another():
    import pickle

    error = pickle.loads(pickle.dumps(TrainingError("update 3", "the loss is nan", "Lower optimizer.lr.")))
    assert str(error) == "update 3: the loss is nan. Lower optimizer.lr." and error.fix.startswith("Lower")


def test_the_slurm_launcher_composes_where_it_is_installed(cli, stub):
    if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        pytest.skip("hydra-submitit-launcher is not installed (pip install 'intrastream[sweep]')")
    code, out, err = cli("hydra/launcher=slurm", "--cfg", "hydra", "--package", "hydra.launcher")
    assert code == 0, err
    shown = yaml.safe_load(out)
    assert shown["timeout_min"] == 240 and shown["_target_"].endswith("SlurmLauncher"), shown


# ---- what is shipped


def test_lstm_search_runs_its_jobs_and_wandb_searches_the_same(cli, stub, tmp_path):
    code, _, err = cli(
        "-m", "sweep=lstm_search", "hydra.sweeper.trials=3", "train.clip=2", "optimizer.lr=0.1,0.2"
    )
    assert code == 0, err
    (folder,) = (tmp_path / "runs").glob("*_lstm_search_sweep")
    made = read_sweep(folder)
    written = yaml.safe_load((ROOT / "conf" / "sweep" / "lstm_search.yaml").read_text())
    params = written["hydra"]["sweeper"]["params"]
    assert set(made.jobs[0].values) == set(params) and made.method == "random"
    assert made.fixed == ["sweep=lstm_search", "train.clip=2"]
    assert made.jobs[0].values["optimizer.lr"] in ("0.1", "0.2")  # the command line goes before the file

    theirs = yaml.safe_load((ROOT / "scripts" / "wandb_sweep.yaml").read_text())
    assert (
        theirs["run_cap"] == written["hydra"]["sweeper"]["trials"]
        and "sweep=lstm_search" in theirs["command"]
    )
    for key, text in params.items():
        ours, other = (
            sweep.domain(OverridesParser.create().parse_override(f"{key}={text}")),
            theirs["parameters"][key],
        )
        if isinstance(ours, Choice):
            assert [str(value) for value in other["values"]] == list(ours.values)
        else:
            assert (other["min"], other["max"]) == (ours.low, ours.high)
            assert "log" in other["distribution"] and (other.get("q") == 1) == ours.whole
    assert set(theirs["parameters"]) == set(params)
