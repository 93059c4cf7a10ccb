"""scripts/sanitize.sh without a GPU: what it asks of compute-sanitizer, what it says where there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from framework.choose import TABLE
from scripts.bench import gpu_sanitized

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "sanitize.sh"
TOOLS = ["memcheck", "initcheck", "synccheck", "racecheck"]
# Notes how it was called; ends as FINDS says where it is asked for that tool, else as the program does.
SANITIZER = """#!/bin/sh
echo "sanitizer $PYTORCH_NO_CUDA_MEMORY_CACHING $@" >> "$ASKED"
case "$*" in *"--tool ${FINDS:-none} "*) echo "========= Invalid __global__ read"; exit ${ENDS:-86};; esac
while [ "$1" != "$PYTHON" ]; do shift; done
exec "$@"
"""
PROGRAM = """#!/bin/sh
echo "python $PYTORCH_NO_CUDA_MEMORY_CACHING $@" >> "$ASKED"
echo "the words of the program"
exit ${PROGRAM:-0}
"""


def run(
    folder: Path, *arguments: str, sanitizer: bool = True, **environment: str
) -> tuple[int, list[str], str]:
    """Exit status, the calls in order, and what was said, with a fake Python and a fake compute-sanitizer."""
    folder.mkdir(exist_ok=True)
    for name, text in (("compute-sanitizer", SANITIZER), ("python", PROGRAM)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    if not sanitizer:
        (folder / "compute-sanitizer").unlink()
    asked = folder / "asked"
    asked.touch()
    given = {"PATH": f"{folder}:/usr/bin:/bin", "PYTHON": str(folder / "python"), "ASKED": str(asked)}
    found = subprocess.run(
        [str(SCRIPT), "--logs", str(folder / "logs"), *arguments],
        env={"CUDA_HOME": "/nowhere"} | given | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.returncode, asked.read_text().splitlines(), found.stdout + found.stderr


def test_each_tool_runs_the_same_launches(tmp_path: Path):
    status, asked, said = run(tmp_path, "--only", "many programs")
    program = "-m scripts.bench.gpu_sanitized --only many programs"
    assert status == 0, said
    assert asked[0] == f"python 1 {program}", "first without a tool"
    for tool, call, inner in zip(TOOLS, asked[1::2], asked[2::2], strict=True):
        assert call.startswith(f"sanitizer 1 --tool {tool} --error-exitcode 86 ")
        assert call.endswith(program) and inner == asked[0]
        assert f"{tool} found nothing" in said
        assert (tmp_path / "logs" / f"{tool}.log").read_text() == "the words of the program\n"


def test_chosen_tools(tmp_path: Path):
    _, asked, _ = run(tmp_path, "--tools", "racecheck,memcheck")
    assert [call.split()[3] for call in asked if call.startswith("sanitizer")] == ["racecheck", "memcheck"]


def test_what_is_found_is_told_and_the_others_run(tmp_path: Path):
    status, asked, said = run(tmp_path, FINDS="initcheck")
    assert status == 1 and "initcheck found something" in said and "Invalid __global__ read" in said
    assert "not clean: initcheck\n" in said and sum(call.startswith("sanitizer") for call in asked) == 4
    status, _, said = run(tmp_path / "again", FINDS="memcheck", ENDS="7")
    assert status == 1 and "memcheck failed (status 7)" in said


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tools", "leakcheck"], "no tool 'leakcheck'. There are memcheck, initcheck"),
        (["--tool", "memcheck"], "no option '--tool'"),
        (["--minutes", "few"], "Give a whole number"),
        (["--only"], "--only needs a value"),
    ],
)
def test_mistakes(arguments: list[str], text: str, tmp_path: Path):
    status, asked, said = run(tmp_path, *arguments)
    assert status == 2 and text in said and not asked


@pytest.mark.skipif(
    shutil.which("compute-sanitizer", path="/usr/bin:/bin") is not None, reason="the system brings one"
)
def test_what_is_missing_is_told(tmp_path: Path):
    status, asked, said = run(tmp_path, sanitizer=False)
    assert status == 3 and not asked and "no compute-sanitizer on PATH nor in /nowhere/bin" in said
    home = tmp_path / "cuda" / "bin"
    home.mkdir(parents=True)
    (home / "compute-sanitizer").write_text(SANITIZER)
    (home / "compute-sanitizer").chmod(0o755)
    status, asked, said = run(tmp_path, sanitizer=False, CUDA_HOME=str(home.parent))
    assert status == 0 and len(asked) == 9, said


@pytest.mark.parametrize(("ends", "status"), [("1", 1), ("3", 3), ("2", 2)])
def test_a_program_that_fails_by_itself(ends: str, status: int, tmp_path: Path):
    """Wrong results, no GPU, no such launches: no tool is asked."""
    found, asked, said = run(tmp_path, PROGRAM=ends)
    assert found == status and len(asked) == 1 and "the words of the program" in said
    assert "failed without any tool" in said


def test_every_kernel_is_among_the_launches():
    runners = {given[0] for given in gpu_sanitized.LOOPS.values()}
    assert runners == {r.name for r in TABLE if "cuda" in r.devices}
    assert {name.split()[0] for name in gpu_sanitized.CASES} == {"matmul", "lookup", "bias"}


def test_launches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Those of the interpreter; a wrong result is told, and the next launch runs."""
    monkeypatch.setattr(sys, "argv", ["x", "--tiny", "--only", "l"])
    ran: list[str] = []

    def wrong(device: str) -> None:
        raise AssertionError("it is off")

    monkeypatch.setattr(
        gpu_sanitized, "cases", lambda tiny: {"lost": wrong, "elsewhere": ran.append, "last": ran.append}
    )
    assert gpu_sanitized.main() == 1 and ran == ["cpu", "cpu"]
    told = capsys.readouterr()
    assert "lost: it is off" in told.err and "elsewhere: agrees" in told.out


@pytest.mark.parametrize("name", ["lookup", "elementwise sru"])
def test_a_launch(name: str):
    gpu_sanitized.cases(tiny=True)[name]("cpu")


def test_mistakes_of_the_launches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["x", "--only", "no such"])
    assert gpu_sanitized.main() == 2 and "persistent lstm" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["x"])
    assert gpu_sanitized.main() == 3 and "torch sees no GPU" in capsys.readouterr().err
