"""How a persistent loop is spread over programs, lanes and warps."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.codegen import Op
from kernels.persistent_cell import LEAVES, Cell, Derivative, Saved, given_to


@dataclass(frozen=True)
class Layout:
    """How the loop is spread: `programs` share a tile of `lanes` lanes, each having its part of the units.

    One program: it has all units, and what they exchange stays on the chip.
    """

    programs: int = 1
    lanes: int = 16
    warps: int = 4

    def units(self, size: int) -> int:
        """Units of a value of `size` that one program computes: a power of 2. A single one all compute."""
        if size == 1:
            return 1
        share = -(-size // self.programs)
        return max(16, 1 << (share - 1).bit_length())


# Lanes and warps of one program, those with the fewest exchanges between warps first.
SHAPES = ((16, 4), (16, 8), (8, 8))
# Registers that a thread may need by our count, of 255: beyond, compiled kernels began to spill
# (docs/kernels.md: lstm_norm and nas of 128 units).
REGISTERS = 220
# What a compiled kernel took for each register of a value alive (lstm, lstm_peephole, gru of 128 units).
OVERHEAD = 1.3


def choose_layout(cell: Cell, d: Derivative, saved: Saved) -> Layout:
    """Lanes and warps of one program by what is alive at once in its backward, the larger of the two."""
    for lanes, warps in SHAPES:
        layout = Layout(lanes=lanes, warps=warps)
        if OVERHEAD * alive(cell, d, saved, layout) * lanes / (32 * warps) <= REGISTERS:
            break
    return layout


def alive(cell: Cell, d: Derivative, saved: Saved, layout: Layout) -> float:
    """The most numbers of a lane that are there at once in a step of the backward, in registers of 4 bytes.

    What is loaded a step ahead is there twice, once in the type of the tensors (counted as half).
    """
    order = given_to(cell, d, saved)
    place = {at: i for i, at in enumerate(order)}
    leaves = {at for at, op in enumerate(d.ops) if op.kind in LEAVES} | set(cell.stored)
    leaves |= {*saved.columns, *saved.extra}
    last = dict(place)
    for at in order:
        last.update((a, max(last[a], place[at])) for a in d.ops[at].args if a in place)
    last.update((at, len(order)) for at in d.outputs)

    def size(op: Op) -> int:
        # A vector is there for each unit of a thread, which may be as many as a block has.
        return 0 if op.kind == "const" else layout.units(op.size)

    change = [0] * (len(order) + 2)
    for at in order:
        change[0 if at in leaves else place[at]] += size(d.ops[at])
        change[last[at] + 1] -= size(d.ops[at])
    now = most = 0
    for step in change:
        now += step
        most = max(most, now)
    return most + sum(size(d.ops[at]) for at in order if at in leaves) / 2
