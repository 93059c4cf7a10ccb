"""scripts/compare.py: the four conditions of one model, after they were seen to compute the same."""

import json

import pytest
import torch

from framework import load_graph
from framework.errors import ConfigError
from scripts import compare, compare_page

pytestmark = pytest.mark.usefixtures("one_thread")
GRAPH = {
    "inputs": {"x": {"size": 3}, "i": {"vocab": 5}},
    "nodes": {
        "l": {"cell": "gru", "size": 4, "in": ["x", "e"]},
        "e": {"size": 2, "is": "full(i)"},
        "y": {"size": 2, "is": "full(l)"},
        "z": {"size": 1, "is": "full(l[t-1])"},
    },
    "outputs": ["y", "z"],
}
ASKED = {"streams": 3, "steps": 5, "device": "cpu", "runner": "auto", "memory": "save"}


def test_all_conditions_are_measured_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["model=lstm", "size=4", "input={size: 3}", "classes=2", "layers=1"]
    compare.main([*arguments, "streams=3", "steps=4", "seconds=0", "out=here"])
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "here" / "compare.json").read_text())
    rows = record["rows"]
    assert [(r["parallel"], r["streams"]) for r in rows] == [
        ("none", 1), ("intra", 1), ("none", 3), ("intra", 3)
    ]  # fmt: skip
    for r in rows:
        assert r["updates"] >= 5 and 0 < r["low"] <= r["milliseconds"] <= r["high"]
        assert r["frame_us"] == pytest.approx(r["milliseconds"] * 1e3 / (4 * r["streams"]))
        assert r["peak_bytes"] > 0 and r["cores"] > 0 and r["gpu"] is None
    assert rows[0]["speedup"] == 1.0
    # The same streams need the more memory the more there are: three times what depends on frames.
    assert rows[2]["peak_bytes"] > rows[0]["peak_bytes"]
    page = (tmp_path / "here" / "compare.md").read_text()
    assert page in shown and page.count("| none |") == page.count("| intra |") == 2
    assert (tmp_path / "here" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_conditions_have_the_same_weights_and_several_inputs_and_outputs():
    torch.manual_seed(0)
    found = compare.conditions(load_graph(GRAPH), ASKED)
    compare.check_equal(found)
    with torch.no_grad():
        found[3].net.weights()["l/n:bias"].add_(0.01)
    with pytest.raises(ConfigError, match="differ by"):
        compare.check_equal(found)


def test_one_stream_alone():
    found = compare.conditions(load_graph(GRAPH), ASKED | {"streams": 1})
    assert [c.name for c in found] == ["none, 1 stream", "intra, 1 stream"]


def test_a_gpu_is_read_after_updates_that_do_not_count(monkeypatch):
    """By a clock of updates, of a tenth of a second each: the gauge tells what ran a second before."""
    clock, told = [0.0], []
    monkeypatch.setattr(compare.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def update():
        clock[0] += 0.1

    class Told:
        def read(self):
            told.append(clock[0])
            return 0.5 if clock[0] < 1.55 else 1.0

    mean, each = compare.driver(Told(), update, seconds=0.95, settle=0.95)
    assert min(told) > 0.95 and len(told) == 10
    assert mean == pytest.approx(0.75, abs=0.06) and each == pytest.approx(0.1)
    Told.read = lambda self: None
    assert compare.driver(Told(), update, seconds=0.0, settle=0.0)[0] is None


def test_a_page_with_the_use_of_a_gpu(tmp_path):
    row = compare.Row("none", 1, "persistent", 9, 2.0, 1.9, 2.1, 20.0, 1.0, 10**6, 1.0, 0.25)
    rows = [row, compare.dataclasses.replace(row, parallel="intra", gpu=0.5)]
    lines = compare_page.table(rows).splitlines()[2:]
    assert [line.split("|")[-2].strip() for line in lines] == ["25%", "50%"]
    compare_page.draw(rows, "title", tmp_path / "a.png")
    compare_page.draw([row, compare.dataclasses.replace(rows[1], gpu=None)], "title", tmp_path / "b.png")
    a, b = (tmp_path / "a.png").read_bytes(), (tmp_path / "b.png").read_bytes()
    assert "Runners differ" not in compare_page.text(rows, {"model": "m"})
    rows[0] = compare.dataclasses.replace(row, runners="torch")
    assert "Runners differ" in compare_page.text(rows, {"model": "m"})
    assert a.startswith(b"\x89PNG") and a != b, "a GPU's use where all tell it, else that of the cores"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("streams=0", "streams: '0' is no number of streams"),
        ("steps=many", "steps: 'many' is no number"),
        ("seconds=long", "seconds: 'long' is no number"),
        ("device=tpu", "train.device: there is no kind of device 'tpu'"),
        ("wide=3", "wide: model=lstm has no such param"),
    ],
)
def test_mistakes_are_named(argument, message):
    with pytest.raises(ConfigError) as error:
        compare.main(["model=lstm", argument])
    assert message in str(error.value)
