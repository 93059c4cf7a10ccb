"""Which loops a plan starts together, in which order steps then run, and work on cuda_streams."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import torch

from framework import Network, load_graph, make_plan, start
from framework.call import Call
from framework.errors import ConfigError
from framework.graph import Graph
from framework.machine import machine
from framework.order import last_uses, order, step_reads, steps_of
from framework.plan import Plan
from framework.runners.streams import Fork
from framework.steps import Linear, Loop, Map
from framework.together import Together
from kernels.persistent_joint_choice import side_by_side
from kernels.persistent_layout import Layout
from tests.graphs import random_graph

H200 = machine("cuda", "sm_90", "bf16")


def branches(**cells: Any) -> Graph:
    """A graph of one node for each; x has 8 features."""
    nodes = {n: {"in": "x", **c} if "cell" in c else c for n, c in cells.items()}
    return load_graph({"inputs": {"x": {"size": 8}}, "nodes": nodes, "outputs": list(nodes)})


def lstm(size: int, cell: str = "lstm", **more: Any) -> dict[str, Any]:
    return {"cell": cell, "size": size, **more}


def names(plan: Plan, x: Together) -> list[list[str]]:
    """The loops of each launch."""
    return [
        [plan.components[s.component].name for k in launch if isinstance(s := plan.steps[k], Loop)]
        for launch in x.launches
    ]


def only(plan: Plan) -> Together:
    (x,) = plan.together
    return x


def said(plan: Plan) -> list[str]:
    return [x.strip() for x in str(plan).splitlines() if "at the same time" in x or "one by one" in x]


def test_both_directions_in_one_launch():
    plan = make_plan(branches(f=lstm(512), b=lstm(512, backward=True)), device=H200)
    assert names(plan, only(plan)) == [["f", "b"]] and only(plan).streams == (0,)
    assert said(plan) == ["at the same time: f, b in one launch, 32 + 32 of 132 programs"]


def test_what_does_not_fit_goes_one_by_one():
    """96 programs each: two grids that wait are never side by side, not even on cuda_streams."""
    plan = make_plan(branches(f=lstm(1536), b=lstm(1536, backward=True)), device=H200)
    assert plan.together == ()
    assert said(plan) == ["one by one: f, then b (96 + 96 programs, there is room for 132)"]


def test_as_many_as_fit_share_a_launch():
    plan = make_plan(branches(a=lstm(1024), b=lstm(1024), c=lstm(1024)), device=H200)
    assert names(plan, only(plan)) == [["a", "b"], ["c"]] and only(plan).streams == (0, 0)
    assert "a, b in one launch, 64 + 64 of 132 programs, then c (64 + 64 + 64 programs" in said(plan)[0]


def test_those_that_wait_for_nobody_get_a_stream():
    """A loop of one program and one without exchange beside a grid that waits; they start first."""
    plan = make_plan(branches(a=lstm(512), s=lstm(64, "sru"), b=lstm(64)), device=H200)
    x = only(plan)
    assert names(plan, x) == [["s"], ["b"], ["a"]] and x.streams == (1, 2, 0)
    why = "one takes a single program, another many"
    assert said(plan) == [f"at the same time: s on a cuda_stream; b on a cuda_stream; a ({why})"]
    two = make_plan(branches(s=lstm(64, "sru"), m=lstm(64, "mingru")), device=H200)
    assert sorted(only(two).streams) == [0, 1], "one stays on the current stream"


def test_torch_stays_on_the_current_stream():
    """Its many small kernels come from the host one by one; its own routines may have kernels that wait."""
    plan = make_plan(branches(a=lstm(32), s=lstm(32, "sru")), runner="torch-fused", device=H200)
    assert [c.runner for c in plan.choices] == ["torch-fused", "elementwise"]
    assert names(plan, only(plan)) == [["s"], ["a"]] and only(plan).streams == (1, 0)
    both = branches(a=lstm(32), b=lstm(32))
    for runner in ("torch", "torch-fused"):
        assert make_plan(both, runner=runner, device=H200).together == ()


def test_it_can_be_switched_off():
    graph = branches(f=lstm(512), b=lstm(512, backward=True))
    plan = make_plan(graph, device=H200, together=False)
    assert plan.together == () and said(plan) == ["one by one: f, b (together=False)"]
    assert plan.on(machine("cuda", "sm_80", "fp16")).together == ()
    assert Network(graph, together=False).plan.apart


def test_blocks_are_not_joined():
    plan = make_plan(branches(f=lstm(512), b=lstm(512)), device=H200, memory="recompute")
    assert plan.together == () and "memory=recompute goes block by block" in said(plan)[0]


def test_nothing_changes_on_a_cpu():
    graph = branches(f=lstm(512), b=lstm(512, backward=True))
    plan = make_plan(graph)
    assert plan.together == () and said(plan) == ["at the same time: loops f, b"]
    assert order(plan) == tuple(range(len(plan.steps)))
    assert [x.together for x in (plan.on(H200), plan.on(H200).on(plan.machine))] == [
        make_plan(graph, device=H200).together, ()
    ]  # fmt: skip


def test_loops_of_different_depth_are_in_order():
    """What is hoisted before a loop does not count, a loop before it does."""
    graph = branches(
        a=lstm(512), b={"size": 512, "is": "tanh(full(b[t-1]) + full(tanh(full(tanh(x)))))"},
        c=lstm(512, **{"in": "a"}), d=lstm(512, **{"in": "b"}),
    )  # fmt: skip
    plan = make_plan(graph, device=H200)
    assert [names(plan, x) for x in plan.together] == [[["a", "b"]], [["c", "d"]]]
    check_order(plan)


def check_order(plan: Plan) -> None:
    """Every step is there once, behind all whose values it takes."""
    found, made, seen = order(plan), dict[int, int](), set[int]()
    assert sorted(steps_of(found)) == list(range(len(plan.steps)))
    for k, step in enumerate(plan.steps):
        ops = (
            step.columns
            if isinstance(step, Linear)
            else [step.op]
            if isinstance(step, Map)
            else [at for at, _ in plan.components[step.component].outputs]
        )
        made.update(dict.fromkeys(ops, k))
    for item in found:
        together = item.steps if isinstance(item, Together) else (item,)
        for k in together:
            step = plan.steps[k]
            reads = {made[at] for at in step_reads(plan, step) if at in made}
            reads |= {step.pre} - {-1} if isinstance(step, Loop) else set()
            assert reads <= seen, (k, reads - seen)
        seen.update(together)
    dropped = [a for k in steps_of(found) for a in last_uses(plan, found)[k]]
    assert len(dropped) == len(set(dropped))


@pytest.mark.parametrize("part", range(4))
def test_order_of_random_graphs(part: int):
    joined = 0
    for seed in range(40 * part, 40 * part + 40):
        plan = make_plan(load_graph(random_graph(seed)), device=H200)
        check_order(plan)
        joined += len(plan.together)
        names = {k for x in plan.together for k in x.steps}
        assert len(names) == sum(len(x.steps) for x in plan.together), "a loop starts once"
    assert joined, "none of these graphs has loops that start together"


# Layouts ------------------------------------------------------------------------------------------------

MANY = Layout(programs=32, splits=4, groups=4, wide=(32, 64))


def test_tiles_share_the_room():
    """One loop has room for four tiles at the same time, two loops for two each: tiles get wider."""
    for lanes, tile in ((16, 16), (32, 16), (64, 32), (128, 64)):
        found = side_by_side([MANY, MANY], lanes, 132)
        assert isinstance(found, tuple)
        assert [(x.lanes, x.groups) for x in found] == [(tile, 2)] * 2
        assert sum(x.programs * min(x.groups, -(-lanes // x.lanes)) for x in found) <= 132


def test_more_rounds_than_one_by_one_are_not_worth_it():
    """Three tiles fit at once alone, one of each loop together: three rounds in the place of two."""
    third = Layout(programs=44, groups=3)
    assert isinstance(side_by_side([third, third], 16, 132), tuple)
    assert "fewer rounds" in str(side_by_side([third, third], 48, 132))


def test_the_programs_of_all_fit():
    """Whatever lanes and layouts: never more programs at once than there is room for."""
    for programs in ((64, 64), (32, 64), (16, 16, 16, 16), (2, 100), (66, 66), (67, 66)):
        layouts = [Layout(programs=n, groups=max(1, 132 // n), wide=(32, 64)) for n in programs]
        for lanes in (1, 16, 17, 100, 512, 4096):
            found = side_by_side(layouts, lanes, 132)
            if isinstance(found, str):
                continue
            assert sum(x.programs * min(x.groups, -(-lanes // x.lanes)) for x in found) <= 132
        assert isinstance(side_by_side(layouts, 1, 132), str) == (sum(programs) > 132)


def test_measured_layouts_are_limited_too():
    tuned = Layout(programs=32, groups=4, tuned=((64, Layout(programs=16, lanes=8, groups=8)),))
    found = side_by_side([tuned, tuned], 64, 132)
    assert isinstance(found, tuple) and [(x.programs, x.groups) for x in found] == [(16, 4)] * 2
    assert "fewer rounds" not in str(found)


def test_layouts_that_cannot_share():
    one, other = Layout(), Layout(programs=32, back_warps=4)
    assert "a single program" in str(side_by_side([one, MANY], 16, 132))
    assert side_by_side([MANY, other], 16, 132) == "forward + backward take 4 + 8 and 4 + 4 warps"
    assert side_by_side([one, one], 100_000, 132) == (one, one), "tiles that wait for nobody may come later"


# cuda_streams -------------------------------------------------------------------------------------------


class FakeStream:
    """Notes what it is told."""

    def __init__(self, name: str, log: list[str]):
        self.name, self.log = name, log

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


class FakeTensor:
    def __init__(self, name: str, log: list[str]):
        self.name, self.log = name, log

    def record_stream(self, stream: FakeStream) -> None:
        self.log.append(f"{self.name} used by {stream.name}")


class FakeCuda:
    """torch.cuda as `Fork` uses it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.streams = {n: FakeStream(n, self.log) for n in ("current", "side 1", "side 2")}
        self.inside = [self.streams["current"]]

    def current_stream(self, device: torch.device) -> FakeStream:
        return self.inside[-1]

    def stream(self, stream: FakeStream) -> FakeCuda:
        self.inside.append(stream)
        return self

    def __enter__(self) -> None:
        self.log.append(f"enter {self.inside[-1].name}")

    def __exit__(self, *error: object) -> None:
        self.log.append(f"leave {self.inside.pop().name}")


def forked(cuda: FakeCuda) -> Fork:
    """A fork on the fake device."""
    return Fork(torch.device("cpu"), cuda, lambda device, n: cuda.streams[f"side {n}"])


def test_work_is_forked_and_joined():
    """Each stream waits for the current one before its work, the current one for each after all; both sides
    tell the allocator whose memory they use.
    """
    cuda = FakeCuda()
    with forked(cuda) as fork:
        for number in (1, 2, 0):
            made: list[Any] = []
            with fork.on(number, [FakeTensor(f"x{number}", cuda.log)], made):  # type: ignore[list-item]
                cuda.log.append(f"work on {cuda.inside[-1].name}")
                made.append(FakeTensor(f"y{number}", cuda.log))
    assert cuda.log == [
        "side 1 waits for current", "x1 used by side 1", "enter side 1", "work on side 1", "leave side 1",
        "side 2 waits for current", "x2 used by side 2", "enter side 2", "work on side 2", "leave side 2",
        "work on current",
        "current waits for side 1", "y1 used by current", "current waits for side 2", "y2 used by current",
    ]  # fmt: skip


class Refused(FakeTensor):
    """A tensor that no other stream may use."""

    def record_stream(self, stream: FakeStream) -> None:
        raise ValueError("no")


@pytest.mark.parametrize("where", ["taken", "work", "between"])
def test_streams_are_joined_after_an_error_too(where: str):
    """Also those whose work was over, and one that has only waited; made tensors are known to both sides."""
    cuda = FakeCuda()
    made: list[Any] = [FakeTensor("y", cuda.log)]
    with pytest.raises(ValueError, match="no"), forked(cuda) as fork:
        with fork.on(1, [], made):
            pass
        with fork.on(2, [Refused("x", cuda.log)] if where == "taken" else [], []):  # type: ignore[list-item]
            if where == "work":
                raise ValueError("no")
        raise ValueError("no")
    joined = ["current waits for side 1", "y used by current", "current waits for side 2"]
    assert cuda.log[-3:] == joined and cuda.inside == [cuda.streams["current"]] and not fork.used


def test_a_loop_that_fails_leaves_no_stream_behind(monkeypatch: pytest.MonkeyPatch):
    """The first loop of a group runs on a stream of its own, the second one raises on the current one."""
    net = Network(branches(a=lstm(3), b=lstm(3)), runner="torch")
    loops = [k for k, step in enumerate(net.plan.steps) if isinstance(step, Loop)]
    cuda = FakeCuda()
    monkeypatch.setattr(start, "Fork", lambda device: forked(cuda))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: None)
    call = Call(net, torch.zeros(2, 1, 8), None, None, None)
    for k, step in enumerate(net.plan.steps):
        if isinstance(step, Linear):
            call.step(k)
    broken = net.plan.steps[loops[1]].component
    monkeypatch.setattr(net.loops[broken], "run", Mock(side_effect=ConfigError("loop", "it is broken")))
    group = Together(tuple((k,) for k in loops), (1, 0), "")
    with torch.no_grad(), pytest.raises(ConfigError, match="it is broken"):
        start.start_loops(net, group, {k: call for k in loops})
    assert cuda.log[-2:] == ["leave side 1", "current waits for side 1"]


def test_the_current_stream_alone_needs_no_device():
    """Groups of launches that follow each other touch no stream at all."""
    with Fork(torch.device("cpu")) as fork, fork.on(0, [torch.zeros(1)], []):
        pass
