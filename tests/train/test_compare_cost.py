"""scripts/compare.py --cost: what a model costs, of systems that were seen to compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from framework import load_graph
from framework.errors import ConfigError
from scripts import compare
from scripts import compare_cost as cost
from scripts.bench.measure import Device
from tests.framework.test_step import CLOCKWORK, MEMORY

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED: dict[str, Any] = {"streams": 3, "steps": 5, "device": "cpu", "runner": "auto", "memory": "save"}
SMALL = ["size=4", "input={size: 3}", "classes=2", "layers=1", "streams=3", "steps=4", "seconds=0"]


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    compare.main(["model=lstm", *SMALL, "--cost", "2.5", "frames=1000", "room=0.0002", f"out={tmp_path}"])
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "cost.json").read_text())
    names = ["eager loop", "eager loop, hoisted", "torch's own layer", "Intrastream"]
    assert [s["name"] for s in record["systems"]] == names
    for s in record["systems"]:
        row = s["row"]
        assert s["hours"] == pytest.approx(row["milliseconds"] / 12 * 1000 / 3.6e6)
        assert s["money"] == pytest.approx(2.5 * s["hours"]) and s["joules"] is None
        assert row["updates"] >= 5 and row["peak_bytes"] > 0 and s["lanes"] >= 1 and not s["least"]
    markdown, page = (tmp_path / "cost.md").read_text(), (tmp_path / "cost.html").read_text()
    assert markdown in shown and "reports no power" in markdown
    for name in names:
        assert f"| {name} |" in markdown and name.replace("'", "&#x27;") in page
    assert page.count("<tr>") == 5 and "data:image/png;base64,iVBORw0KGgo" in page and "http" not in page
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("source", "why"),
    [(MEMORY, "loop c: "), (CLOCKWORK, "loop l1: "), ("blstm", "")],
    ids=["memory", "clockwork", "blstm"],
)
def test_models_of_all_kinds(source: Any, why: str):
    """Look-ahead, indices, delays; torch's own layer where it can."""
    made = load_graph(source, size=4) if source == "blstm" else load_graph(source)
    found, reason = cost.systems(made, ASKED)
    assert reason.startswith(why) and bool(reason) == bool(why)
    assert [s.name for s in found].count("torch's own layer") == (not why)
    cost.check_equal(found)


def test_differences_are_seen_in_outputs_and_gradients():
    found, _ = cost.systems(load_graph("gru", size=4, input={"size": 3}, classes=2), ASKED)
    with torch.no_grad():
        found[-1].net.weights()["logits:bias"].add_(0.01)
    with pytest.raises(ConfigError, match=r"eager loop and Intrastream differ by .* in output"):
        cost.check_equal(found)
    found, _ = cost.systems(load_graph("gru", size=4, input={"size": 3}, classes=2), ASKED)
    parameter = next(iter(found[-1].net.parameters()))
    parameter.register_hook(lambda g: g * 1.5)
    with pytest.raises(ConfigError, match=r"differ by .* in \w+.*:"):
        cost.check_equal(found)


def test_the_largest_batch_fits_and_the_next_one_does_not():
    found, _ = cost.systems(load_graph("gru", size=4, input={"size": 3}, classes=2), ASKED)
    device, system = Device("cpu"), found[1]

    def peak(lanes: int) -> int:
        trial = system.with_lanes(lanes)
        trial.ready()()
        return device.peak(trial.ready())

    room = peak(20)
    lanes, least = cost.largest(system, device, room, seconds=1e6)
    assert not least and 17 <= lanes <= 20
    assert peak(lanes) <= room < peak(lanes + max(1, lanes // 8) + 1)
    assert cost.largest(system, device, room, seconds=-1) == (1, True), "no time: what was seen to fit"
    assert cost.largest(system, device, 1.0, seconds=1e6) == (0, False), "not even one lane"


class Powered:
    """A device that says what it takes."""

    kind = "cuda"


def test_energy_is_power_over_the_time_of_an_update(monkeypatch: pytest.MonkeyPatch):
    found, _ = cost.systems(load_graph("gru", size=4, input={"size": 3}, classes=2), ASKED)
    updates: list[int] = []
    monkeypatch.setattr(found[0], "update", lambda: updates.append(1))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 50_000)  # mW
    energy = cost.joules(found[0], Powered(), seconds=0.02, settle=0.0)  # type: ignore[arg-type]
    assert energy is not None and 50 * 0.02 / len(updates) <= energy < 50 * 200 / len(updates)

    def silent(device: object) -> int:
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "power_draw", silent)
    assert cost.joules(found[0], Powered(), seconds=0.0, settle=0.0) is None  # type: ignore[arg-type]
    assert cost.joules(found[0], Device("cpu")) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cost"], "the price of an hour is missing"),
        (["--price", "2"], "--price: there is no such option"),
        (["--cost", "much"], "cost: 'much' is no number"),
        (["--cost=-1"], "cost: '-1' makes no sense"),
        (["--cost=nan"], "cost: 'nan' makes no sense"),
        (["--cost=2", "frames=0"], "frames: '0' is no number"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str):
    with pytest.raises(ConfigError) as error:
        compare.main(["model=lstm", *arguments])
    assert message in str(error.value)
