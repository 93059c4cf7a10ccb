"""The checks of a GPU without one: is it alive, what runs, what hangs. Timings: tests/bench."""

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

from scripts.bench import gpu_alive, gpu_tests, rows, run, tables
from tests.gpu import conftest as gpu_conftest

ROOT = Path(__file__).parents[2]


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


def test_timings_are_rehearsed_under_the_interpreter(tmp_path: Path, monkeypatch):
    """A kernel and torch side by side, as the check measures them on a GPU."""
    out = tmp_path / "rows.jsonl"
    case = next(c for c in tables.on_gpu() if c.cell == "sru")
    monkeypatch.setattr(run, "select", lambda asked, device: ("cuda", [case]))
    assert run.main(["--tables", "gpu", "--tiny", "--out", str(out), "--commit", "abc"]) == 0
    found = rows.read(out)
    assert {r.system for r in found} == {"intrastream", "intrastream elementwise", "intrastream torch"}
    assert all(r.gpu.startswith("none") and "sru" in r.declined for r in found)
