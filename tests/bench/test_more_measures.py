"""What is no plain call: planning, the largest chunk that fits, updates, products, processes."""

from __future__ import annotations

import pytest

from scripts.bench import fit, where
from scripts.bench.bench import Bench
from scripts.bench.cases import BOTH, FORWARD, Case
from scripts.bench.contest import contest
from scripts.bench.measure import Device
from scripts.bench.planning import planning
from scripts.bench.products import product
from scripts.bench.start import PARTS, start
from scripts.bench.train_step import train_step, utterances
from scripts.bench.workers import workers

BENCH = Bench(Device("cpu", cold=False), 0.0, where.here("cpu", "abc"), tiny=True)


def test_the_largest_that_fits():
    asked: list[int] = []

    def needs(steps: int) -> int:
        asked.append(steps)
        return 10 * steps + 7

    for budget in (1000, 777, 5007):
        right = (budget - 7) // 10
        found = fit.largest(needs, budget, 4, 10_000)
        assert right * (1 - fit.NEAR) - 1 <= found <= right
    assert fit.largest(needs, 46, 4, 100) == 0
    assert fit.largest(needs, 10**9, 4, 100) == 100 and max(asked) <= 10_000


def test_rows_of_what_fits():
    options, systems = (("megabytes", 1), ("most", 500)), ("intrastream torch", "torch layer")
    who = {"passes": (BOTH,), "systems": systems, "what": "fit", "options": options}
    case = Case(table="e", cell="gru_cudnn", T=4, B=64, H=8, **who)
    made = contest(case, "cpu", "v")
    for row, system in zip(fit.fit(case, BENCH), made.systems, strict=True):
        steps = int(row.figures["largest T"] or 0)
        assert row.system == system.name and row.peak_bytes and 4 < steps < 500
        needs = [fit.need(system, case, t, BENCH.device) for t in (steps, steps + steps // 16 + 2)]
        assert needs[0] <= 1 << 20 < needs[1]


def test_rows_of_planning():
    options = (("shape", "ring"), ("nodes", 20))
    case = Case(
        table="f",
        cell="graph",
        T=1,
        B=1,
        F=4,
        H=4,
        passes=("plan",),
        systems=("intrastream",),
        options=options,
    )
    (row,) = planning(case, BENCH)
    assert row.pass_ == "plan" and row.figures["nodes"] == 20 and row.p50_ms > 0 and row.limit is None


def test_rows_of_updates():
    systems = ("intrastream", "torch layer", "sru")
    case = Case(table="h", cell="lstm", T=6, B=2, F=5, H=4, layers=2, passes=("train step",), systems=systems)
    found = train_step(case, BENCH)
    assert [r.system for r in found] == ["intrastream", "nn.LSTM"] and list(found[0].declined) == ["sru"]
    for r in found:
        shares = [v for k, v in r.figures.items() if k.startswith("share ") and k != "share outside"]
        assert abs(sum(float(v or 0) for v in shares) - 1) < 0.01 and r.figures["frames_per_s"]
        assert (
            r.turns >= 5
            and abs(float(r.figures["share outside"] or 0) + float(r.figures["share network"] or 0) - 1)
            < 1e-3
        )


def test_utterances_have_the_shape_of_timit():
    data = utterances(123, 4, 8)
    batch = next(data.batches("train", 0))
    assert batch.x.shape[1:] == (4, 123) and 100 <= int(batch.lengths.max()) == batch.x.shape[0] < 600
    assert int(batch.y.max()) <= 60 and batch.y.shape == batch.x.shape[:2]


@pytest.mark.parametrize("way", ["forward", "dx", "dw"])
def test_rows_of_a_product(way: str):
    who = {"passes": (FORWARD,), "systems": ("intrastream triton", "torch"), "what": "product"}
    case = Case(
        table="m", cell="product", T=17, B=1, F=16, H=20, dtype="float16", options=(("way", way),), **who
    )
    ours, theirs = product(case, BENCH)
    assert (
        ours.system == "intrastream triton" and ours.ratios["torch"] > 0 and theirs.flops == 2 * 17 * 16 * 20
    )


@pytest.mark.slow
def test_rows_of_a_process():
    options = (("caches", "warm"),)
    systems = ("intrastream", "torch layer", "sru")
    case = Case(
        table="g",
        cell="lstm",
        T=3,
        B=1,
        H=4,
        passes=("start",),
        systems=systems,
        what="start",
        options=options,
    )
    found = start(case, BENCH)
    assert [r.system for r in found] == ["intrastream", "nn.LSTM"] and list(found[0].declined) == ["sru"]
    for r in found:
        parts = [float(r.figures[f"{part} s"] or 0) for part in PARTS]
        assert parts[0] > 0.1 and sum(parts[:-1]) <= r.p50_ms / 1e3


@pytest.mark.slow
def test_rows_of_several_processes():
    systems, options = ("intrastream 1", "intrastream 2"), (("lanes", "shared"),)
    case = Case(table="i", cell="lstm", T=5, B=2, F=6, H=8, layers=2, passes=("train step",), what="workers",
                systems=systems, options=options)  # fmt: skip
    rows = workers(case, BENCH)
    assert [row.entry for row in rows] == list(systems)
    assert [row.figures["processes"] for row in rows] == [1, 2] and rows[0].figures["efficiency"] == 1.0
    assert all(row.p50_ms > 0 and row.figures["frames_per_s"] for row in rows)
