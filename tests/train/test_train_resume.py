"""kill -9 at any moment, then resume: the same run, loss by loss, as one that was never touched."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from framework import checkpoint

ROOT = Path(__file__).resolve().parents[2]
# A checkpoint after every update, two updates between lines: a kill falls anywhere.
COMMON = [
    "train.log_steps=2",
    "train.save_minutes=1e-9",
    "train.threads=1",
    "logger=none",
    "optimizer.lr=0.01",
]
CASES = {
    # zoneout draws random numbers; an epoch's last batch is smaller; plateau and moments have state
    "sequences": ["data=adding", "data.length=24", "data.train=150", "data.dev=10", "data.test=10",
                  "data.batch_size=8", "model=MODEL", "train.epochs=3", "train.plateau_patience=0"],
    "streams": ["data=text", "data.max_chars=40000", "data.chunk=32", "data.batch_size=16", "model=MODEL",
                "train.epochs=0", "train.max_steps=110", "train.eval_steps=30", "train.eval_batches=3",
                "train.accumulate=2", "train.bptt=64", "train.ema=0.9"],
}  # fmt: skip
MODEL = """
params: {input: {size: 1}, classes: 1}
inputs: {x: "{input}"}
nodes:
  h: {size: 12, is: "zoneout(tanh(full(x) + full(h[t-1]) + bias), h[t-1], 0.1)"}
  logits: {size: "{classes}", is: "full(dropout(h, 0.1)) + bias"}
outputs: [logits]
"""


def arguments(folder, case):
    (folder / "mine.yaml").write_text(MODEL)
    return [each.replace("MODEL", "mine.yaml") for each in CASES[case]] + COMMON


# Stops once a log of so many lines is written: a slow watcher must not find a run that is over.
STARTER = """
import sys, time
import train
from framework.logging import JsonLog

write, most = JsonLog.write, int(sys.argv.pop(1))

def write_and_stop(log, record):
    write(log, record)
    if log.path.read_bytes().count(b"\\n") >= most:
        time.sleep(600)

JsonLog.write = write_and_stop
sys.exit(train.main(sys.argv[1:]))
"""


def start(folder, most, *given):
    """train.py as a process of its own, to be killed before it has logged `most` lines, or while it waits."""
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(most), *given],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def numbers(folder):
    """What a run computed, without what the clock says."""
    clock = ("frames_per_s", "step_s", "hoisted_s", "loop_s", "cpu_use", "peak_bytes", "seconds")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in r.items() if k not in clock}
        for r in records
        if r["kind"] not in ("start", "resume")
    ]


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_as_if_nothing_had_been(cli, tmp_path, case):
    given = arguments(tmp_path, case)
    code, _, err = cli(*given, "run_dir=whole")
    assert code == 0, err
    expected = numbers(tmp_path / "whole")
    assert len(expected) > 30

    folder = tmp_path / "killed"
    killed = start(tmp_path, 17, *given, "run_dir=killed")
    for wanted in (12, 25):  # twice, the second time in a run that was resumed
        deadline = time.monotonic() + 400
        while lines(folder) < wanted and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        assert killed.poll() is None, "the run was over before the kill:\n" + str(killed.communicate()[0])
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=60)
        if wanted == 12:
            killed = start(tmp_path, 30, "resume=killed")
    code, _, err = cli("resume=killed/last.pt")
    assert code == 0, err
    assert "resuming killed at update" in err
    assert numbers(folder) == expected
    assert (folder / "plan.txt").read_text() == (tmp_path / "whole" / "plan.txt").read_text()


def test_a_checkpoint_cut_short_is_recovered_and_a_finished_run_goes_on(cli, tmp_path):
    given = arguments(tmp_path, "sequences")
    assert cli(*given, "run_dir=runs/long")[0] == 0
    assert cli(*given, "run_dir=runs/short", "train.epochs=1")[0] == 0
    last = tmp_path / "runs" / "short" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    os.utime(last)  # the newest: what resume=auto takes
    code, _, err = cli("resume=auto", "train.epochs=3")
    assert code == 0, err
    assert "the file is damaged" in err and "using last.pt.prev" in err
    assert numbers(tmp_path / "runs" / "short") == numbers(tmp_path / "runs" / "long")

    code, _, err = cli("resume=runs/short")
    assert code == 2 and "this run is over: 3 epochs done. Give it more: train.epochs=..." in err


def test_resuming_takes_only_what_a_run_can_change(cli, tmp_path):
    assert cli(*arguments(tmp_path, "sequences"), "run_dir=a", "train.max_steps=3")[0] == 0
    before = (tmp_path / "a" / "metrics.jsonl").read_text()
    for change, expected in {
        "model=gru": "model: a resumed run keeps it",
        "seed=3": "seed: a resumed run keeps it",
        "train.epoch=3": "train.epoch: there is no such option",
        "data.foo=3": "data.foo: data=adding has no such option",
        "train.epochs=many": "train.epochs: 'many' is not a whole number",
        "logger=none": "or change an option: logger.mode=none.",
        "cell=gru": "cell: a resumed run keeps it",
        "--help": "--help: a resumed run takes only KEY=VALUE",
    }.items():
        code, _, err = cli("resume=a", "train.max_steps=5", change)
        assert code == 2 and expected in err and len(err.splitlines()) == 1, err
        assert (tmp_path / "a" / "metrics.jsonl").read_text() == before
    code, _, err = cli("resume=a", "train.max_steps=5", "optimizer.lr=0.5")
    assert code == 0, err
    records = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    # The first run's last record, of update 3 alone, is gone: that of update 4 holds both.
    assert [r["step"] for r in records if r["kind"] == "step"] == [2, 4, 5]
    assert records[-1]["kind"] == "end" and records[-1]["step"] == 5
    assert next(r["lr"] for r in records if r["kind"] == "step" and r["step"] == 4) == 0.5
    assert "lr: 0.5" in (tmp_path / "a" / "config.yaml").read_text()


def test_a_checkpoint_of_another_model_is_refused(cli, tmp_path):
    given = arguments(tmp_path, "sequences")
    assert cli(*given, "run_dir=a", "train.max_steps=2")[0] == 0
    file = tmp_path / "a" / "last.pt"
    content = checkpoint.load(file)[0]
    content["weights"]["h:full(x)"] = content["weights"]["h:full(x)"][:, :1]
    checkpoint.save(file, {key: value for key, value in content.items() if key != "format"})
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    code, _, err = cli("resume=a", "train.max_steps=4")
    assert code == 2 and "another model" in err and "'h:full(x)' is [12, 1] there and [12, 2] here" in err
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before
