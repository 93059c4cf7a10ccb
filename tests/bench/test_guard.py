"""The guard fails when ours has become slower beside the eager loop, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.bench import guard, rows, where
from scripts.bench.bench import Bench
from scripts.bench.cases import Case
from scripts.bench.measure import Device
from scripts.bench.rows import Row
from tests.bench.fake_rows import MACHINE, side_by_side

BENCH = Bench(Device("cpu", cold=False), 0.0, where.here("cpu", "abc"))
CASES = guard.CASES[:2]


def measured(case: Case, ours: float, **more: Any) -> list[Row]:
    """Rows of a case with a machine of our own; the eager loop takes 40 ms."""
    times = {"intrastream": ours, guard.REFERENCE: 40.0}
    return side_by_side(times, **({"table": guard.TABLE, "case": case.name} | MACHINE | more))


def play(monkeypatch: pytest.MonkeyPatch, *ours: float) -> list[str]:
    """Every measurement takes the next of these times."""
    left, calls = list(ours), []

    def run(case: Case, bench: Bench) -> list[Row]:
        calls.append(case.name)
        return measured(case, left.pop(0))

    monkeypatch.setattr(guard.contest, "run", run)
    return calls


KEPT = [r for case in CASES for r in measured(case, 10.0)]


def test_slower_twice_is_slower(monkeypatch: pytest.MonkeyPatch):
    calls = play(monkeypatch, 10.5, 11.5, 11.5)
    fresh, slower = guard.guard(BENCH, KEPT, CASES)
    assert len(slower) == 1 and slower[0].startswith(CASES[1].name) and "15 % slower" in slower[0]
    assert calls == [CASES[0].name, CASES[1].name, CASES[1].name] and len(fresh) == 4


def test_slower_once_is_noise(monkeypatch: pytest.MonkeyPatch):
    play(monkeypatch, 10.0, 30.0, 10.2)
    assert guard.guard(BENCH, KEPT, CASES)[1] == []


def test_faster_and_just_within_pass(monkeypatch: pytest.MonkeyPatch):
    play(monkeypatch, 5.0, 10.9)
    assert guard.guard(BENCH, KEPT, CASES)[1] == []


def test_only_the_last_row_of_this_machine_counts(monkeypatch: pytest.MonkeyPatch, capsys):
    older = measured(CASES[0], 1.0)
    elsewhere = measured(CASES[0], 1.0, threads=64)
    play(monkeypatch, 10.0)
    assert guard.guard(BENCH, [*older, *KEPT, *elsewhere], CASES[:1])[1] == []
    play(monkeypatch, 10.0)
    assert guard.guard(BENCH, elsewhere, CASES[:1])[1] == []
    assert "no row to compare with" in capsys.readouterr().out


def test_the_command_fails_when_it_should(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    monkeypatch.setattr(guard, "CASES", CASES)
    monkeypatch.setattr(guard.guard, "__defaults__", (CASES,))
    play(monkeypatch, 10.0, 10.0)
    assert guard.main(["--rows", str(path), "--keep"]) == 0 and len(rows.read(path)) == 4
    play(monkeypatch, 10.0, 12.0, 12.0)
    assert guard.main(["--rows", str(path)]) == 1 and len(rows.read(path)) == 4
    assert "Slower:" in capsys.readouterr().out


def test_ten_cases_and_a_real_one():
    assert len(guard.CASES) == 10 and len({c.name for c in guard.CASES}) == 10
    small = Case(
        table=guard.TABLE, cell="mgu", T=3, B=1, H=4, passes=guard.CASES[0].passes, systems=CASES[0].systems
    )
    fresh, slower = guard.guard(BENCH, [], [small])
    assert {r.system for r in fresh} == {"intrastream", guard.REFERENCE} and slower == []
