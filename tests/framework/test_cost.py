"""The model of cost: what it counts is what runs; more takes longer; `auto` asks it where it may."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from framework import persistent_fit
from framework.choose import TABLE, choose
from framework.component import Component
from framework.cost import constants_of, model_of, outputs_read, predict
from framework.cost_constants import CHIPS, USUAL, Rate, gpu_constants
from framework.cost_cpu import rate
from framework.cost_cpus import CPUS
from framework.cost_runners import LANES, SURE, loop_costs, slower
from framework.cost_statements import statements
from framework.cost_text import cost_text
from framework.errors import ConfigError
from framework.load import load_graph
from framework.machine import CHIPS as PLANNED
from framework.machine import CPU, Machine, machine
from framework.network import Network
from framework.plan import make_plan
from scripts import show_plan
from scripts.bench.ceilings import RESULTS, as_code, best_of

H200 = machine("cuda", "sm_90", "bf16")


def plan_of(cell: str, size: int = 16, where: Machine = CPU, runner: str = "auto", **params: object):
    node = {"cell": cell, "size": size, "in": "x", **params}
    graph = load_graph({"inputs": {"x": {"size": size}}, "nodes": {"l": node}, "outputs": ["l"]})
    return make_plan(graph, device=where, runner=runner)


def loop_of(cell: str, size: int = 16) -> Component:
    return plan_of(cell, size).components[0]


class Calls(TorchDispatchMode):
    """Counts the calls that compute something."""

    VIEWS = ("unbind", "view", "_unsafe_view", "slice", "select", "unsqueeze", "expand", "detach", "alias",
             "t", "as_strided", "transpose", "permute", "squeeze", "split")  # fmt: skip

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ not in self.VIEWS
        return func(*args, **(kwargs or {}))


def calls_of_a_step(cell: str, lanes: int = 2) -> float:
    """What torch computes at each step, by watching a forward and backward of 12 and of 20 steps."""
    torch.manual_seed(0)
    net = Network(plan_of(cell).graph, runner="torch")
    counts = []
    for steps in (2, 8, 16):  # the first time makes gradients, later ones would be added to them
        net.zero_grad()
        x = torch.randn(steps, lanes, 16)
        with Calls() as calls:
            y, _ = net(x)
            y.sum().backward()
        counts.append(calls.count)
    return (counts[2] - counts[1]) / 8


@pytest.mark.parametrize(
    "cell", ["lstm", "lstm_peephole", "gru", "gru_cudnn", "rhn", "sru", "mgu", "lstm_norm"]
)
def test_every_call_of_a_step_is_counted(cell):
    plan = plan_of(cell)
    c = plan.components[0]
    given = outputs_read(plan, c)
    counted = sum(len(statements(c, backward, given=given).step) for backward in (False, True))
    assert counted == calls_of_a_step(cell)


def test_units_and_products_of_a_step():
    """LSTM of 16 units by hand: the product, sigmoid of three gates, the candidate, c (two), tanh, h."""
    found = statements(loop_of("lstm"), False).step
    assert [(s.function, s.units, s.inner) for s in found] == [
        ("product", 64, 16), ("sigmoid", 48, 0), ("tanh", 16, 0), ("mul", 16, 0), ("addcmul", 16, 0),
        ("tanh", 16, 0), ("mul", 16, 0),
    ]  # fmt: skip
    back = statements(loop_of("lstm"), True).step
    assert [(s.units, s.inner) for s in back if s.inner] == [(16, 64)]
    assert sorted(s.units for s in back if not s.inner) == [16, 16, 16, 16, 48]


def test_rates_lie_between_those_measured():
    table = [Rate(1, 100, 10.0), Rate(100, 100, 1000.0), Rate(1, 10_000, 40.0), Rate(100, 10_000, 4000.0)]
    assert rate(table, 1, 100) == pytest.approx(10)
    assert rate(table, 10, 100) == pytest.approx(100)
    assert rate(table, 10, 1000) == pytest.approx(200)
    assert rate(table, 5000, 10**6) == pytest.approx(4000)


def test_constants_of_cpus_are_those_of_the_rows():
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    for k in CPUS:
        assert as_code(best_of([row for row in rows if row["threads"] == k.threads])) == as_code(k)


@pytest.mark.parametrize("where", [CPU, H200], ids=str)
@pytest.mark.parametrize(
    "runner", ["torch", "compiled", "torch-fused", "persistent", "streamed", "elementwise", "scan"]
)
def test_more_work_takes_longer(where, runner):
    cell = "mingru" if runner in ("elementwise", "scan") else "lstm"
    if runner not in {r.name for r in TABLE if not r.devices or where.device in r.devices}:
        pytest.skip("no runner of CPUs")
    if runner == "compiled" and where != CPU:
        pytest.skip("for CPUs")

    def us(lanes: int, size: int, train: bool = True) -> float:
        k = constants_of(where)
        assert k is not None
        return model_of(where, k, 64, lanes).loop(plan_of(cell, size, where).components[0], runner, train).us

    assert us(16, 256) <= us(64, 256) < us(4096, 256)
    assert us(16, 256) <= us(16, 1024)
    assert us(16, 256, False) < us(16, 256)


def test_lines_add_up_and_steps_share_what_a_call_takes():
    plan = make_plan(load_graph("lstm_variant", size=32))
    few, many = (predict(plan, steps, 4) for steps in (8, 512))
    assert sum(line.cost.us for line in many.lines) == pytest.approx(many.us)
    assert many.seconds == pytest.approx(many.us * 512e-6)
    assert many.us < few.us < many.us + few.us and many.seconds > few.seconds
    assert {line.what.split()[0] for line in many.lines} == {"products", "loop", "calling"}
    forward = predict(plan, 512, 4, "forward")
    assert 0.2 < forward.us / many.us < 0.6


def test_nothing_is_known_of_other_machines():
    plan = make_plan(load_graph("lstm"), device=Machine("mps"))
    with pytest.raises(ConfigError, match="nothing is known of mps"):
        predict(plan, 8, 1)
    assert slower(loop_of("lstm"), Machine("cuda", "sm_75", "bf16"), "streamed", "torch") == ""


def test_every_chip_of_plans_has_constants():
    assert set(USUAL) == set(PLANNED)
    for chip, (_, units) in PLANNED.items():
        assert gpu_constants(machine("cuda", chip)) is CHIPS[USUAL[chip]]
        assert CHIPS[USUAL[chip]].units == units
    named = Machine("cuda", "sm_90", "bf16", name="NVIDIA H100 80GB HBM3")
    assert gpu_constants(named) is CHIPS["H100"] and gpu_constants(H200) is CHIPS["H200"]


def test_cudnn_takes_what_was_published():
    """nn.LSTM, fp16, H100, B = 16, H = 768, T = 1024: 2.01 ms forward and 5.19 ms with backward."""
    h100 = Machine("cuda", "sm_90", "fp16", 227 << 10, 132, name="NVIDIA H100")
    plan = plan_of("lstm", 768, h100, "torch-fused")
    assert plan.choices[0].runner == "torch-fused"
    assert predict(plan, 1024, 16, "forward").seconds == pytest.approx(2.01e-3, rel=0.15)
    assert predict(plan, 1024, 16).seconds == pytest.approx(5.19e-3, rel=0.15)


@pytest.mark.parametrize("cell", ["lstm", "sru", "rhn"])
def test_the_order_of_the_table_agrees_where_auto_does_not_ask(cell):
    for size in (64, 512):
        c = loop_of(cell, size)
        able = [r.name for r in TABLE if r.devices and not r.by_name and not r.refuses(c, H200)]
        first = choose(c, machine=H200).runner
        assert first == able[0] != "streamed"
        costs = loop_costs(c, H200, [*able, "torch"])
        for other in (*able, "torch"):
            assert all(a.us < SURE * b.us for a, b in zip(costs[first], costs[other], strict=True)), other


def test_auto_takes_torch_where_streaming_is_predicted_to_be_slower(monkeypatch):
    large = loop_of("lstm", 4096)
    chosen = choose(large, machine=H200)
    assert chosen.runner == "torch"
    (note,) = (n for n in chosen.notes if n.startswith("streamed: "))
    costs = loop_costs(large, H200, ("streamed", "torch"))
    times = [", ".join(f"{x.us:,.0f}" for x in costs[r]) for r in ("streamed", "torch")]
    assert note == f"streamed: predicted {times[0]} us a step with 1, 16, 64, 256 lanes, torch {times[1]}"
    assert LANES == (1, 16, 64, 256)
    assert choose(large, "streamed", H200).runner == "streamed"  # by name the model is not asked
    assert choose(loop_of("lstm", 2048), machine=H200).runner == "streamed"
    layout = persistent_fit.layout_of(large, H200, True)
    monkeypatch.setattr(persistent_fit, "tuned", lambda c, machine, streamed=False: (((16, layout),), ()))
    assert choose(large, machine=H200).runner == "streamed"  # measured


def test_text_of_a_plan_for_a_gpu():
    plan = plan_of("lstm", 256, H200)
    text = cost_text(plan, 1024, 16)
    assert text.startswith("predicted, not measured: forward+backward, T = 1,024, B = 16, cuda sm_90 bf16")
    assert "not elementwise: units read each other inside the loop" in text
    names = [line.split()[0] for line in text.splitlines() if re.match("    [a-z]", line) and "%" in line]
    assert names == ["persistent", "streamed", "torch-fused", "torch"]
    assert "on other GPUs: A100 persistent" in text


def test_show_plan_prints_costs(capsys):
    show_plan.main(["model=lstm", "size=32", "cost=true", "steps=16", "lanes=2", "threads=2"])
    plan = make_plan(load_graph("lstm", size=32))
    assert capsys.readouterr().out == f"{plan}\n\n{cost_text(plan, 16, 2, threads=2)}\n"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("lanes=0", "lanes: '0' is no number of lanes. Write lanes=16"),
        ("steps=many", "steps: 'many' is no number of steps"),
        ("passes=back", "passes: no 'back'. There are: forward, forward.backward"),
        ("cost=yes", "cost: 'yes' is neither true nor false"),
    ],
)
def test_options_of_costs_that_are_none(option, message):
    with pytest.raises(ConfigError, match=message):
        show_plan.main(["model=lstm", "cost=true", option])
