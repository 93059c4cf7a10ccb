"""The JSON log is exact and complete; Weights & Biases can fail in every way without hurting a run."""

import json
import math
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from framework import logging as logs
from framework import wandb_log
from framework.errors import ConfigError, TrainingError


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Neither a key nor a mode from the machine that runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_every_line_is_an_object_on_the_disk_at_once(tmp_path):
    log = logs.JsonLog(tmp_path / "m.jsonl")
    for step in range(3):
        log.write({"kind": "step", "step": step, "loss": math.nan if step else 0.5, "deep": {"x": math.inf}})
        lines = (tmp_path / "m.jsonl").read_text().splitlines()
        assert len(lines) == step + 1
    assert json.loads(lines[1]) == {"kind": "step", "step": 1, "loss": "nan", "deep": {"x": "inf"}}
    log.close()


def test_a_resumed_log_is_cut_back(tmp_path):
    path = tmp_path / "m.jsonl"
    log = logs.JsonLog(path)
    log.write({"step": 1})
    position = log.position()
    log.write({"step": 2})
    log.close()
    with open(path, "ab") as file:
        file.write(b'{"step": 3, "lo')  # a crash in the middle of a line
    assert [record["step"] for record in logs.read_log(path)] == [1, 2]
    log = logs.JsonLog(path, position)
    log.write({"step": 20})
    log.close()
    assert [record["step"] for record in logs.read_log(path)] == [1, 20]
    with pytest.raises(ConfigError, match="lost lines"):
        logs.JsonLog(path, 10_000)


def test_a_full_disk_is_named(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    log = logs.JsonLog.__new__(logs.JsonLog)
    log.path, log.file = tmp_path / "m.jsonl", open("/dev/full", "ab", buffering=0)
    with pytest.raises(TrainingError, match=r"m\.jsonl: cannot write the log: No space left"):
        log.write({"step": 1})
    log.file.close()


def start(tmp_path, mode="auto", seconds=100.0):
    return wandb_log.start_wandb(mode, tmp_path, name="n", project="p", config={"a": 1}, init_seconds=seconds)


def fake_wandb(monkeypatch, init):
    module = types.ModuleType("wandb")
    module.Settings = lambda **settings: settings
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)


class FakeRun:
    def __init__(self):
        self.records, self.summary, self.finished, self.defined = [], {}, False, {}

    def define_metric(self, name, step_metric):
        self.defined[name] = step_metric

    def log(self, record):
        self.records.append(record)

    def finish(self):
        self.finished = True


@pytest.mark.parametrize(
    ("key", "environment", "mode", "expected"),
    [
        (None, None, "auto", "offline"),
        ("k" * 40, None, "auto", "online"),
        ("k" * 40, "offline", "auto", "offline"),
        (None, "online", "auto", "offline"),  # without a key wandb would ask for one and wait
        (None, None, "online", "offline"),
        ("k" * 40, None, "offline", "offline"),
        ("k" * 40, "disabled", "auto", None),
    ],
)
def test_modes(monkeypatch, tmp_path, key, environment, mode, expected):
    begun = []
    fake_wandb(monkeypatch, lambda **options: begun.append(options["mode"]) or FakeRun())
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    log = start(tmp_path, mode)
    assert begun == ([expected] if expected else [])
    assert (log is None) == (expected is None)


def test_a_key_in_the_netrc_file_counts(tmp_path):
    assert not wandb_log.has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password " + "k" * 40 + "\n")
    (tmp_path / "netrc").chmod(0o600)
    assert wandb_log.has_key()


def test_records_become_numbers_and_texts(monkeypatch, tmp_path):
    run = FakeRun()
    fake_wandb(monkeypatch, lambda **options: run)
    log = start(tmp_path)
    log.write({"kind": "start", "step": 0, "plan": "1 gemm"})
    log.write({"kind": "step", "step": 7, "loss": 0.5, "frames_per_s": 9.0})
    log.close()
    assert run.summary == {"start/plan": "1 gemm"}
    speed = {"speed/frames per s": 9.0, "speed/us per frame": 1e6 / 9}
    assert run.records[1] == {"learning/train loss": 0.5, **speed, "step": 7}
    assert run.defined == {"*": "step"}
    assert run.finished


def test_an_online_start_that_fails_goes_on_offline(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    run = FakeRun()

    def init(mode, **options):
        if mode == "online":
            raise OSError("no route to host\nmore")
        return run

    fake_wandb(monkeypatch, init)
    log = start(tmp_path)
    log.close()
    told = capsys.readouterr().err
    assert told.count("warning") == 1 and "no route to host" in told and "more" not in told
    assert run.finished


@pytest.mark.parametrize("failure", [RuntimeError("broken"), SystemExit(3)], ids=["raises", "exits"])
def test_a_start_that_fails_is_one_warning(monkeypatch, tmp_path, capsys, failure):
    def init(**options):
        raise failure

    fake_wandb(monkeypatch, init)
    assert start(tmp_path) is None
    assert capsys.readouterr().err.count("warning") == 1


def test_nothing_hangs(monkeypatch, tmp_path, capsys):
    """An init, a log and a finish that never come back are given up after their time."""
    begun = time.monotonic()
    fake_wandb(monkeypatch, lambda **options: time.sleep(600))
    assert start(tmp_path, seconds=0.05) is None
    run = FakeRun()
    run.log = lambda record: time.sleep(600)
    log = wandb_log.WandbLog(run, wait_seconds=0.05)
    for step in range(100):
        log.write({"kind": "step", "step": step})
    log.close()
    run = FakeRun()
    run.finish = lambda: time.sleep(600)
    wandb_log.WandbLog(run, wait_seconds=0.05).close()
    assert time.monotonic() - begun < 300, "one of the calls was waited for"
    assert capsys.readouterr().err.count("warning") == 3


def test_a_missing_wandb_is_one_warning(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert start(tmp_path) is None
    assert capsys.readouterr().err.count("warning") == 1


def test_the_real_wandb_writes_an_offline_run_and_keeps_quiet(tmp_path):
    """In its own process, as it starts a service; twice, as a resumed run does: both under one id."""
    code = """
import sys
from pathlib import Path
from framework.wandb_log import start_wandb
log = start_wandb("auto", Path(sys.argv[1]), name="n", project="p", config={"a": {"b": 1}},
                  init_seconds=250.0)
log.wait_seconds = 250.0
for step in range(5):
    log.write({"kind": "step", "step": step, "loss": 1.0 / (step + 1)})
log.close()
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"NETRC": str(tmp_path / "netrc"), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment["WANDB__SERVICE_WAIT"] = "250"
    for run in range(2):
        time.sleep(1.1 * run)  # wandb names its folders by the second
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=400,
            env=environment,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    runs = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 2 and len({path.name for path in runs}) == 1
    assert all(path.stat().st_size > 500 for path in runs)
