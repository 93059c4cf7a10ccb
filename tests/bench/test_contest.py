"""Cases in full at tiny sizes: all systems agree, what disagrees is refused, rows say what was measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from framework import Network
from scripts.bench import agree, cases, contest, loops, peers, system, where
from scripts.bench.bench import Bench
from scripts.bench.cases import Case
from scripts.bench.limits import Limits
from scripts.bench.measure import Device
from scripts.bench.more_cells import STEPS
from scripts.bench.system import Declined

BENCH = Bench(Device("cpu", cold=False), 0.0, where.here("cpu", "abc"), Limits({"float32": 1e11}, 1e10))
EPS = 2**-7


def tiny(cell: str, *systems: str, **more: Any) -> Case:
    return Case(table="a", cell=cell, T=4, B=2, H=6, systems=systems, **more)


VARIANTS = [tiny(cell, F=5) for cell in STEPS] + [
    tiny("lstm", layers=2),
    tiny("gru_cudnn", bidirectional=True, layers=2),
    tiny("lstm_projection", layers=2),
    tiny("rhn", bidirectional=True),
    tiny("lstm", input_product=False),
    tiny("gru_cudnn", input_product=False),
    tiny("lstm_peephole", input_product=False),
]


@pytest.mark.parametrize("case", VARIANTS, ids=lambda c: c.name)
def test_steps_and_layers_of_torch_compute_our_cells(case: Case):
    """Outputs, gradients of inputs and of every weight, against float64."""
    made = contest.contest(
        Case(**{**case.__dict__, "systems": ("intrastream torch", "eager loop", "torch layer", "cell loop")}),
        "cpu",
        "v",
    )
    assert {"intrastream torch", "eager loop"} <= {s.name for s in made.systems}, made.declined
    g = torch.Generator().manual_seed(3)
    x = torch.randn(case.T, case.B, case.F, generator=g)
    width = made.systems[0].run(x).shape[-1]
    dy = torch.randn(case.T, case.B, width, generator=g)
    found = agree.errors(made.systems, agree.truth(made.graph, made.weights, "cpu"), x, dy)
    worst = max(error for results in found.values() for error in results.values())
    assert worst < 1e-4 if case.cell == "lstm_norm" else worst < 5e-6, found


def test_rows_of_a_case():
    case = tiny("lstm", "intrastream", "intrastream torch", "torch layer", "eager loop", "sru")
    rows = contest.run(case, BENCH)
    names = ["intrastream", "intrastream torch", "nn.LSTM", "eager loop"]
    assert [(r.system, r.pass_) for r in rows] == [(n, p) for p in (cases.FORWARD, cases.BOTH) for n in names]
    flops = 2 * 4 * 2 * (24 * 6 + 24 * 6)
    for r in rows:
        assert r.p20_ms <= r.p50_ms <= r.p80_ms and r.turns >= 5 and r.peak_bytes and r.input_product
        assert r.flops == (flops if r.pass_ == "forward" else 3 * flops) and r.floor_ms and r.limit
        assert set(r.ratios) == {*names} - {r.system} and set(r.errors) == {"y", "dx", "dw"}
        assert list(r.declined) == ["sru"]
        assert (r.predicted_ms is not None) == r.system.startswith("intrastream")
    versions = {r.system: r.version for r in rows}
    assert versions["intrastream"] == BENCH.version and versions["nn.LSTM"] == torch.__version__
    assert next(r for r in rows if r.system == "intrastream torch").figures["runner"] == "torch"
    one, other = (next(r for r in rows if r.system == n) for n in ("intrastream torch", "eager loop"))
    assert one.ratios["eager loop"] > 0 and other.ratios["intrastream torch"] > 0


@pytest.mark.parametrize("spoilt", ["intrastream torch", "eager loop"])
def test_a_wrong_system_is_not_timed(monkeypatch: pytest.MonkeyPatch, spoilt: str):
    stock, timed = system.System.load, []

    def load(self: system.System, weights: dict[str, torch.Tensor]) -> None:
        stock(self, weights)
        if self.entry == spoilt:
            with torch.no_grad():
                for p in self.module.parameters():
                    p.mul_(1.01)

    monkeypatch.setattr(system.System, "load", load)
    monkeypatch.setattr(contest, "take_turns", lambda *a: timed.append(a))
    with pytest.raises(agree.Disagreement, match=f"{spoilt}: error of y"):
        contest.run(tiny("lstm_peephole", "intrastream torch", "eager loop"), BENCH)
    assert not timed


def test_float64_itself_is_checked_by_the_oracle(monkeypatch: pytest.MonkeyPatch):
    stock = agree.oracle.run
    graph = cases.graph(tiny("mgu"))
    weights = Network(graph, runner="torch").state_dict()
    assert agree.truth(graph, weights, "cpu").like.dtype == torch.float64

    def wrong(*given: Any) -> Any:
        outputs, state = stock(*given)
        return {name: y * (1 + 1e-7) for name, y in outputs.items()}, state

    monkeypatch.setattr(agree.oracle, "run", wrong)
    with pytest.raises(
        agree.Disagreement, match=r"the output in float64 differs from the oracle's by 1\.0e-07"
    ):
        agree.truth(graph, weights, "cpu")


def test_refusals():
    nan = float("nan")
    errors = {"nn.LSTM": {"y": 0.01}, "eager": {"y": 0.02}, "persistent": {"y": 0.059}}
    rulers = {"nn.LSTM", "eager"}
    assert agree.refusals(errors, rulers, EPS, 100) == []
    for wrong in (0.061, nan):
        (why,) = agree.refusals({**errors, "persistent": {"y": wrong}}, rulers, EPS, 100)
        assert why.startswith("persistent: error of y")
    assert agree.refusals({**errors, "eager": {"y": 0.3}, "persistent": {"y": 0.0}}, rulers, EPS, 100)
    fine = 2**-23
    assert agree.refusals({"eager": {"y": 130 * fine}}, {"eager"}, fine, 2)  # 64 roundings a step
    assert agree.refusals({"eager": {"y": 120 * fine}}, {"eager"}, fine, 2) == []
    assert agree.refusals({"ours": {"y": 4 * EPS}}, set(), EPS, 1) == []


def test_a_peer_that_raises_is_named_and_ours_raises(monkeypatch: pytest.MonkeyPatch):
    def broken(name: str, *rest: Any) -> Any:
        raise ZeroDivisionError("their mistake")

    monkeypatch.setattr(peers, "build", broken)
    made = contest.contest(tiny("lstm", "intrastream", "torch layer"), "cpu", "v")
    assert made.declined == {"torch layer": "raised ZeroDivisionError: their mistake"}
    monkeypatch.setattr(contest, "network", broken)
    with pytest.raises(ZeroDivisionError):
        contest.contest(tiny("lstm", "intrastream"), "cpu", "v")


def test_who_declines_says_why(monkeypatch: pytest.MonkeyPatch):
    graph = cases.graph(tiny("lstm_peephole"))
    for name, why in (
        ("intrastream torch-fused", "."),
        ("intrastream nosuch", "no runner 'nosuch'"),
    ):
        with pytest.raises(Declined, match=why):
            system.network(name, graph, "cpu", torch.float32, "v")
    monkeypatch.setattr(peers, "package", lambda name: "")
    with pytest.raises(Declined, match="package sru is not installed"):
        peers.build("sru", tiny("sru"), "cpu")


def test_weights_without_a_place_are_an_error():
    made = peers.build("torch layer", tiny("lstm"), "cpu")
    weights = Network(cases.graph(tiny("lstm")), runner="torch").state_dict()
    with pytest.raises(ValueError, match="no place for l9/i:bias"):
        made.load({**weights, "l9/i:bias": weights["l1/i:bias"]})


def test_an_input_that_is_the_product_already():
    case = tiny("gru_cudnn", input_product=False)
    graph = cases.graph(case)
    assert case.F == 18 and not any("full(x)" in name for name in graph.weights)


# torch's compiler warns about torch's own ways, which would count as a peer that raised.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("way", ["compiled loop", "TorchScript loop", "torch scan"])
def test_other_loops_compute_the_same(way: str):
    case = tiny("lstm_peephole", "intrastream torch", "eager loop", way)
    rows = contest.run(case, BENCH)
    assert {r.system for r in rows} == set(case.systems), rows[0].declined
    assert set(loops.WAYS) == {"eager loop", "compiled loop", "TorchScript loop", "torch scan"}
