"""Every plan is what its golden file says; each of these was read and found true."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.load import load_graph
from framework.machine import machine
from framework.plan import make_plan

CONF = Path(__file__).parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
CELLS = sorted(path.stem for path in (CONF / "cell").glob("*.yaml"))
SMALL = {"input": {"size": 5}, "classes": 3, "size": 8}


@pytest.mark.parametrize("model", MODELS)
def test_model(model, golden):
    golden(f"plans/{model}.txt", f"{make_plan(load_graph(model, **SMALL))}\n")


@pytest.mark.parametrize("cell", CELLS)
def test_stack_of_a_cell(cell, golden):
    golden(f"plans/stack_{cell}.txt", f"{make_plan(load_graph(stack(cell)))}\n")


def stack(cell: str) -> dict[str, object]:
    """The graph of model=stack with one layer; `clockwork` gets the mask that the model cannot give it."""
    masked = cell == "clockwork"
    inputs = {"x": {"size": 5}} | ({"mask": {"size": 1}} if masked else {})
    layer = {"cell": cell, "size": 8, "in": {"x": "x", "mask": "mask"} if masked else "x"}
    return {"inputs": inputs, "nodes": {"l": layer, "logits": {"size": 3, "is": "full(l) + bias"}},
            "outputs": ["logits"]}  # fmt: skip


def test_stack_is_the_model():
    small = load_graph("stack", cell="mgu", layers=1, **SMALL)
    assert str(make_plan(small)) == str(make_plan(load_graph(stack("mgu"))))


@pytest.mark.parametrize("model", ["lstm_variant", "blstm"])
def test_without_parallelism(model, golden):
    golden(f"plans/{model}_none.txt", f"{make_plan(load_graph(model, **SMALL), parallel='none')}\n")


@pytest.mark.parametrize("model", ["lstm", "gru", "stack", "feedback", "blstm"])
def test_for_a_gpu(model, golden):
    """What auto takes on a machine that need not be here."""
    where = machine("cuda", "sm_90", "bf16")
    golden(f"plans/{model}_cuda.txt", f"{make_plan(load_graph(model, **SMALL), device=where)}\n")


@pytest.mark.parametrize("cell", ["sru", "minlstm", "lstm_norm"])
def test_a_cell_for_a_gpu(cell, golden):
    plan = make_plan(load_graph(stack(cell)), device=machine("cuda", "sm_80"))
    golden(f"plans/stack_{cell}_cuda.txt", f"{plan}\n")


def test_large_with_our_products(golden):
    """Blocks as the launch table has them for large shapes; index inputs by rows."""
    graph = load_graph("lstm", input={"vocab": 96}, classes=96, size=1024, layers=2)
    plan = make_plan(graph, device=machine("cuda", "sm_90", "bf16"), products="triton")
    golden("plans/lstm_large_cuda.txt", f"{plan}\n")
