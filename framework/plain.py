"""A plan as plain torch: Python source for one step of a stream, or for a whole sequence.

Every statement makes a new tensor by a public function of torch, and nothing is looked at, so the source can
be traced, exported and differentiated by torch itself. Products stay packed as in the plan: one outside of
the loops for each of its sums, one inside for each source of a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from framework.plain_writer import Writer
from framework.plan import Plan
from framework.runners.functions import compile_source

# run(packs, inputs, histories by name; a tensor of the network's dtype and device) -> outputs, histories
Run = Callable[
    [Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor], Tensor],
    tuple[dict[str, Tensor], dict[str, Tensor]],
]


def eager_scan(
    body: Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]],
    carry: tuple[Tensor, ...],
    given: tuple[Tensor, ...],
    reverse: bool = False,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What torch's scan does, by a loop of Python: the last carry, and outputs [T, ...]."""
    steps = given[0].shape[0]
    outs: list[tuple[Tensor, ...]] = []
    for t in reversed(range(steps)) if reverse else range(steps):
        carry, out = body(carry, tuple(x[t] for x in given))
        outs.append(out)
    if reverse:
        outs.reverse()
    return carry, tuple(torch.stack(each) for each in zip(*outs, strict=True))


class PlainPlan:
    """The function of a plan's source; see `Writer`. Pickles make it again."""

    def __init__(self, plan: Plan, whole: bool, eager: bool = False):
        self.name = f"{'sequence' if whole else 'step'}"
        self.text = Writer(plan, whole, eager).text()
        self.run: Run = compile_source(self.text, self.name)  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "text": self.text}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.run = compile_source(self.text, self.name)  # type: ignore[assignment]
