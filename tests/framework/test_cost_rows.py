"""Predictions beside measured rows: every row has one, they are near, and the page shows them."""

from __future__ import annotations

import pytest

from scripts.bench import expected, rows
from scripts.bench.predicted import BOTH, Check, check, error, kept_rows, layer, milliseconds, of_row, table
from tests.bench.fake_rows import row


def test_every_kept_row_is_predicted():
    rows = kept_rows()
    checks = list(check(rows))
    assert len(checks) >= len(rows)
    assert all(c.measured > 0 and c.predicted > 0 for c in checks)
    assert {c.system for c in checks} == {"torch", "torch-fused", "eager"}


def test_predictions_are_near_where_only_our_own_time_counts():
    """Processor times of one thread, to which nothing was fitted: half of all rows within 20 %, nine of ten
    within a factor of 2.
    """
    checks = [c for c in check(kept_rows()) if c.clock == "processor"]
    assert len(checks) > 50
    assert error(checks) < 0.2
    assert sum(0.5 < c.ratio < 2.0 for c in checks) >= 0.9 * len(checks)


def test_predictions_tell_fast_from_slow():
    """Of two runners of one case, the one predicted to be faster by over half was measured faster."""
    found: dict[tuple[str, int, int, str], dict[str, Check]] = {}
    for c in check(kept_rows()):
        if c.clock == "processor":
            found.setdefault((c.cell, c.lanes, c.units, c.passes), {})[c.system] = c
    pairs = [(by["torch"], by["torch-fused"]) for by in found.values() if len(by) == 2]
    sure = [(a, b) for a, b in pairs if not 2 / 3 < a.predicted / b.predicted < 3 / 2]
    assert len(sure) >= 5
    right = sum((a.predicted < b.predicted) == (a.measured < b.measured) for a, b in sure)
    assert right >= 0.9 * len(sure)


def test_table():
    checks = [
        Check("wall", "torch", BOTH, "lstm", 8, 128, 2, 10.0, 12.0),
        Check("wall", "torch", BOTH, "lstm", 1, 128, 2, 10.0, 5.0),
    ]
    lines = table(checks)
    assert lines[2] == "| torch, forward+backward, 2 threads, wall | 2 | 35% | 0.85 |"
    assert lines[3] == "| all | 2 | 35% | 0.85 |"
    assert lines[-1] == "| wall | torch | forward+backward | lstm | 1 | 128 | 10.00 | 5.00 | 0.50 |"


def test_the_layer_of_a_row():
    assert layer("rhn", 32, "torch").components[0].phases == 3
    assert layer("gru", 32, "torch-fused").choices[0].runner == "torch-fused"
    fast, slow = (milliseconds("torch", "lstm", n, 16, 4, BOTH, 1) for n in (64, 1024))
    assert fast < slow


def test_rows_are_predicted_again_where_the_model_knows_them():
    """By the model of now, whatever it said then; constants of CPUs are those of float32."""
    known = {"figures": {"runner": "torch"}, "predicted_ms": 1e6}
    options = {"cell": "lstm", "bidirectional": False}
    mine = row(**known, options=options, threads=1)
    assert of_row(mine) == pytest.approx(milliseconds("torch", "lstm", 128, 128, 8, BOTH, 1))
    assert of_row(row(**known, options=options, dtype="float64")) is None
    assert of_row(row(**known, gpu="NVIDIA H200")) == of_row(row(predicted_ms=1e6)) == 1e6
    assert of_row(row(predicted_ms=None)) is None


@pytest.mark.slow
def test_predictions_are_near_what_was_measured():
    """All rows of the bench on CPUs: half of them within 20 %."""
    found = [(r, of_row(r)) for r in rows.latest(rows.read(rows.KEPT)).values() if not r.gpu]
    ratios = [guess / r.p50_ms for r, guess in found if guess]
    assert len(ratios) > 200
    assert sorted(abs(x - 1) for x in ratios)[len(ratios) // 2] < 0.2


@pytest.mark.slow
def test_the_page_is_written_from_the_model():
    """docs/expected.md is what the model says now."""
    assert (expected.ROOT / "docs" / "expected.md").read_text(encoding="utf-8") == expected.page()
