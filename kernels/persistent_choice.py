"""Which layout a persistent loop gets: what fits a chip, and of that the one with the least to wait for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernels.codegen import Op
from kernels.persistent_backward import backward_text
from kernels.persistent_cell import LEAVES, Cell, Derivative, Saved, given_to, saved_values
from kernels.persistent_forward import forward_text
from kernels.persistent_layout import Layout
from kernels.persistent_source import Kernel

# Lanes and warps of one program, those with the fewest exchanges between warps first.
SHAPES = ((16, 4), (16, 8), (8, 8))
# Registers that a thread may need by our count, of 255: beyond, compiled kernels began to spill
# (docs/kernels.md: lstm_norm and nas of 128 units).
REGISTERS = 220
# What a compiled kernel took for each register of a value alive (lstm, lstm_peephole, gru of 128 units).
OVERHEAD = 1.3
# Units of one of many programs. Most of a step is waiting, so the fewer the better while programs are there.
UNITS = (16, 32, 64, 128)
WIDE = (32, 64)  # lanes of larger tiles, for many lanes
# For these our count must stay below what lstm_peephole has at 32 lanes and gru at 64: both spilled (sm_90).
WIDE_REGISTERS = 110
# Units of a block of a source that comes from L2 with its matrix, and the part of the room for those on their
# way: 64 KB in each of 132 programs are more than L2 delivers (5 TB/s) in the microsecond that one waits.
CHUNKS, STREAMING = (64, 32, 16), 0.5
LOADED = (128, 64, 32)  # numbers of sources that a thread has under way, see `Room`


@dataclass(frozen=True)
class Room:
    """What a chip has: `numbers` of matrices for one program (None: any), `programs` at the same time, and
    registers for `loaded` numbers of sources: the more are under way, the fewer times a step waits for L2.
    registers: that a thread of one program may need by our count; shapes: its lanes and warps; alone: numbers
    of its matrices (None: as many as there is room for). whole: see `Layout`.
    """

    numbers: int | None = None
    programs: int = 1 << 30
    loaded: int = LOADED[0]
    registers: int = REGISTERS
    shapes: tuple[tuple[int, int], ...] = SHAPES
    alone: int | None = None
    whole: int = 64


@dataclass(frozen=True)
class Choice:
    """A layout, and how many `numbers` of matrices and their sources one program then has to hold; `fits`:
    there is room for all of them.
    """

    layout: Layout
    numbers: int
    fits: bool


def one_program(cell: Cell, d: Derivative, room: Room) -> Choice:
    """All units in one program: lanes and warps by what is alive at once in its backward."""
    saved = saved_values(cell, d)
    for lanes, warps in room.shapes:
        layout = Layout(lanes=lanes, warps=warps)
        registers = OVERHEAD * alive(cell, d, saved, layout) * lanes / (32 * warps)
        if registers <= room.registers:
            break
    sizes = {op.name: (op.size, cell.ops[op.args[0]].size) for op in cell.ops if op.kind in ("full", "block")}
    numbers = sum(layout.units(rows) * layout.units(cols) for rows, cols in sizes.values())
    there = room.numbers if room.alone is None else room.alone
    return Choice(layout, numbers, there is None or (numbers <= there and registers <= room.registers))


def many_programs(cell: Cell, d: Derivative, room: Room, streamed: bool = False) -> Choice | None:
    """As many programs as there are blocks of units, the smallest blocks first; None: not even the largest.

    Matrices share the room with the sources that are under way. streamed: all come from L2, also those that
    there would be room for.
    """
    saved, size = saved_values(cell, d, many=True), max(op.size for op in cell.ops)
    best: Choice | None = None
    for units in UNITS:
        programs = -(-size // units)
        if programs < 2 or programs > room.programs:
            continue
        for loaded in (n for n in LOADED if n <= room.loaded):
            groups = max(1, room.programs // programs)
            layout = Layout(programs, groups=groups, splits=4, whole=room.whole, loaded=loaded)
            numbers = max(k.numbers + k.under_way for k in both(cell, d, saved, layout))
            if not streamed and (room.numbers is None or numbers <= room.numbers):
                return Choice(replace(layout, wide=wide_tiles(cell, d, saved, layout, room)), numbers, True)
            if best is None or numbers < best.numbers:
                best = Choice(layout, numbers, False)
    if best is None:
        return None
    return replace(best, layout=from_l2(cell, d, saved, best.layout, 0 if streamed else None, room.numbers))


def both(cell: Cell, d: Derivative, saved: Saved, layout: Layout) -> tuple[Kernel, Kernel]:
    """Forward and backward."""
    turned = layout.backward()
    return forward_text(cell, layout, saved, False), backward_text(cell, d, turned, saved, False)


def from_l2(
    cell: Cell, d: Derivative, saved: Saved, layout: Layout, resident: int | None, there: int | None
) -> Layout:
    """The layout with `resident` numbers of matrices on the chip, else with as many as there is room for
    beside what is on its way from L2, for which blocks are made small enough.
    """
    for chunk in CHUNKS:
        layout = replace(layout, chunk=chunk, resident=0)
        staged = max(k.under_way for k in both(cell, d, saved, layout))
        if there is None or staged <= STREAMING * there:
            break
    return replace(layout, resident=max(0, (there or 0) - staged) if resident is None else resident)


def wide_tiles(cell: Cell, d: Derivative, saved: Saved, layout: Layout, room: Room) -> tuple[int, ...]:
    """Tiles of more lanes for which there are registers and room."""
    out = []
    for lanes in WIDE:
        wide = replace(layout, wide=(lanes,), groups=1).at(lanes)
        numbers = max(k.numbers + k.under_way for k in both(cell, d, saved, wide))
        registers = OVERHEAD * alive(cell, d, saved, wide) * lanes / (32 * wide.warps)
        if registers > WIDE_REGISTERS or (room.numbers is not None and numbers > room.numbers):
            break
        out.append(lanes)
    return tuple(out)


def choose_layout(cell: Cell, d: Derivative, room: Room) -> Choice:
    """One program where everything fits into it; else many. Raises ValueError where neither can be."""
    one = one_program(cell, d, room)
    if one.fits:
        return one
    many = many_programs(cell, d, room)
    if many is None:
        raise ValueError(f"{max(op.size for op in cell.ops)} units over {room.programs} programs")
    return many


def alive(cell: Cell, d: Derivative, saved: Saved, layout: Layout) -> float:
    """The most numbers of a lane that are there at once in a step of the backward, in registers of 4 bytes.

    What is loaded a step ahead is there twice, once in the type of the tensors (counted as half).
    """
    order = given_to(cell, d, saved)
    place = {at: i for i, at in enumerate(order)}
    leaves = {at for at, op in enumerate(d.ops) if op.kind in LEAVES} | set(cell.stored)
    leaves |= {*saved.columns, *saved.extra, *(at for at in order if saved.known(d.ops[at]))}
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
