"""Which loops the `compiled` runner takes: machine code for all steps of one, on a CPU. Pure data."""

from __future__ import annotations

from framework.component import Component
from framework.machine import Machine

DTYPES = ("fp32", "fp64")


def refuses(c: Component, machine: Machine) -> str:
    """Why it cannot run component `c` on a machine, or ""."""
    if machine.device != "cpu":
        return "it is for CPUs"
    if machine.dtype not in DTYPES:
        return f"it computes in {' and '.join(DTYPES)}"
    if not machine.llvm:
        return "llvmlite 0.45 or newer is not installed"
    return "it picks rows of a weight inside the loop" if any(op.kind == "gather" for op in c.cell) else ""


def describe(c: Component, machine: Machine) -> str:
    """How it runs a loop, for plans."""
    return "machine code, all steps in one call"
