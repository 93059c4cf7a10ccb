"""Which loops the `compiled` runner takes: machine code for all steps of one, on a CPU. Pure data."""

from __future__ import annotations

from framework.component import Component
from framework.machine import Machine

NARROW = ("bf16", "fp16")  # it computes in float32 what lies in memory so


def refuses(c: Component, machine: Machine) -> str:
    """Why it cannot run component `c` on a machine, or ""."""
    if machine.device != "cpu":
        return "it is for CPUs"
    if not machine.llvm:
        return "llvmlite 0.45 or newer is not installed"
    return "it picks rows of a weight inside the loop" if any(op.kind == "gather" for op in c.cell) else ""


def describe(c: Component, machine: Machine) -> str:
    """How it runs a loop, for plans."""
    return "machine code, all steps in one call"
