"""Loops that start together, as functions of the device and the sizes; see bodies.py.

Each raises AssertionError.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framework import Network, load_graph
from tests.gpu.bodies import capture
from tests.gpu.cases import relative

FEATURES = 6


def branches(cells: dict[str, tuple[str, int]], backward: str = "") -> dict[str, Any]:
    """A graph of (cell, size) by name over one input, that named `backward` against time; a second layer of
    two reads them all.
    """
    nodes: dict[str, Any] = {
        n: {"cell": cell, "size": size, "in": "x", "backward": n == backward}
        for n, (cell, size) in cells.items()
    }
    nodes |= {n: {"cell": "gru", "size": 24, "in": list(cells)} for n in ("up", "down")}
    nodes["down"]["backward"] = True
    return {"inputs": {"x": {"size": FEATURES}}, "nodes": nodes, "outputs": ["up", "down"]}


def pair(source: dict[str, Any], device: str, kind: torch.dtype, runner: str) -> tuple[Network, Network]:
    """The same network, whose loops start together in the first and one by one in the second."""
    graph = load_graph(source)
    nets = [Network(graph, runner=runner, together=t).to(device, kind) for t in (True, False)]
    nets[1].load_state_dict(nets[0].state_dict())
    return nets[0], nets[1]


def outcome(net: Network, x: Tensor, **where: Tensor) -> list[Tensor]:
    """Outputs and all gradients."""
    net.zero_grad(set_to_none=True)
    given = x.clone().requires_grad_()
    y, _ = net(given, **where)
    torch.stack([v.float().square().sum() for v in y.values()]).sum().backward()
    grads = [g for g in (given.grad, *(p.grad for p in net.parameters())) if g is not None]
    return [*(v.detach() for v in y.values()), *grads]


def agree(
    source: dict[str, Any],
    device: str,
    steps: int,
    lanes: int,
    kind: torch.dtype,
    launches: list[list[int]],
    repeats: int = 10,
    runner: str = "auto",
) -> None:
    """Together and one by one are equal to the bit, again and again, with and without lengths.

    launches: by group of loops, how many there are in each launch. First calls on a GPU have the watchdog.
    """
    net, apart = pair(source, device, kind, runner)
    print(net.plan)
    found = [[len(launch) for launch in x.launches] for x in net.plan.together]
    assert found == launches and not apart.plan.together, found
    x = torch.randn(steps, lanes, FEATURES, generator=torch.Generator().manual_seed(steps)).to(device, kind)
    ends = torch.arange(lanes, device=device) % steps + 1
    for where in ({}, {"lengths": ends}):
        net.watchdog = device == "cuda"
        outcome(net, x, **where)
        net.watchdog = False
        want = outcome(apart, x, **where)
        for k in range(repeats):
            got = outcome(net, x, **where)
            assert len(got) == len(want) and all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), k


def replays(
    source: dict[str, Any], device: str, steps: int, lanes: int, kind: torch.dtype, runner: str = "auto"
) -> None:
    """Captured once, with the streams that it forks, replayed on other numbers: as a call on them."""
    net, _ = pair(source, device, kind, runner)
    g = torch.Generator().manual_seed(steps)
    first, second = (torch.randn(steps, lanes, FEATURES, generator=g).to(device, kind) for _ in range(2))
    want = outcome(net, second)
    x, made = first.clone().requires_grad_(), list[Tensor]()

    def step() -> None:
        for tensor in (x, *net.parameters()):
            tensor.grad = None
        y, _ = net(x)
        torch.stack([v.float().square().sum() for v in y.values()]).sum().backward()
        made[:] = [v.detach() for v in y.values()]

    replay = capture(step, device)
    with torch.no_grad():
        x.copy_(second)
    replay()
    grads = [g for g in (x.grad, *(p.grad for p in net.parameters())) if g is not None]
    assert all(torch.equal(a, b) for a, b in zip([*made, *grads], want, strict=True))


def overlaps(
    cell: str, device: str, steps: int, lanes: int, size: int, kind: torch.dtype, parts: int, runner: str
) -> None:
    """A stack in overlapping parts: at most twice as far from float64 as in one go."""
    graph = load_graph("stack", cell=cell, input={"size": FEATURES}, classes=5, size=size, layers=3)
    exact = Network(graph, runner="torch").double()
    x = torch.randn(steps, lanes, FEATURES, generator=torch.Generator().manual_seed(size))
    ends = torch.arange(lanes) % steps + 1
    want, errors = results(exact, x.double(), ends), []
    for n in (None, parts):
        net = Network(graph, runner=runner, overlap=n).to(device, kind)
        net.load_state_dict(exact.state_dict())
        net.watchdog = device == "cuda" and n is not None
        got = results(net, x.to(device, kind), ends.to(device))
        errors.append([relative(a, b) for a, b in zip(got, want, strict=True)])
        print(net.plan, errors[-1])
    rounding = torch.finfo(kind).eps
    assert all(late <= 2 * max(plain, rounding) for plain, late in zip(*errors, strict=True)), errors


def results(net: Network, x: Tensor, ends: Tensor) -> list[Tensor]:
    """Output and all gradients of a network with one output."""
    given = x.clone().requires_grad_()
    y, _ = net(given, lengths=ends)
    y.square().sum().backward()
    return [g for g in (y.detach(), given.grad, *(p.grad for p in net.parameters())) if g is not None]
