"""Tests on a GPU in slices: what has passed is not run again, what was interrupted is; exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.bench import gpu_tests
from tests.gpu.progress import LEFT, Progress, digest, rows_of

ROOT = Path(__file__).parents[2]
TESTS = """
import os, pytest, tests.gpu.progress as progress

@pytest.mark.parametrize("k", range(4))
def test(k):
    assert os.environ.get("BROKEN") != str(k)
    if os.environ.get("FATAL") == str(k):
        os._exit(3)

@pytest.mark.skip(reason="shows that it counts as done")
def test_skipped():
    pass
"""
# Each reading of this clock is one second later than the one before.
PLUGIN = """
import itertools, os, pathlib, tests.gpu.progress as progress

def pytest_configure(config):
    info = {"gpu": os.environ.get("GPU", "a")}
    clock = itertools.count(0.0).__next__
    until = float(os.environ["UNTIL"])
    config.pluginmanager.register(progress.Progress(pathlib.Path("rows"), info, until, clock))
"""


def run(folder: Path, until: float = 1e9, **environment: str) -> tuple[int, list[str], str]:
    """Exit status, the tests that have begun, in order, and what was said."""
    (folder / "test_it.py").write_text(TESTS)
    (folder / "slices.py").write_text(PLUGIN)
    rows = folder / "rows"
    before = len(list(rows_of(rows)))
    paths = {"PYTHONPATH": f"{ROOT}:{folder}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "slices", "-p", "no:cacheprovider", "test_it.py"],
        cwd=folder, env=os.environ | paths | {"UNTIL": str(until)} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    new = list(rows_of(rows))[before:]
    began = [row["test"].removeprefix("test_it.py::") for row in new if row["outcome"] == "began"]
    return found.returncode, began, found.stdout + found.stderr


def test_it_goes_on_where_it_ended(tmp_path: Path):
    status, began, said = run(tmp_path, until=4)
    assert status == LEFT and began == ["test[0]", "test[1]"], said
    assert "the time is over, 3 tests are left" in said
    status, began, said = run(tmp_path)
    assert status == 0 and began == ["test[2]", "test[3]", "test_skipped"], said
    status, began, _ = run(tmp_path)
    assert status == pytest.ExitCode.NO_TESTS_COLLECTED and began == []
    status, began, _ = run(tmp_path, GPU="another")
    assert status == 0 and len(began) == 5


def test_what_failed_or_killed_comes_again_and_last(tmp_path: Path):
    status, began, said = run(tmp_path, until=2, BROKEN="0")
    assert status == 1 and began == ["test[0]"] and "the time is over, 4 tests" in said, said
    status, began, _ = run(tmp_path, FATAL="1")
    assert status == 3 and began == ["test[1]"]
    with (tmp_path / "rows").open("a") as f:
        f.write('{"test": "cut sho')  # as a crash may leave it
    (tmp_path / "rows").write_text((tmp_path / "rows").read_text() + "\n")
    status, began, _ = run(tmp_path)
    assert status == 0 and began == ["test[2]", "test[3]", "test_skipped", "test[0]", "test[1]"]
    rows = list(rows_of(tmp_path / "rows"))
    assert [row["outcome"] for row in rows if row["test"] == "test_it.py::test[0]"] == [
        "began", "failed", "began", "passed",
    ]  # fmt: skip
    assert all(row["gpu"] == "a" and row.get("seconds", 0) >= 0 for row in rows)


def test_sources_decide(tmp_path: Path):
    """Any change of a source is another state; what is not one does not matter."""
    for name in ("kernels/a.py", "framework/data/b.py", "tests/gpu/c.py", "docs/d.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [digest(tmp_path)]
    for name in ("docs/d.md", "framework/data/b.py", "tests/gpu/c.py", "kernels/a.py"):
        (tmp_path / name).write_text("y")
        found.append(digest(tmp_path))
    assert found[0] == found[1] and len(set(found)) == 4
    assert digest() == digest() != found[0]
    path = tmp_path / "rows"
    old = Progress(path, {"sources": "1"}, 1.0)
    old.write("t", "began")
    old.write("t", "passed")
    assert Progress(path, {"sources": "1"}, 1.0).passed == {"t"}
    assert Progress(path, {"sources": "2"}, 1.0).passed == set()
    old.write("t", "failed")
    assert Progress(path, {"sources": "1"}, 1.0).passed == set()


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [((0, 5), 0), ((0, LEFT), LEFT), ((LEFT, 5), LEFT), ((LEFT, 1), 1), ((1, LEFT), 1), ((3, 0), 1)],
)
def test_status_of_shards(
    statuses: tuple[int, ...], worst: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given: list[Any] = []

    def ends(files: list[str], number: int, of: int, logs: Path, options: list[str]) -> gpu_tests.Shard:
        given.append((files, options))
        log = logs / f"{number}.log"
        log.write_text("said\n")
        return gpu_tests.Shard(subprocess.Popen(["sh", "-c", f"exit {statuses[number - 1]}"]), log)

    monkeypatch.setattr(gpu_tests, "start", ends)
    options = ["--full", "--progress", "rows", "--limit", "500", "--shards", "2", "--logs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu_tests", *options])
    assert gpu_tests.main() == worst
    assert given == [([], ["-m", "gpu", "--progress", "rows", "--until", "440.0"])] * 2


def test_what_a_shard_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(gpu_tests.subprocess, "Popen", lambda command, **rest: commands.append(command))
    gpu_tests.start([], 2, 3, tmp_path, ["-m", "gpu"])
    gpu_tests.start(["test_large.py"], 1, 1, tmp_path, [])
    assert "--ignore=tests/gpu/test_large.py" in commands[0] and commands[0][-4:] == [
        "--shard",
        "2/3",
        "-m",
        "gpu",
    ]
    assert "tests/gpu/test_large.py" in commands[1] and not any("--ignore" in x for x in commands[1])
    assert all((ROOT / "tests" / "gpu" / name).is_file() for name in (gpu_tests.ALONE, "pytest.ini"))


# A python that only says what it was asked to do, and ends as it is told to.
FAKE = """#!/bin/sh
echo "$@" >> "$ASKED"
case "$*" in
    *gpu_alive*) exit ${ALIVE:-0};;
    *test_large*) exit ${LARGE:-0};;
    *gpu_tests*) exit ${TESTS:-0};;
    *) exit ${TIMES:-0};;
esac
"""


@pytest.mark.parametrize(
    ("ends", "options", "status", "asked"),
    [
        ({}, [], 0, ["gpu_alive", "gpu_tests --full", "test_large.py --shards 2 --full", "gpu --out"]),
        ({"ALIVE": "3"}, [], 1, ["gpu_alive"]),
        ({"TESTS": "75"}, [], 75, ["gpu_alive", "gpu_tests", "test_large"]),
        ({"TESTS": "1", "LARGE": "75"}, [], 1, ["gpu_alive", "gpu_tests", "test_large", "gpu --out"]),
        ({"TIMES": "1"}, ["--only", "timings"], 1, ["gpu_alive", "gpu --out"]),
        ({}, ["--only", "tests"], 0, ["gpu_alive", "gpu_tests", "test_large"]),
        ({}, ["--only", "test"], 2, []),
        ({}, ["--minutes", "1"], 75, ["gpu_alive"]),
    ],
)
def test_everything(ends: dict[str, str], options: list[str], status: int, asked: list[str], tmp_path: Path):
    python, log = tmp_path / "python", tmp_path / "asked"
    python.write_text(FAKE)
    python.chmod(0o755)
    log.touch()
    found = subprocess.run(
        [str(ROOT / "scripts" / "bench" / "gpu_full.sh"), "--out", str(tmp_path), *options],
        env=os.environ | {"PYTHON": str(python), "ASKED": str(log)} | ends,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == status, found.stdout + found.stderr
    said = log.read_text().splitlines()
    assert len(said) == len(asked) and all(b in a for a, b in zip(said, asked, strict=True)), said


def test_a_row_is_one_short_line(tmp_path: Path):
    """Several processes append to one file: no line may be larger than what is written at once."""
    progress = Progress(tmp_path / "sub" / "rows", {"gpu": "g" * 100}, 1.0)
    progress.write("tests/gpu/test_networks.py::test[" + "x" * 200 + "]", "passed", seconds=1.0)
    (line,) = (tmp_path / "sub" / "rows").read_text().splitlines()
    assert len(line) < 4096 and json.loads(line)["seconds"] == 1.0
