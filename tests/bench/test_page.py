"""The page from rows that are made up: whole, with what is missing, and without any row."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.bench import page, page_growth, page_tables, plot, rows
from scripts.bench.cases import Case
from tests.bench.fake_rows import everything, row, side_by_side


def test_page_of_made_up_rows(golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch):
    wanted = [Case(table="a", cell="lstm", T=128, B=8, H=128), Case(table="c", cell="mgu", T=9, B=8, H=7)]
    monkeypatch.setattr(page, "SETS", {"cpu": lambda: wanted})
    monkeypatch.setattr(page, "of_row", lambda r: r.predicted_ms)  # whatever the constants are
    golden("performance.md", page.page(everything()))


def test_ratios_are_how_many_times_faster_ours_is():
    text = page.page(side_by_side({"intrastream": 10.0, "nn.LSTM": 5.0, "eager loop": 40.0}))
    line = next(x for x in text.splitlines() if x.startswith("| lstm T=128"))
    assert "0.50x" in line and "4.00x" in line and "80 %" in line
    assert "| LSTM and GRU | eager loop | 1 | 4.00x | 4.00x | 4.00x |" in text


def test_what_is_missing_is_said():
    text = page.page([row(declined={"sru": "package sru is not installed"})])
    assert "| sru | package sru is not installed | 1 |" in text
    assert "- Custom cells: " in text and "nothing here has been measured on a GPU" in text
    gpu = page.page([row(gpu="NVIDIA H200", table="a")])
    assert "## NVIDIA H200" in gpu and "nothing here has been measured on a GPU" not in gpu


def test_a_page_without_rows():
    text = page.page([])
    assert text.count("No row") == 2 and "## CPU" in text and "## GPU" in text


def test_only_the_last_row_of_a_place_is_shown():
    text = page.page([*side_by_side({"intrastream": 77.7}), *side_by_side({"intrastream": 11.1})])
    assert "11.1" in text and "77.7" not in text


def test_slopes():
    assert page_growth.slope((10, 3.0), (100, 300.0)) == 2.0
    found = [row(ms=ms, table="f", case=f"{t}", T=t) for t, ms in ((64, 1.0), (128, 2.0), (256, 4.0))]
    ((axis, system, line),) = page_growth.series(found)
    assert (axis, system, [r.T for r in line]) == ("T", "intrastream", [64, 128, 256])


def test_numbers_have_three_digits():
    assert [page_tables.number(x) for x in (0.01234, 1.234, 12.34, 1234.5, 0.0)] == [
        "0.0123", "1.23", "12.3", "1234", "0"
    ]  # fmt: skip


def test_pictures_are_drawn_where_there_are_rows(tmp_path: Path):
    found = everything()
    drawn = plot.draw(found, tmp_path, found[0].machine)
    assert len(drawn) == 3 and all(path.read_bytes().startswith(b"\x89PNG") for _, path in drawn)
    assert plot.draw([], tmp_path / "none", found[0].machine) == []


def test_axes_have_marks_where_something_was_measured():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    (line, *_) = page_growth.series([r for r in everything() if r.table == "f" and r.pass_ != "plan"])
    figure = plot.growth(pyplot, everything())
    figure.canvas.draw()
    first = figure.axes[0]
    marks = [label.get_text() for label in first.get_xticklabels(which="both")]
    assert marks == [str(getattr(row, line[0])) for row in line[2]]
    assert all(re.fullmatch(r"[\d.]*", label.get_text()) for label in first.get_yticklabels(which="both"))
    pyplot.close(figure)


def test_the_command(tmp_path: Path, capsys):
    path, out = tmp_path / "rows.jsonl", tmp_path / "docs" / "performance.md"
    rows.append(path, everything())
    page.main(["--rows", str(path), "--out", str(out)])
    text = out.read_text()
    names = [line.split("(")[-1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(names) == 3 and all((out.parent / name).is_file() for name in names)
    assert f"{len(everything())} rows, written" in capsys.readouterr().out


def test_lines_for_the_table_by_which_auto_chooses():
    from scripts.bench.fused import lines

    found = []
    for pass_, ratio in (("forward", 1.5), ("forward+backward", 2.5)):
        more = {"pass_": pass_, "ratios": {"intrastream torch": ratio, "intrastream persistent": 0.5}}
        found += [row("intrastream torch-fused", **more), row("intrastream", **more)]
        found.append(row("intrastream torch-fused", case="deep", layers=2, **more))
        found.append(row("intrastream torch-fused", gpu="a GPU", **more))
    assert lines(found) == ['    Row("cpu", "fp32", "lstm", 128, 8, 2.50, 1.50),  # T = 128']
    assert lines(found, "sm_90") == ['    Row("sm_90", "fp32", "lstm", 128, 8, 0.50, 0.50),  # T = 128']
    assert lines(found[:1]) == []  # one way alone is not enough
