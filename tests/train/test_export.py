"""Exported networks: torch.export and ONNX give what the network gives, for every T and B, on their own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from framework import Network, load_graph
from framework.errors import ConfigError
from framework.export import (
    FORMS,
    about,
    apart,
    example,
    export,
    need,
    onnx_names,
    run_onnx,
    run_torch,
    save_onnx,
    truth,
)  # fmt: skip
from framework.ops import POINTWISE
from tests.compare import copy_weights
from tests.graphs import random_graph
from tests.oracle import random_weights

ROOT = Path(__file__).resolve().parents[2]
CELLS = sorted(path.stem for path in (ROOT / "conf" / "cell").glob("*.yaml"))
# float64: some hundred terms in another order. onnxruntime's layer norm keeps a part in float32, and torch's
# ONNX exporter rounds numbers of formulas (scrn's alpha) to it.
TOLERANCE, NORM = 1e-13, 1e-7
ROUNDED = ("lstm_norm", "scrn")
SIZES = ((6, 3), (1, 1))
# Delays of inputs and nodes, both directions, a table, start values, a loop that reads nothing, a mask.
ALL = {
    "inputs": {"x": {"size": 2}, "k": {"vocab": 5}},
    "nodes": {
        "c": {"size": 1, "is": "c[t-1] + 1", "init": -1},
        "e": {"size": 3, "is": "full(k) + full(k[t-2]) + relu(full(x[t+2]))"},
        "h": {"size": 3, "is": "tanh(full(h[t-3]) + diag(h[t-1]) + e + full(x[t-1]))", "init": "learned"},
        "b": {"size": 2, "is": "sigmoid(full(b[t+2]) + full(h)) * block(x, 2)", "init": 0.5},
        "y": {"size": 5, "is": "concat(dropout(h, 0.5), b[t+1][0:1], c[t-2])"},
    },
    "outputs": ["y", "h"],
}
FORWARD = {
    **ALL,
    "nodes": {n: node for n, node in ALL["nodes"].items() if n in ("c", "h")}
    | {"e": {"size": 3, "is": "full(k) + full(k[t-2])"}, "y": {"size": 4, "is": "concat(h, c[t-2])"}},
}


def made(source: Any, dtype: torch.dtype = torch.float64) -> Network:
    net = Network(load_graph(source)).to(dtype).eval()
    copy_weights(net, random_weights(net.graph, 1))
    return net


def one(cell: str) -> dict[str, Any]:
    mask = {"mask": "k"} if cell == "clockwork" else {}
    inputs = {"x": {"size": 3}, **({"k": {"size": 1}} if mask else {})}
    nodes = {
        "l1": {"cell": cell, "size": 4, "in": {"x": "x", **mask}},
        "y": {"size": 2, "is": "full(l1) + bias"},
    }
    return {"inputs": inputs, "nodes": nodes, "outputs": ["y"]}


def check(net: Network, form: str, onnx: Path | None, what: object, tolerance: float = TOLERANCE) -> None:
    """Both kinds, at sizes that the export has not seen."""
    program = export(net, form)
    if onnx is not None:
        save_onnx(net, form, onnx, program)
    for steps, lanes in SIZES:
        x, state = example(net, form, steps, lanes)
        want = truth(net, form, x, state)
        assert len(want) == len(net.graph.outputs) + len(net.plan.history), what
        assert apart(run_torch(program, x, state), want) <= TOLERANCE, (what, steps, lanes)
        if onnx is not None:
            assert apart(run_onnx(onnx, x, state), want) <= tolerance, (what, steps, lanes)


@pytest.mark.parametrize(
    ("form", "source"),
    [("sequence", ALL), pytest.param("step", FORWARD, marks=pytest.mark.slow)],
    ids=FORMS[::-1],
)
def test_every_kind_of_op(form: str, source: dict[str, Any], tmp_path: Path):
    check(made(source), form, tmp_path / "x.onnx", source)


def test_every_function_of_the_language(tmp_path: Path):
    """In float32: onnxruntime has no softplus, gelu or erf for float64."""
    arguments = {1: "a", 2: "a, b"}
    nodes: dict[str, Any] = {
        "a": {"size": 4, "is": "sigmoid(full(x)) + 0.1"},
        "b": {"size": 4, "is": "softmax(x) + norm(a)"},
        **{f"f_{n}": {"size": 4, "is": f"{n}({arguments[op.arity]})"} for n, op in POINTWISE.items()},
    }
    source = {"inputs": {"x": {"size": 4}}, "nodes": nodes, "outputs": list(nodes)}
    net = made(source, torch.float32)
    program = export(net, "step")
    save_onnx(net, "step", tmp_path / "x.onnx", program)
    x, state = example(net, "step", lanes=3)
    want = truth(net, "step", x, state)
    for found in (run_torch(program, x, state), run_onnx(tmp_path / "x.onnx", x, state)):
        for name in nodes:
            assert apart({name: found[name]}, {name: want[name]}) <= 2e-6, name


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell(cell: str, form: str, tmp_path: Path):
    check(made(one(cell)), form, tmp_path / "x.onnx", cell, NORM if cell in ROUNDED else TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["blstm", "dilated", "feedback", "gru", "lstm_variant", "tdnn_lstm"])
def test_shared_models(model: str, tmp_path: Path):
    check(made(str(ROOT / "conf" / "model" / f"{model}.yaml")), "sequence", tmp_path / "x.onnx", model)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed: int):
    source = random_graph(seed)
    check(made(source), "sequence", None, {"seed": seed, **source})


def test_state_goes_on_through_steps_of_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A user's loop: what comes out under `after:` goes in under `state:`."""
    net = made(one("lstm"), torch.float32)
    save_onnx(net, "step", tmp_path / "x.onnx")
    x, state = example(net, "sequence", 5, 2)
    with torch.no_grad():
        want, _ = net(x["x"], state)
    for t in range(5):
        found = run_onnx(tmp_path / "x.onnx", {"x": x["x"][t]}, state)
        state = net.load_state({n: found[f"after:{n}"] for n in state.history})
        assert torch.allclose(found["y"], want[t], rtol=0, atol=1e-5)
    there = run_onnx(tmp_path / "x.onnx", {"x": x["x"][0]}, state)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    assert apart(run_onnx(tmp_path / "x.onnx", {"x": x["x"][0]}, state), there) < 1e-5, "onnx's own evaluator"
    names = onnx_names(net)
    assert names == (["x", "state:l1/h", "state:l1/c"], ["y", "after:l1/h", "after:l1/c"])


@pytest.mark.parametrize("form", FORMS)
def test_free_sizes_have_their_names_in_onnx(form: str, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    save_onnx(made(one("lstm"), torch.float32), form, tmp_path / "x.onnx")
    graph = onnx.load(tmp_path / "x.onnx").graph
    found = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    lead = ["T", "B"] if form == "sequence" else ["B"]
    assert found["x"][:-1] == lead and found["y"][:-1] == lead, found
    assert all(found[name][:2] == [1, "B"] for name in ("state:l1/h", "state:l1/c", "after:l1/c")), found


def test_what_a_user_is_told():
    told = about(made(ALL), "sequence")
    assert told["inputs"] == {"x": "[T, B, 2]", "k": "[T, B] of 0..4"}
    assert told["outputs"] == {"y": "[T, B, 5]", "h": "[T, B, 3]"}
    assert told["states"] == {"c": "[2, B, 1]", "k": "[2, B]", "h": "[3, B, 3]", "x": "[1, B, 2]"}
    assert told["initial"]["c"] == -1.0 and told["initial"]["k"] == -1 and len(told["initial"]["h"]) == 3
    assert all(isinstance(v, str) for v in about(made(ALL), "sequence", flat=True).values())


def test_a_wrong_result_is_seen():
    net = made(one("gru"))
    x, state = example(net, "step")
    want = truth(net, "step", x, state)
    wrong = {n: v + 0.01 for n, v in want.items()}
    assert apart(want, want) == 0.0 and apart(wrong, want) > 1e-3
    with pytest.raises(ConfigError, match="'y' is nothing"):
        apart({n: v for n, v in want.items() if n != "y"}, want)


def test_mistakes_of_a_user(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="'whole' is not known"):
        export(made(one("gru")), "whole")
    with pytest.raises(ConfigError, match=r"reads 'x\[t\+2\]'"):
        export(made(ALL), "step")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="onnx, onnxscript, which are not installed"):
        need("onnx", "onnxscript")


ALONE = """
import sys, torch
sys.modules["framework"] = None
program = torch.export.load(sys.argv[1])
y, after = program.module()({"x": torch.ones(4, 2, 3)}, {n: torch.zeros(1, 2, 4) for n in ("l1/h", "l1/c")})
print(float(y["y"].double().sum()))
"""


@pytest.mark.slow
def test_from_a_run_to_another_program(cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """train.py, scripts/export.py, and a process that knows no framework."""
    code, _, err = cli(
        "model=lstm", "data=adding", "model.params.size=4", "train.max_steps=1", "logger=none", "run_dir=run"
    )
    assert code == 0, err
    spec = importlib.util.spec_from_file_location("export_main", ROOT / "scripts" / "export.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(["checkpoint=run", "out=there"])
    assert "step.onnx" in capfd.readouterr().out
    told = json.loads((tmp_path / "there" / "export.json").read_text())
    assert set(told) == {"step", "sequence"}
    assert all(0 <= v < 1e-5 for form in told.values() for v in form["apart"].values())
    assert sorted(p.name for p in (tmp_path / "there").glob("*.*")) == [
        "export.json", "sequence.onnx", "sequence.pt2", "step.onnx", "step.pt2"
    ]  # fmt: skip

    net = made(one("lstm"), torch.float32)
    torch.export.save(export(net, "sequence"), tmp_path / "x.pt2")
    found = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "x.pt2")], capture_output=True, text=True, cwd=tmp_path
    )
    with torch.no_grad():
        want = float(net(torch.ones(4, 2, 3))[0].double().sum())
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) == pytest.approx(want, abs=1e-5)
