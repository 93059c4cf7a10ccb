"""The command: what it skips, what it goes on with, what makes it fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.errors import ConfigError
from scripts.bench import planning, rows, run, tables, where
from scripts.bench.cases import Case
from scripts.bench.measure import Buffers, Device, quantile, speedup, take_turns
from tests.bench.fake_rows import row

TWO = [
    Case(table="a", cell=cell, T=3, B=1, H=4, passes=("forward",), systems=("intrastream", "eager loop"))
    for cell in ("lstm", "mgu")
]


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiny cases are all that there is."""
    monkeypatch.setattr(run, "select", lambda asked, device: ("cpu", TWO))


def measure(out: Path, *more: str) -> int:
    return run.main(["--out", str(out), "--tiny", "--commit", "abc", *more])


@pytest.mark.usefixtures("two")
def test_a_case_is_measured_once(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "rows.jsonl"
    assert measure(out, "--only", "mgu") == 0 and len(rows.read(out)) == 2
    assert measure(out) == 0 and [r.options["cell"] for r in rows.read(out)] == ["mgu", "mgu", "lstm", "lstm"]
    before = out.read_text()
    assert measure(out) == 0 and out.read_text() == before
    assert "2 of 2 cases are in" in capsys.readouterr().out
    assert measure(out, "--again", "--only", "mgu") == 0
    assert out.read_text().startswith(before) and len(rows.read(out)) == 6
    monkeypatch.setattr(where, "code", lambda: "other")  # our code has changed
    assert measure(out, "--list") == 0
    assert "a: lstm" in capsys.readouterr().out and len(rows.read(out)) == 6


def test_what_makes_a_row_old():
    case = replace(TWO[0], systems=("intrastream", "sru"))
    info = where.here("cpu", "abc")
    good = row(**(info | {"case": case.name, "pass_": "forward", "version": info["code"], "options": {}}))
    assert run.missing(case, [good], info) == ["sru, forward"]
    both = replace(good, declined={"sru": "it computes sru"})
    assert run.missing(case, [both], info) == []
    for change in ("code", "cpu", "threads", "gpu", "torch", "triton"):
        value = 99 if change == "threads" else "other"
        assert len(run.missing(case, [both], info | {change: value})) == 2, change
    assert run.missing(case, [replace(both, version="old")], info) == ["intrastream, forward"]
    assert run.missing(replace(case, dtype="float64"), [both], info)
    assert run.missing(replace(case, passes=("forward", "forward+backward")), [both], info) == [
        "intrastream, forward+backward"
    ]


def test_who_was_not_installed_takes_part_later(monkeypatch: pytest.MonkeyPatch):
    case = replace(TWO[0], systems=("intrastream", "sru"))
    info = where.here("cpu", "abc")
    absent = {"sru": "package sru is not installed"}
    own = {"case": case.name, "pass_": "forward", "version": info["code"], "options": {}, "declined": absent}
    monkeypatch.setattr(run, "package", lambda name: "")
    assert run.missing(case, [row(**(info | own))], info) == []
    monkeypatch.setattr(run, "package", lambda name: "2.6.0")
    assert run.missing(case, [row(**(info | own))], info) == ["sru, forward"]


@pytest.mark.usefixtures("two")
def test_when_the_time_is_over_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "rows.jsonl"
    assert measure(out, "--minutes", "0") == 75
    assert "2 cases are left" in capsys.readouterr().out and not out.exists()


@pytest.mark.usefixtures("two")
def test_a_case_that_raises_fails_the_run_and_not_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    stock = run.MEASURES["network"]

    def broken(case: Case, bench: Any) -> Any:
        if case.cell == "lstm":
            raise RuntimeError("a fault")
        return stock(case, bench)

    monkeypatch.setitem(run.MEASURES, "network", broken)  # type: ignore[arg-type]
    out = tmp_path / "rows.jsonl"
    assert measure(out) == 1
    assert {r.options["cell"] for r in rows.read(out)} == {"mgu"}
    assert "lstm T=3" in capsys.readouterr().err


@pytest.mark.usefixtures("two")
def test_a_case_that_hung_comes_last_in_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    class Killed(BaseException):
        """What ends a process from outside."""

    def hangs(case: Case, bench: Any) -> Any:
        raise Killed

    out, stock = tmp_path / "rows.jsonl", run.MEASURES["network"]
    monkeypatch.setitem(run.MEASURES, "network", hangs)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        measure(out)
    monkeypatch.setitem(run.MEASURES, "network", stock)  # type: ignore[arg-type]
    assert measure(out) == 0
    assert "An earlier run ended in a: lstm" in capsys.readouterr().out
    assert [r.options["cell"] for r in rows.read(out)] == ["mgu", "mgu", "lstm", "lstm"]
    assert not out.with_suffix(".begun").exists()


def test_wrong_options_are_told(capsys: pytest.CaptureFixture):
    with pytest.raises(ConfigError, match="no table 'z'"):
        tables.select("a,z", "cpu")
    assert run.main(["--tables", "z"]) == 2
    assert "There are cpu, gpu, a, b" in capsys.readouterr().err
    assert run.main(["--tables", "a", "--tiny", "--device", "cpu", "--only", "lstn"]) == 2
    assert "--only: no case of these tables holds 'lstn'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", tables.SETS)
def test_cases_differ_and_fill_all_tables(kind: str):
    found = list(tables.SETS[kind]())
    assert len({(c.table, c.name, c.dtype) for c in found}) == len(found)
    wanted = set("abcdefghi") | ({"m"} if kind == "gpu" else set())
    assert {c.table for c in found} - {"m"} == wanted - {"m"} and set(tables.TABLES) >= {
        c.table for c in found
    }
    assert all(c.systems and c.what in run.MEASURES for c in found)
    small = [run.tiny(c) for c in found]
    assert max(c.T for c in small) <= 33 and max(c.H for c in small) <= 20
    assert {str(c.option("shape")) for c in found if c.what == "planning"} <= set(planning.SHAPES)


def test_tables_on_a_gpu_begin_with_the_most_telling():
    found = list(tables.on_gpu())
    assert [(c.cell, c.dtype, c.B, c.H) for c in found[:2]] == [
        ("lstm", "bfloat16", 16, 512), ("gru_cudnn", "bfloat16", 16, 512)
    ]  # fmt: skip
    assert {c.dtype for c in found} == {"bfloat16", "float16", "float32"}
    assert set(tables.SHAPES) == set(planning.SHAPES)


def test_speedups_are_of_neighbouring_turns():
    """The machine slows down by ten in the middle: the ratio of turns does not see it."""
    times = {"ours": [1.0, 1.0, 10.0], "theirs": [2.0, 2.0, 20.0]}
    assert speedup(times, "ours", "theirs") == 2.0
    order: list[str] = []

    def ready(name: str) -> Any:
        order.append("fresh")
        return lambda: order.append(name)

    runs = {name: (lambda name=name: ready(name)) for name in "ab"}
    found = take_turns(Device("cpu", cold=False), runs, 0.0, least=8)
    rounds = [tuple(order[i : i + 4]) for i in range(0, len(order), 4)]
    assert len(rounds) == 9  # the first one warms up
    # Each takes part in each round, and none is always behind the same other.
    assert set(rounds) == {("fresh", "a", "fresh", "b"), ("fresh", "b", "fresh", "a")}
    assert [len(x) for x in found.values()] == [8, 8]


def test_quantiles_lie_between_neighbours():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 10.0], 0.2) == 2.0 and quantile([4.0], 0.8) == 4.0


def test_buffers_take_turns_and_are_always_new():
    buffers = Buffers((2, 1, 3), (2, 1, 4), torch.float32, "cpu", 1)
    pairs = [buffers.fresh() for _ in range(Buffers.COUNT + 1)]
    places = [x.data_ptr() for x, _ in pairs]
    assert len(set(places)) == Buffers.COUNT and places[0] == places[-1]
    before = pairs[-1][0].detach().clone()
    for _ in range(Buffers.COUNT):
        again = buffers.fresh()[0]
    assert again.data_ptr() == places[0] and not (again.detach() == before).any()
    assert again.requires_grad and pairs[0][1].shape == (2, 1, 4)
