"""docs/kernels.md is what scripts/kernel_report.py writes."""

from __future__ import annotations

import dataclasses

import pytest

from scripts import kernel_report as script
from tests.kernels.compiled import Kernel
from tests.kernels.fake_driver import CHIPS
from tests.kernels.inspect_code import Loop


@pytest.fixture(scope="module")
def written() -> script.Report:
    return script.parse(script.PAGE.read_text(encoding="utf-8"))


def test_the_page_has_the_cases_and_the_format_of_the_script(written: script.Report):
    again = "Run: python -m scripts.kernel_report"
    assert list(written.rows) == [case.title for case in script.CASES], again
    for title, rows in written.rows.items():
        assert list(dict.fromkeys(r.chip for r in rows)) == list(CHIPS), f"{title}: {again}"
    assert script.page(written) == script.PAGE.read_text(encoding="utf-8"), again


def test_titles_differ():
    titles = [case.title for case in script.CASES]
    assert len(set(titles)) == len(titles)


def test_nothing_spills_and_all_fits(written: script.Report):
    assert script.defects(written) == []
    for title, rows in written.rows.items():
        for r in rows:
            chip = CHIPS[r.chip]
            where = f"{title}: {r.kernel} on {r.chip}"
            if r.kernel in (script.NO_FIT, script.NOT_TAKEN):
                # float32 takes four times as much of a chip as bfloat16: it is in two parts.
                taken = ("sm_90",) if "float32" in title else ("sm_80", "sm_90")
                assert "persistent" in title and r.chip not in taken, where
                continue
            assert int(r.registers) <= chip.registers and int(r.shared) <= chip.shared, where
            assert int(r.spilled) == 0 or (title, r.chip) in script.DEFECTS, where


def test_products_use_tensor_cores(written: script.Report):
    """All but float32 as it is on NVIDIA's chips, which have none for it."""
    for title, rows in written.rows.items():
        for r in rows:
            if r.kernel == "matmul":
                has = r.tensor_core != script.NOT_THERE
                assert has == ("ieee" not in title or r.chip == "gfx942"), f"{title} on {r.chip}"


def test_loops_through_time_load_and_store(written: script.Report):
    """The loop that was counted is the one over steps, not another that the compiler made."""
    timed = {case.title for case in script.CASES if case.loop == "time"}
    assert timed
    for title in timed:
        for r in written.rows[title]:
            if r.kernel in (script.NO_FIT, script.NOT_TAKEN):
                continue
            assert int(r.loads) > 0 and int(r.stores) > 0, f"{title}: {r.kernel} on {r.chip}"


def test_a_row_counts_the_loop_over_steps():
    kernel = Kernel(
        name="k", grid=(3, 1, 1), warps=4, cooperative=False, shared=16, registers=40, stack=8,
        loops=[Loop(0, 99, {"IADD3": 100}), Loop(2, 9, {"LDG.E": 2, "STG.E": 1, "HMMA.16816": 4, "LDL": 1})],
        loads={}, events=[], offsets=[],
    )  # fmt: skip
    case = dataclasses.replace(script.CASES[0], loop="time")
    got = script.row(case, "sm_90", kernel)
    assert got == script.Row("sm_90", "k", "3", "4", "40", "8", "16", "8", "4 HMMA", "2", "1", "0", "1")
    bare = script.row(case, "sm_90", dataclasses.replace(kernel, loops=[]))
    assert bare.instructions == bare.local == script.NOT_THERE
    report = script.Report("3.9.0", "2026-01-01", {"case": [got]})
    assert script.defects(report) == ["case: k on sm_90 spills 8 B, 1 instructions of its loop"]


def test_what_does_not_fit_is_said_and_what_does_not_compile_raised(monkeypatch: pytest.MonkeyPatch):
    def compiler(call: str, chip: str, **options: object) -> list[Kernel]:
        why = "shared memory, Required: 99999, Hardware limit: 65536" if chip == "gfx942" else "registers"
        raise AssertionError(f"OutOfResources: out of resource: {why}.")

    with pytest.raises(AssertionError, match="registers"):
        next(script.measure(compiler, script.CASES[0]))  # type: ignore[arg-type]
    monkeypatch.setattr(script, "CHIPS", {"gfx942": CHIPS["gfx942"]})
    (row,) = script.measure(compiler, script.CASES[0])  # type: ignore[arg-type]
    assert (row.kernel, row.shared, row.local) == (script.NO_FIT, "99999", script.NOT_THERE)
    (why,) = script.defects(script.Report("3.9.0", "2026-01-01", {"case": [row]}))
    assert why == "case: plans take it on gfx942, where it does not fit"


def test_a_defect_that_is_mended_must_leave_the_list(monkeypatch: pytest.MonkeyPatch):
    row = script.Row("sm_90", "k", "1", "4", "40", "0", "16", *["1"] * 5, "0")
    report = script.Report("3.9.0", "2026-01-01", {"case": [row]})
    assert script.defects(report) == []
    monkeypatch.setattr(script, "DEFECTS", {("case", "sm_90")})
    assert script.defects(report) == ["case on sm_90 is well now: take it out of DEFECTS"]


def test_plans_decide_what_is_compiled_for_a_chip():
    by_title = {case.title: case for case in script.CASES}
    large = by_title["persistent, lstm, bfloat16, B 16, H 1024, many programs"]
    assert [chip for chip in CHIPS if script.refused(large, chip)] == ["sm_86", "sm_120"]
    assert not any(script.refused(script.CASES[0], chip) for chip in CHIPS)


@pytest.mark.parametrize(
    "text", ["# Kernels", "read with Triton 3.9.0 on 2026-01-01:\n\n## L\n\n## x\n\n| chip |\n"]
)
def test_what_is_no_page_is_refused(text: str):
    with pytest.raises(ValueError, match="without --only"):
        script.parse(text)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_page_is_what_the_compiler_makes_today(written: script.Report, compiled):
    import triton

    if triton.__version__ != written.triton:
        pytest.skip(f"the page is of Triton {written.triton}")
    for case in script.CASES:
        assert list(script.measure(compiled, case)) == written.rows[case.title], case.title
