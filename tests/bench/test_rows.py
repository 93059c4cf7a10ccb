"""The row: what it holds, how it is written and read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scripts.bench import limits, rows, where
from tests.bench.fake_rows import row

NEEDED = (
    "commit",
    "dirty",
    "code",
    "cpu",
    "threads",
    "gpu",
    "torch",
    "triton",
    "system",
    "version",
    "case",
    "dtype",
    "T",
    "B",
    "F",
    "H",
    "layers",
    "pass",
    "input_product",
    "p20_ms",
    "p50_ms",
    "p80_ms",
    "us_per_step",
    "peak_bytes",
    "flops_per_s",
    "bytes_per_s",
    "floor_ms",
    "limit",
    "predicted_ms",
    "seed",
    "turns",
    "ratios",
    "declined",
)


def test_a_row_has_all_fields_and_comes_back(tmp_path: Path):
    path = tmp_path / "deep" / "rows.jsonl"
    first, second = row(), row("nn.LSTM", 7.0, ratios={"intrastream": 1.4}, declined={"sru": "absent"})
    rows.append(path, [first])
    rows.append(path, [second])
    assert rows.read(path) == [first, second]
    for line in path.read_text().splitlines():
        values = json.loads(line)
        assert set(NEEDED) <= set(values) and values["format"] == rows.FORMAT


def test_a_line_that_is_no_row_is_named(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    good = json.loads(row().line())
    short = {k: v for k, v in good.items() if k != "seed"}
    for wrong, said in (
        (json.dumps(short), "line 2: fields missing: \\['seed'\\]"),
        (json.dumps({**good, "sped": 1}), "unknown: \\['sped'\\]"),
        (json.dumps({**good, "pass": "sideways"}), "no pass 'sideways'"),
        ("{", "line 2"),
    ):
        path.write_text(f"{json.dumps(good)}\n{wrong}\n")
        with pytest.raises(ValueError, match=said):
            rows.read(path)


def test_rows_of_an_earlier_form_stay_and_are_left_out(tmp_path: Path):
    for name in ("cpu", "fused", "memory", "planning"):
        path = rows.RESULTS / f"{name}.jsonl"
        assert path.stat().st_size > 0 and rows.read(path) == []
    assert rows.read(tmp_path / "none.jsonl") == []
    assert all(isinstance(r, rows.Row) for r in rows.read(rows.KEPT))


def test_the_last_row_of_a_place_counts():
    old, new, elsewhere = row(ms=10.0), row(ms=9.0), row(ms=8.0, threads=1)
    found = rows.latest([old, elsewhere, new])
    assert sorted(r.p50_ms for r in found.values()) == [8.0, 9.0]
    assert list(rows.of_machine([old, elsewhere], old.machine)) == [old]


def test_the_code_is_what_decides_our_speed(tmp_path: Path):
    for name in ("framework/a.py", "kernels/b.py", "conf/cell/c.yaml", "scripts/d.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    before = where.code(tmp_path)
    where.code.cache_clear()
    (tmp_path / "scripts/d.py").write_text("2")
    assert where.code(tmp_path) == before
    where.code.cache_clear()
    (tmp_path / "kernels/b.py").write_text("2")
    assert where.code(tmp_path) != before
    where.code.cache_clear()


def test_what_is_measured_is_named(monkeypatch: pytest.MonkeyPatch):
    """A commit that was given is the commit; without git there is none, and that is no error."""
    assert where.here("cpu", "abc")["commit"] == "abc" and not where.here("cpu", "abc")["dirty"]
    monkeypatch.setenv("PATH", "")
    info = where.here("cpu")
    assert info["commit"] == "" and info["code"] and info["torch"] == torch.__version__ and info["gpu"] == ""


def test_the_floor_is_the_longer_of_arithmetic_and_traffic():
    machine = limits.Limits({"float32": 1e9}, 1e8)
    assert machine.floor("float32", 2e9, 1e7) == 2.0
    assert machine.floor("float32", 1e7, 5e8) == 5.0
    found = limits.measure("cpu", {torch.float32, torch.float64}, seconds=0.0, scale=0.05)
    assert set(found.flops) == {"float32", "float64"} and min(*found.flops.values(), found.bandwidth) > 0
