"""The source that a plan's loops run, as text."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from framework.choose import choose
from framework.component import Component
from framework.machine import Machine

if TYPE_CHECKING:
    from framework.plan import Plan


def code(plan: Plan) -> str:
    """The source that runners make of each loop, forward and backward: Triton kernels, or Python for torch.
    For a CPU both, where the elementwise runner would take a loop on a GPU.
    """
    from framework.runners.torch_loop import TorchLoop  # lazily: torch

    parts = []
    for c, choice in zip(plan.components, plan.choices, strict=True):
        text = triton_source(c, choice.runner, plan.machine)
        if text:
            parts.append(f"# {c.name}, Triton, forward and backward\n{text.strip()}\n")
        if text and choice.runner != "torch":
            continue
        loop = TorchLoop(c, stepwise=plan.parallel == "none")
        for kind in ("train", "backward"):
            text = loop.source(kind, False)[0].text.strip()
            parts.append(f"# {c.name}, {'forward' if kind == 'train' else 'backward'}\n{text}\n")
    return "\n".join(parts) if parts else "# no loops\n"


def triton_source(c: Component, runner: str, where: Machine) -> str:
    """The Triton module of a loop, or ""."""
    from framework import persistent, persistent_fit
    from framework.runners import elementwise_code

    if runner in ("persistent", "streamed"):
        return persistent.source_of(c, persistent_fit.layout_of(c, where, runner == "streamed"))
    if find_spec("triton") and choose(c, "elementwise").runner == "elementwise":
        return elementwise_code.source_of(c)
    return ""
