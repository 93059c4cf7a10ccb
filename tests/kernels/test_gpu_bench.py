"""The benchmark of GPUs without one: what it refuses, what it skips, how it counts; one tiny case in full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scripts.bench import gpu, gpu_alive, gpu_cases, gpu_measure, gpu_table, gpu_tests
from tests.gpu import conftest as gpu_conftest

ROOT = Path(__file__).parents[2]
EPS = 2**-7


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny", "--seconds", "0", *arguments])
    return gpu.main()


def test_a_case_is_measured_once_for_a_commit(tmp_path: Path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    for commit in ("one", "one", "two"):
        assert run(monkeypatch, "--out", str(out), "--only", "dx", "--commit", commit) == 0
    assert capsys.readouterr().out.count("1 of 1 cases are in") == 1
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["commit"] for row in rows] == ["one", "two"]
    assert all(row["gpu"].startswith("none") and row["refused"] == [] for row in rows)
    assert "dx" in gpu_table.tables(rows)


def test_a_row_of_a_loop(tmp_path: Path, monkeypatch):
    out = tmp_path / "rows.jsonl"
    assert run(monkeypatch, "--out", str(out), "--only", "sru", "--commit", "one") == 0
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert set(row["systems"]) >= {"elementwise", "torch"}
    for system in row["systems"].values():
        for way in ("forward", "both"):
            assert system[f"{way}_ms"] > 0 and system[f"{way}_peak_mb"] >= 0
    assert row["systems"]["elementwise"]["both_speedup_over"]["torch"] > 0
    told = gpu_table.tables([row])
    assert "elementwise" in told and "Peak MB" in told


def test_a_changed_checkout_is_measured_again(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    info = {"commit": "a", "gpu": "g", "torch": "t", "triton": "3", "dirty": False}
    path.write_text(json.dumps({**info, "what": "loop"}) + "\n" + json.dumps({**info, "dirty": True}) + "\n")
    assert len(gpu.done_before(path, info)) == 1
    for other in ({"dirty": True}, {"commit": ""}, {"commit": "b"}, {"gpu": "h"}, {"triton": "4"}):
        assert gpu.done_before(path, {**info, **other}) == []
    assert gpu.done_before(tmp_path / "none", info) == []


def test_a_case_that_raises_fails_the_run_and_not_the_others(tmp_path: Path, monkeypatch, capsys):
    stock = gpu.loop

    def broken(case: gpu_cases.Case, *rest: Any) -> Any:
        if case.cell == "sru":
            raise RuntimeError("a fault")
        return stock(case, *rest)

    monkeypatch.setattr(gpu, "loop", broken)
    monkeypatch.setattr(
        gpu, "tiny", lambda: [c for c in gpu_cases.tiny() if c.cell == "sru" or c.way == "dx"]
    )
    out = tmp_path / "rows.jsonl"
    assert run(monkeypatch, "--out", str(out), "--commit", "one") == 1
    assert "sru bfloat16" in capsys.readouterr().err
    assert [json.loads(line)["way"] for line in out.read_text().splitlines()] == ["dx"]


def test_a_wrong_system_is_not_timed(tmp_path: Path, monkeypatch, capsys):
    stock = gpu_cases.contest

    def spoilt(*given: Any) -> gpu_cases.Contest:
        made = stock(*given)
        ours = next(s for s in made.systems if s.name == "elementwise")
        for w in ours.module.weights().values():  # type: ignore[operator]
            w.mul_(1.5)
        return made

    monkeypatch.setattr(gpu, "contest", spoilt)
    out = tmp_path / "rows.jsonl"
    assert run(monkeypatch, "--out", str(out), "--only", "sru", "--commit", "one") == 1
    assert not out.exists()
    assert "not timed. elementwise: error of y" in capsys.readouterr().err


def test_refusals():
    nan = float("nan")
    errors = {"nn.LSTM": {"y": 0.01}, "eager": {"y": 0.02}, "persistent": {"y": 0.039}}
    rulers = {"nn.LSTM", "eager"}
    assert gpu_measure.refusals(errors, rulers, EPS) == []
    for wrong in (0.041, nan):
        (why,) = gpu_measure.refusals({**errors, "persistent": {"y": wrong}}, rulers, EPS)
        assert why.startswith("persistent: error of y")
    assert gpu_measure.refusals({**errors, "eager": {"y": 1.0}, "persistent": {"y": 0.0}}, rulers, EPS)
    assert gpu_measure.refusals({"ours": {"y": 2 * EPS}}, set(), EPS) == []


def test_speedups_are_of_neighbouring_turns():
    """The machine slows down by ten in the middle: the ratio of turns does not see it."""
    times = {"ours": [1.0, 1.0, 10.0], "theirs": [2.0, 2.0, 20.0]}
    assert gpu_measure.speedup(times, "ours", "theirs") == 2.0
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    device = gpu_measure.Device("cpu")
    found = gpu_measure.take_turns(device, runs, 0.0, lambda: order.append("fresh"), least=2)
    assert order == ["fresh", "a", "fresh", "b"] * 3  # the first round warms up
    assert [len(x) for x in found.values()] == [2, 2]


def test_cases_differ_and_begin_with_every_cell():
    cases = gpu_cases.cases()
    assert len({str(c) for c in cases}) == len(cases)
    assert [c.cell for c in cases[:3]] == list(gpu_cases.CELLS)
    assert {c.dtype for c in cases} == {"bfloat16", "float16"}
    assert {dict(c.sizes)["T"] for c in cases if c.what == "loop"} == {512}
    assert {c.way for c in cases if c.what == "matmul"} == {"forward", "dx", "dw"}


@pytest.mark.parametrize("cell", gpu_cases.CELLS)
def test_systems_of_a_contest_agree(cell: str):
    made = gpu_cases.contest(cell, 6, "cpu", "float32")
    x = torch.randn(4, 2, 6)
    want, _ = made.truth(x.double())
    assert isinstance(want, torch.Tensor) and len(made.systems) >= 2 and "torch" in made.ours
    for s in made.systems:
        assert gpu_measure.relative(s.run(x), want) < 1e-5, s.name


def test_alive(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["alive", "--tiny"])
    assert gpu_alive.main() == 0
    assert "a loop, forward and backward: finite" in capsys.readouterr().out
    monkeypatch.setattr(gpu_alive, "NEEDED", {"torch": "torch", "no_such": "no_such_package"})
    assert gpu_alive.main() == 3
    assert "pip install no_such_package" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_once(tmp_path: Path):
    script = ROOT / "scripts" / "bench" / "gpu_check.sh"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "PYTHON": sys.executable
    }
    found = subprocess.run(
        [str(script), "--out", str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1 and "torch sees no GPU" in found.stdout
    (stage,) = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").read_text().splitlines()]
    assert stage["stage"] == "alive" and stage["status"] == 3 and not stage["interpreted"]


def test_what_is_measured_is_named(monkeypatch):
    """A commit that was given is the commit; without git there is none, and that is no error."""
    assert gpu.here(gpu_measure.Device("cpu"), "abc")["commit"] == "abc"
    monkeypatch.setenv("PATH", "")
    info = gpu.here(gpu_measure.Device("cpu"), "")
    assert info["commit"] == "" and info["gpu"].startswith("none")


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--help"], 0, "--tiny"),
        (["--tyni"], 2, "no option '--tyni'"),
        (["--out"], 2, "--out needs a value"),
        (["--minutes", "some"], 2, "Give a whole number"),
    ],
)
def test_options_of_the_check(arguments: list[str], status: int, text: str):
    script = ROOT / "scripts" / "bench" / "gpu_check.sh"
    found = subprocess.run([str(script), *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == status and text in found.stdout + found.stderr


def test_shards_share_out_all_tests():
    """Each test is in one part, and what compiles the same kernels is in the same part."""
    pairs = [{"runner": r, "cell": c} for r in "ab" for c in "xyz"]
    items = [
        SimpleNamespace(nodeid=f"{name}{p}", callspec=SimpleNamespace(params=p))
        for p in pairs
        for name in "st"
    ]
    items += [SimpleNamespace(nodeid=f"alone{k}") for k in range(5)]

    def part(number: int) -> list[str]:
        hook = SimpleNamespace(pytest_deselected=lambda items: None)
        config = SimpleNamespace(getoption=lambda name: f"{number}/3", hook=hook)
        kept: list[Any] = list(items)
        gpu_conftest.pytest_collection_modifyitems(config, kept)  # type: ignore[arg-type]
        return [item.nodeid for item in kept]

    parts = [part(k) for k in (1, 2, 3)]
    assert sorted(name for names in parts for name in names) == sorted(item.nodeid for item in items)
    assert all(parts)
    for pair in pairs:
        assert sum(f"s{pair}" in names and f"t{pair}" in names for names in parts) == 1


def test_a_shard_that_hangs_is_killed_and_named(tmp_path: Path, monkeypatch, capsys):
    def sleeps(files: list[str], number: int, of: int, logs: Path, options: list[str]) -> gpu_tests.Shard:
        log = logs / f"{number}.log"
        log.write_text(f"tests/gpu/{files[0]}::test_{number} PASSED\n")
        seconds = 0 if number == 1 else 600
        return gpu_tests.Shard(subprocess.Popen(["sleep", str(seconds)]), log)

    monkeypatch.setattr(gpu_tests, "start", sleeps)
    monkeypatch.setattr(sys, "argv", ["x", "f.py", "--limit", "1", "--shards", "2", "--logs", str(tmp_path)])
    assert gpu_tests.main() == 124
    said = capsys.readouterr().out
    assert "killed after 1 s, it was at tests/gpu/f.py::test_2" in said


def test_a_shard_that_fails_fails_all(tmp_path: Path, monkeypatch, capsys):
    def ends(files: list[str], number: int, of: int, logs: Path, options: list[str]) -> gpu_tests.Shard:
        log = logs / f"{number}.log"
        log.write_text(f"the words of {number}\n")
        return gpu_tests.Shard(subprocess.Popen(["false" if number == 2 else "true"]), log)

    monkeypatch.setattr(gpu_tests, "start", ends)
    monkeypatch.setattr(sys, "argv", ["x", "f.py", "--shards", "3", "--logs", str(tmp_path)])
    assert gpu_tests.main() == 1
    assert "2.log: status 1\nthe words of 2" in capsys.readouterr().out
