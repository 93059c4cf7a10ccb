"""What a board gets of a run: charts in groups, the plan, the confusion matrix, samples."""

import json
import math

import pytest

from framework.assemble import assemble
from framework.charts import KEPT, Charts
from framework.logging import JsonLog, Logs
from framework.showcase import Showcase, of_plan, of_test, samples
from framework.wandb_log import start_wandb

STEP = {
    "kind": "step",
    "step": 10,
    "epoch": 0,
    "loss": "nan",
    "accuracy": 0.5,
    "lr": 0.01,
    "frames_per_s": 2000.0,
    "step_s": 0.5,
    "hoisted_s": 0.1,
    "loop_s": 0.3,
    "cpu_use": 0.9,
    "gpu_use": 0.7,
    "gpu_watts": 300.0,
    "peak_bytes": 3 * 2**20,
}


def test_a_step_becomes_charts_of_learning_speed_and_memory():
    charts = Charts()
    assert charts.of({"kind": "start", "step": 0, "predicted_bytes_per_frame": 1024, "plan": "text"}) == {}
    found = charts.of(STEP)
    assert math.isnan(found.pop("learning/train loss"))
    assert found == pytest.approx(
        {
            "learning/epoch": 0,
            "learning/train accuracy": 0.5,
            "learning/learning rate": 0.01,
            "speed/frames per s": 2000,
            "speed/us per frame": 500,
            "speed/us per update": 500_000,
            "speed/us outside of the loops": 100_000,
            "speed/us inside the loops": 300_000,
            "speed/part inside the loops": 0.75,
            "speed/CPU use": 0.9,
            "speed/GPU use": 0.7,
            "speed/GPU watts": 300,
            "speed/mJ per frame": 150,
            "memory/peak MiB, measured": 3,
            KEPT: 1024 * 1000 / 2**20,
        }
    )


def test_evaluations_and_the_end_have_charts():
    charts = Charts()
    dev = {
        "kind": "eval",
        "split": "dev",
        "step": 1,
        "epoch": 1,
        "accuracy": 0.5,
        "seconds": 2.0,
        "best": True,
    }
    assert charts.of(dev) == {"learning/dev accuracy": 0.5, "speed/s per evaluation": 2.0}
    end = {
        "kind": "end",
        "split": "test",
        "step": 1,
        "why": "over",
        "accuracy": 0.4,
        "best": 0.5,
        "best_step": 1,
    }
    assert charts.of(end) == {
        "result/test accuracy": 0.4,
        "result/best on dev": 0.5,
        "result/update of the best": 1,
    }


def test_a_record_without_times_has_no_made_up_speed():
    assert Charts().of({"kind": "step", "step": 1, "loss": 1.0}) == {"learning/train loss": 1.0}


TINY = {
    "text": {"name": "text", "max_chars": 3000, "chunk": 16, "batch_size": 4},
    "speech": {
        "name": "synth_speech",
        "train_speakers": 1,
        "dev_speakers": 1,
        "test_speakers": 1,
        "sentences": 2,
    },
}


def parts(data, task="auto", tmp=None):
    options = dict(TINY[data]) | ({"cache_dir": str(tmp)} if tmp else {})
    model = {
        "params": {"input": {"size": 8}, "classes": 3},
        "inputs": {"x": "{input}"},
        "nodes": {
            "h": {"size": 6, "is": "tanh(full(x) + full(h[t-1]) + bias)"},
            "logits": {"size": "{classes}", "is": "full(h) + bias"},
        },
        "outputs": ["logits"],
    }
    return assemble(
        model=model,
        data=options,
        cell=None,
        cell_name="",
        task=task,
        task_options={},
        runner="auto",
        parallel="intra",
        products="auto",
        memory="save",
        memory_chunk=None,
        together=True,
        overlap=None,
        tuning=None,
        seed=1,
        device="cpu",
        threads=1,
    )


def test_the_plan_is_kept_with_the_source_of_its_loops(tmp_path):
    plan = parts("text").net.plan
    made = of_plan(plan, tmp_path)
    assert (tmp_path / "plan.txt").read_text().strip() == str(plan).strip()
    assert "backward" in (tmp_path / "code.txt").read_text()
    assert {path.name for path in made.files} >= {"plan.txt", "code.txt"}
    for path in made.pictures.values():  # where graphviz is installed
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_character_network_says_something(tmp_path):
    made = parts("text")
    text = samples(made.net, made.dataset, made.task, "cpu")
    assert text.startswith("given: ") and len(text) > 400
    shown = of_test(made.net, made.dataset, made.task, tmp_path, "cpu")
    assert shown.pictures["result/confusion"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("task", ["framewise", "ctc"])
def test_speech_shows_true_and_answered_phones(tmp_path, task):
    made = parts("speech", task, tmp_path)
    shown = of_test(made.net, made.dataset, made.task, tmp_path, "cpu")
    lines = shown.texts["result/samples"].splitlines()
    assert len(lines) == 6  # two utterances
    known = set(made.dataset.labels if made.dataset.fold_labels is None else made.dataset.fold_labels)
    true = lines[1].split("true:")[1].split()
    assert len(true) > 5 and set(true) <= known
    assert set(lines[2].split("answered:")[1].split()) <= known


def test_a_picture_that_fails_is_a_warning_and_nothing_is_made_for_nobody(tmp_path, capsys):
    class Board:
        def __init__(self):
            self.shown = []

        def show(self, name, what):
            self.shown.append((name, what))

        def write(self, record):
            pass

        def close(self):
            pass

    board = Board()
    logs = Logs(JsonLog(tmp_path / "a.jsonl"), board)
    logs.show("plan", lambda: 1 / 0)
    assert "warning: nothing of plan is shown (ZeroDivisionError" in capsys.readouterr().err
    what = Showcase(texts={"a": "b"})
    logs.show("plan", lambda: what)
    assert board.shown == [("plan", what)]
    logs.close()
    alone = Logs(JsonLog(tmp_path / "b.jsonl"))
    alone.show("plan", lambda: 1 / 0)
    alone.close()
    assert capsys.readouterr().err == ""


@pytest.mark.slow  # wandb's own start and end take a quarter of a minute
def test_a_run_brings_all_of_it_to_the_real_wandb_offline(cli, tmp_path, monkeypatch):
    """As a run of train.py does it; what arrived is read in wandb's own files."""
    monkeypatch.setitem(start_wandb.__kwdefaults__, "init_seconds", 250.0)
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "250")
    code, _, err = cli(
        *("data=text", "data.max_chars=3000", "data.chunk=16", "data.batch_size=4", "model=lstm"),
        *("model.params.size=8", "train=smoke", "train.max_steps=2", "train.threads=1"),
        *("logger=offline", "run_dir=run"),
    )
    assert code == 0 and "warning" not in err, err
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    media = sorted(str(path.relative_to(folder / "files")) for path in folder.glob("files/media/**/*.*"))
    assert any("confusion" in name and name.endswith(".png") for name in media), media
    assert any("samples" in name and name.endswith(".html") for name in media), media
    content = next(folder.glob("*.wandb")).read_bytes()
    for chart in (b"learning/train loss", b"speed/CPU use", b"memory/peak MiB, measured", b"code.txt"):
        assert chart in content, chart
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["metric"] == "bits_per_character" and first["better"] == "lower"
