"""What a sweep has found: the table, the pictures, and which options are said to have mattered."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from framework.errors import ConfigError
from framework.importance import FEWEST, encode, importance
from framework.script import command
from framework.sweep_report import as_markdown, report
from framework.sweep_state import Job, Sweep

ROOT = Path(__file__).resolve().parents[2]


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


write_run = load("runlogs", Path(__file__).with_name("runlogs.py")).write_run


@pytest.fixture
def script(capsys):
    module = load("script_sweep_report", ROOT / "scripts" / "sweep_report.py")

    def run(*arguments):
        code = command(module.main, module.__doc__, [str(each) for each in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def sweep(tmp_path):
    """Ten jobs: the metric goes with the cell and the rate; one has failed, one was killed in the middle."""
    folder, jobs = tmp_path / "search_sweep", []
    for number in range(12):
        cell, lr = ("lstm", "gru")[number % 2], f"{10 ** (-4 + number / 4):.3g}"
        values = {"cell": cell, "optimizer.lr": lr, "data.order": "a|b"}
        best = 0.5 + 0.02 * number + 0.1 * (cell == "gru")
        if number < 10:
            write_run(folder / str(number), cell=cell, lr=float(lr), best=best)
        elif number == 11:
            write_run(folder / "11", cell=cell, lr=float(lr), best=0.2, end=False)
        state = {10: "failed", 11: "killed"}.get(number, "done")
        jobs.append(Job(number, values, state, best if number < 10 else None))
    Sweep(folder, [], [], {}, "random", 1, jobs, "accuracy", True).write()
    return folder


# ---- importance


@pytest.fixture
def jobs():
    print("seed 5")
    draw = np.random.default_rng(5)
    cells = ("lstm", "gru", "mgu")
    return [
        {
            "lr": f"{10 ** draw.uniform(-4, -1):.4g}",
            "cell": cells[draw.integers(3)],
            "size": str(draw.integers(9)),
        }
        for _ in range(60)
    ]


def test_what_decides_is_said_to_matter_and_what_does_not_is_not(jobs):
    parts = importance(
        jobs, [-((np.log10(float(job["lr"])) + 2.5) ** 2) for job in jobs], ["cell", "lr", "size"]
    )
    assert next(iter(parts)) == "lr" and parts["lr"] > 0.5
    assert parts["cell"] < 0.1 and parts["size"] < 0.1


def test_words_matter_like_numbers(jobs):
    score = [{"lstm": 0.0, "gru": 1.0, "mgu": 0.1}[job["cell"]] for job in jobs]
    parts = importance(jobs, score, ["cell", "lr", "size"])
    assert parts["cell"] > 0.5 > 0.1 > max(parts["lr"], parts["size"])


def test_two_options_share_what_they_explain(jobs):
    score = [np.log10(float(job["lr"])) / 3 + 0.35 * (job["cell"] == "gru") for job in jobs]
    parts = importance(jobs, score, ["cell", "lr", "size"])
    assert min(parts["cell"], parts["lr"]) > 0.15 and parts["size"] < 0.05


def test_noise_explains_nothing_and_few_jobs_say_nothing(jobs):
    noise = list(np.random.default_rng(1).normal(size=60))
    assert max(importance(jobs, noise, ["cell", "lr", "size"]).values()) < 0.2
    assert importance(jobs[: FEWEST - 1], noise[: FEWEST - 1], ["lr"]) == {}
    assert importance(jobs, [1.0] * 60, ["lr"]) == {} == importance(jobs, noise, [])


def test_importance_does_not_change_from_time_to_time(jobs):
    score = [float(job["lr"]) for job in jobs]
    assert importance(jobs, score, ["cell", "lr"]) == importance(jobs, score, ["cell", "lr"])


def test_numbers_over_decades_are_taken_as_logarithms():
    values = [{"lr": "0.001", "size": "20", "cell": "b"}, {"lr": "0.1", "size": "30", "cell": "a"}]
    assert encode(values, ["lr", "size", "cell"]) == pytest.approx(np.array([[-3, 20, 1], [-1, 30, 0]]))


# ---- the report


def test_the_table_has_every_job_with_the_best_first(sweep):
    found = report(sweep)
    assert [row.name for row in found.rows[:3]] == ["9", "7", "5"]
    assert [row.name for row in found.rows[-2:]] == ["11", "10"]  # the failed one has no result
    assert (found.metric, found.higher, found.keys) == (
        "accuracy",
        True,
        ["cell", "optimizer.lr", "data.order"],
    )
    best = found.rows[0]
    assert (best.dev, best.test, best.updates, best.seconds) == (
        pytest.approx(0.78),
        pytest.approx(0.77),
        20,
        12.5,
    )
    assert set(found.importance) == {"cell", "optimizer.lr"}  # the third option has one value


def test_the_script_writes_tables_and_pictures(script, sweep, tmp_path):
    code, out, err = script(sweep)
    assert code == 0 and err == ""
    assert "9    done" in out and "2 more" in out and "optimizer.lr explains" in out
    rows = list(csv.DictReader((sweep / "sweep_report.csv").read_text().splitlines()))
    assert len(rows) == 12 and rows[0]["cell"] == "gru" and rows[0]["dev accuracy"] == "0.7800"
    assert rows[-1]["state"] == "failed" and rows[-1]["dev accuracy"] == ""
    text = (sweep / "sweep_report.md").read_text(encoding="utf-8")
    assert "Best: job 9, dev accuracy 0.7800" in text and "11 of 12 jobs have a result, 1 failed" in text
    assert "a\\|b" in text
    for name in ("sweep_paths.png", "sweep_importance.png"):
        assert f"({name})" in text and (sweep / name).read_bytes().startswith(b"\x89PNG")
        assert (sweep / name).stat().st_size > 10_000
    assert script(sweep, f"out={tmp_path}/else")[0] == 0 and (tmp_path / "else" / "sweep_report.md").exists()


def test_any_folder_of_runs_has_a_report(script, tmp_path):
    write_run(tmp_path / "runs" / "a", cell="lstm", best=0.5)
    write_run(tmp_path / "runs" / "b", cell="gru", best=0.6, end=False)
    found = report(tmp_path / "runs")
    assert [(row.name, row.values, row.state) for row in found.rows] == [
        ("b", {"cell": "gru"}, "unfinished"),
        ("a", {"cell": "lstm"}, "done"),
    ]
    assert "takes 6 different results" in as_markdown(found, [])
    assert script(tmp_path / "runs")[0] == 0 and (tmp_path / "runs" / "sweep_paths.png").exists()


def test_a_sweep_without_results_yet_has_a_report(script, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    Sweep(folder, [], [], {}, "grid", 1, [Job(0, {"cell": "gru"})]).write()
    code, out, _ = script(folder)
    assert code == 0 and "waiting" in out and not (folder / "sweep_paths.png").exists()
    assert out.endswith("sweep_report.md (sweep_report.csv)\n")


def test_mistakes_are_named(script, sweep, tmp_path):
    (tmp_path / "empty").mkdir()
    for given, words in (
        ((tmp_path / "empty",), "there is no sweep and no run in it"),
        ((tmp_path / "nowhere",), "there is no sweep and no run in it"),
        (("outt=x",), "outt: there is no such option"),
        (("out=x",), "folder: which one is not said"),
    ):
        code, out, err = script(*given)
        assert code == 2 and out == "" and words in err and len(err.splitlines()) == 1, (given, err)


def test_runs_of_different_tasks_are_not_compared(tmp_path):
    write_run(tmp_path / "runs" / "a")
    other = write_run(tmp_path / "runs" / "b") / "metrics.jsonl"
    other.write_text(other.read_text().replace('"accuracy"', '"per"'))
    with pytest.raises(ConfigError, match="accuracy and per"):
        report(tmp_path / "runs")
