"""What a loop needs on a chip when one program runs all of it: sizes only, no torch."""

from __future__ import annotations

from framework.component import Component
from framework.machine import Machine

# Shared memory that products need beside the weights: the other operand, and layouts on their way to another.
SPARE = 24 << 10


def padded(size: int) -> int:
    """Units of a block that holds `size` of them: a power of two, for tensor cores at least 16."""
    return 1 if size == 1 else max(16, 1 << (size - 1).bit_length())


def weight_bytes(c: Component, machine: Machine) -> int:
    """Bytes of all matrices of the loop as blocks on the chip. float32 on NVIDIA is there in two parts, for
    tensor cores.
    """
    parts = 2 if machine.dtype == "fp32" and machine.chip != "gfx9" else 1
    sizes = {op.name: (op.size, c.cell[op.args[0]].size) for op in c.cell if op.kind in ("full", "block")}
    return sum(padded(rows) * padded(cols) for rows, cols in sizes.values()) * parts * machine.itemsize


def refuses(c: Component, machine: Machine) -> str:
    """Why one program cannot run the loop on a machine, or ""."""
    if not c.states:
        return "nothing in it reads another step"
    if any(op.kind in ("gather", "index") for op in c.cell):
        return "it looks rows up inside the loop"
    if machine.device != "cuda":
        return ""
    if machine.dtype == "fp64":
        return "float64 has no fast products"
    need, there = weight_bytes(c, machine) + SPARE, machine.shared
    if need > there:
        return f"its weights take {need >> 10} KB on the chip, a program has {there >> 10} KB"
    return ""
