"""Nothing is timed that does not compute the same: outputs and gradients of all systems against float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from framework import Network
from framework.graph import Graph
from scripts.bench.system import System
from tests import oracle

Errors = dict[str, dict[str, float]]  # system -> y, dx, dw -> relative error


class Disagreement(Exception):
    """Why a case must not be timed."""


def relative(got: Tensor, want: Tensor) -> float:
    """Norm of the error over the norm of what is right; NaN when anything is."""
    return ((got.double() - want).norm() / want.norm()).item()


def flat(values: Mapping[str, Tensor]) -> Tensor:
    """All weights or gradients in a row, by name."""
    return torch.cat([values[name].detach().reshape(-1).double() for name in sorted(values)])


def truth(graph: Graph, weights: Mapping[str, Tensor], device: str) -> Network:
    """The network in float64 with these weights, run by the torch runner.

    Raises Disagreement when it does not compute what the oracle (tests/oracle.py) does, on a few steps.
    """
    net = Network(graph, runner="torch").to(device, torch.float64)
    net.load_state_dict(weights)
    (name, ours), *_ = graph.inputs.items()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, ours.size, generator=g, dtype=torch.float64)
    leaves = {n: w.detach().cpu().double().requires_grad_() for n, w in weights.items()}
    want = next(iter(oracle.run(graph, leaves, {name: x.requires_grad_()})[0].values()))
    dy = torch.randn(want.shape, generator=g, dtype=torch.float64)
    dx, *dw = torch.autograd.grad(want, [x, *leaves.values()], dy)
    mine = x.detach().to(device).requires_grad_()
    y, _ = net(mine)
    assert isinstance(y, Tensor)
    y.backward(dy.to(device))
    assert mine.grad is not None
    grads = {n: v for n, v in net.grads().items() if v is not None}
    pairs = {
        "output": (y.detach().cpu(), want.detach()),
        "input gradient": (mine.grad.cpu(), dx),
        "weight gradients": (flat(grads).cpu(), flat(dict(zip(leaves, dw, strict=True)))),
    }
    for what, (got, right) in pairs.items():
        if not relative(got, right) < 1e-9:
            raise Disagreement(
                f"the {what} in float64 differs from the oracle's by {relative(got, right):.1e}"
            )
    net.zero_grad(set_to_none=True)
    return net


def errors(systems: Iterable[System], exact: Network, x: Tensor, dy: Tensor) -> Errors:
    """Relative errors of output, input gradient and all weight gradients, on the same numbers."""
    wide = x.detach().double().requires_grad_()
    y, _ = exact(wide)
    assert isinstance(y, Tensor)
    y.backward(dy.double())
    assert wide.grad is not None
    want = flat({n: g for n, g in exact.grads().items() if g is not None})
    out: Errors = {}
    for s in systems:
        s.module.zero_grad(set_to_none=True)
        leaf = x.detach().clone().requires_grad_()
        got = s.run(leaf)
        got.backward(dy)
        assert leaf.grad is not None
        out[s.name] = {
            "y": relative(got.detach(), y.detach()),
            "dx": relative(leaf.grad, wide.grad),
            "dw": relative(flat(s.grads()), want),
        }
        s.module.zero_grad(set_to_none=True)
    return out


def refusals(found: Errors, yardsticks: set[str], eps: float, steps: int) -> list[str]:
    """Why a case must not be timed.

    Here it must be the same function; how exact it is, is tested elsewhere. A system may err three
    times as much as the worst yardstick (torch alone in the same dtype), four roundings, or 64
    roundings a step but 2 % at most: layer norms make rounding larger from step to step (3e-4 was seen
    in torch's float32 after 128). A yardstick may err by 64 roundings a step, by a quarter at most.
    """
    grown = min(0.02, 64 * steps * eps)
    out = []
    for system, results in found.items():
        for what, error in results.items():
            own = max((found[y][what] for y in yardsticks), default=0.0)
            allowed = min(0.25, 64 * steps * eps) if system in yardsticks else max(3 * own, 4 * eps, grown)
            if not error <= allowed:  # a NaN, too
                out.append(f"{system}: error of {what} {error:.1e}, allowed {allowed:.1e}")
    return out
