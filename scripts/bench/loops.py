"""Ways to run a step of a cell over time without us: eager, scripted, compiled, torch's scan."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scripts.bench.cells import Link, Step

Over = Callable[[Tensor, list[Tensor]], Tensor]  # x [T, B, features], first states -> outputs [T, B, size]


def eager(step: Step) -> Over:
    """A Python loop over the steps."""
    return python_loop(step)


def python_loop(step: Callable[[Tensor, list[Tensor]], Any]) -> Over:
    """Call `step` for each step of x."""

    def over(x: Tensor, states: list[Tensor]) -> Tensor:
        out = []
        for x_t in x:
            h, states = step(x_t, states)
            out.append(h)
        return torch.stack(out)

    return over


def compiled(step: Step) -> Over:
    """A Python loop over the step as torch.compile makes it: one graph for a step, any number of steps."""
    return python_loop(torch.compile(step, dynamic=False))


class _Scripted(nn.Module):
    """The whole loop as TorchScript."""

    def __init__(self, step: Step):
        super().__init__()
        self.step = step

    def forward(self, x: Tensor, states: list[Tensor]) -> Tensor:
        out: list[Tensor] = []
        for t in range(x.size(0)):
            h, states = self.step(x[t], states)
            out.append(h)
        return torch.stack(out)


def scripted(step: Step) -> Over:
    """The loop by torch.jit.script, which torch itself no longer recommends."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*", category=DeprecationWarning)
        return torch.jit.script(_Scripted(step))


def scanned(step: Step) -> Over:
    """torch._higher_order_ops.scan over the step."""
    from torch._higher_order_ops.scan import scan

    def combine(states: list[Tensor], x_t: Tensor) -> tuple[list[Tensor], Tensor]:
        h, states = step(x_t, states)
        return states, h.clone()  # what is carried and what comes out may not be one tensor

    return lambda x, states: scan(combine, states, x)[1]


WAYS: Mapping[str, Callable[[Step], Over]] = {
    "eager loop": eager,
    "compiled loop": compiled,
    "TorchScript loop": scripted,
    "torch scan": scanned,
}


class Layers(nn.Module):
    """Layers of one cell, in one or both directions, each run over time in one of the WAYS."""

    def __init__(
        self,
        cell: type[Step],
        inputs: int,
        size: int,
        way: str,
        layers: int = 1,
        both: bool = False,
        product: bool = True,
    ):
        super().__init__()
        self.steps = nn.ModuleList()
        self.both = both
        self._links: list[Link] = []
        source = "x"
        for k in range(1, layers + 1):
            for path, back in (
                ((f"l{k}/fwd", "[t-1]"), (f"l{k}/bwd", "[t+1]")) if both else ((f"l{k}", "[t-1]"),)
            ):
                step = cell(inputs, size, product)
                for link in step.links():
                    ours = link.ours.format(l=path, x=source, back=back)
                    self._links.append(Link(ours, f"steps.{len(self.steps)}.{link.theirs}", link.rows))
                self.steps.append(step)
            width = self.steps[-1].sizes()[0]  # type: ignore[operator]
            inputs, source = width * (1 + both), f"l{k}/y" if both else f"l{k}/h"
        self.overs: list[Over] = [WAYS[way](step) for step in self.steps]  # type: ignore[arg-type]

    def links(self) -> list[Link]:
        """Where our weights lie."""
        return self._links

    def forward(self, x: Tensor) -> Tensor:
        """x [T, B, inputs] -> outputs [T, B, width], both directions side by side."""
        overs = iter(zip(self.steps, self.overs, strict=True))
        for step, over in overs:
            y = over(x, self._start(step, x))
            if self.both:
                step, over = next(overs)
                y = torch.cat([y, over(x.flip(0), self._start(step, x)).flip(0)], -1)
            x = y
        return x

    def _start(self, step: nn.Module, x: Tensor) -> list[Tensor]:
        return [x.new_zeros(x.shape[1], n) for n in step.sizes()]  # type: ignore[operator]
