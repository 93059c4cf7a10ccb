"""`train.workers=2` on streams and on labels in a row, with an offline wandb run: killed, and resumed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.meanwhile import once
from tests.train.parallel_sources import write_files
from tests.train.test_parallel_runs import numbers

ROOT = Path(__file__).resolve().parents[2]
SPEECH = ["data=synth_speech", "data.train_speakers=2", "data.dev_speakers=1", "data.test_speakers=1",
          "data.sentences=2", "data.n_mels=8", "data.cache_dir=cache"]  # fmt: skip
SOURCES = {
    "text in files": ["data=hub_text", "data.path=corpus", "data.batch_size=4", "data.chunk=12",
                      "data.epoch_batches=12", "data.eval_batches=2", "data.shuffle=5", "train.bptt=24"],
    "labels in a row": [*SPEECH, "task=ctc", "data.batch_size=3", "train.epochs=6"],
    "lanes of speech": [*SPEECH, "data.streams=3", "data.eval_streams=1", "data.chunk=70"],
}  # fmt: skip
COMMON = ["model=gru", "model.params.size=6", "train.epochs=2", "train.log_steps=1",
          "train.save_minutes=1e-9", "train.threads=1", "optimizer=sgd", "optimizer.lr=0.05"]  # fmt: skip


def start(folder, *more):
    """The command in a session of its own, which dies as a whole."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def done(process):
    """What it has said; it must end, and well."""
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_two_workers_that_are_killed_with_their_parent_go_on_with_the_numbers_of_one(tmp_path, name):
    write_files(tmp_path)
    given = [*COMMON, *SOURCES[name]]
    done(start(tmp_path, *given, "run_dir=one", "logger=none"))
    two = tmp_path / "two"
    log = two / "metrics.jsonl"
    first = start(tmp_path, *given, "run_dir=two", "logger=offline", "train.workers=2")
    killed = []

    def kill():
        killed.append(first.poll())
        os.kill(first.pid, signal.SIGKILL)

    watch = once(lambda: log.exists() and '"step": 4' in log.read_text(), kill, 600.0)
    first.communicate(timeout=600)  # returns when nobody holds the pipe: the workers end with their parent
    watch.join()
    assert killed == [None], "it was over too soon to be killed"
    assert (two / "last.pt").exists()

    said = done(start(tmp_path, "resume=two"))
    assert "resuming two at update" in said and said.count("test: ") == 1
    (_, expected), (kinds, found) = numbers(tmp_path / "one"), numbers(two)
    assert kinds.count("resume") == 1 and kinds.count("end") == 1
    assert len(found) == len(expected)
    rel = 1e-3 if name == "labels in a row" else 1e-4  # see test_parallel_sources
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, rel=rel, abs=1e-5)
    assert len(list((two / "wandb").glob("offline-run-*"))) == 2, "one run of each start, by the first worker"
    assert not list(two.glob(".*")), "nothing half written stays"
