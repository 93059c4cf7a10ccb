"""Layouts that may be measured on a GPU, and whether one that was measured fits another. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from kernels.persistent_backward import backward_text
from kernels.persistent_cell import Cell, Derivative, saved_values
from kernels.persistent_choice import (
    LOADED,
    OVERHEAD,
    REGISTERS,
    UNITS,
    Room,
    alive,
    many_programs,
    one_program,
)
from kernels.persistent_forward import forward_text
from kernels.persistent_layout import Layout
from kernels.tuning import malformed

LANES = (8, 16, 32, 64)


def misfit(cell: Cell, d: Derivative, layout: Layout, room: Room) -> str:
    """Why a layout cannot run where there is such room, or "": one that would wait for programs that never
    start, or whose matrices do not fit, is never launched.
    """
    if wrong := malformed(layout):
        return wrong
    size = max(op.size for op in cell.ops)
    if layout.programs == 1:
        return _misfit_of_one(cell, layout, room)
    if -(-size // layout.units(size)) != layout.programs:
        return f"{size} units do not go over {layout.programs} programs, {layout.units(size)} each"
    grid = layout.programs * layout.groups
    if grid > room.programs:
        return (
            f"{layout.programs} programs for each of {layout.groups} tiles; there is room for {room.programs}"
        )
    if room.numbers is None:
        return ""
    need = numbers_of(cell, d, layout)
    if need > room.numbers:
        return f"matrices and sources of {need} numbers in a program that has room for {room.numbers}"
    return ""


def _misfit_of_one(cell: Cell, layout: Layout, room: Room) -> str:
    sizes = {op.name: (op.size, cell.ops[op.args[0]].size) for op in cell.ops if op.kind in ("full", "block")}
    need = sum(layout.units(rows) * layout.units(cols) for rows, cols in sizes.values())
    if room.numbers is not None and need > room.numbers:
        return f"matrices of {need} numbers in a program that has room for {room.numbers}"
    return ""


def numbers_of(cell: Cell, d: Derivative, layout: Layout) -> int:
    """Numbers of matrices and sources that one of many programs holds, forward or backward."""
    saved = saved_values(cell, d, many=True)
    kernels = (
        forward_text(cell, layout, saved, False),
        backward_text(cell, d, layout.backward(), saved, False),
    )
    return max(k.numbers + k.under_way for k in kernels)


def candidates(cell: Cell, d: Derivative, room: Room, lanes: int, streamed: bool = False) -> Iterator[Layout]:
    """Layouts worth measuring for so many lanes, what the model would take first: other tiles of lanes, more
    or fewer units in a program. All of them fit.
    """
    yield from _fitting(cell, d, room, _first(cell, d, room, lanes, streamed))


def variants(cell: Cell, d: Derivative, room: Room, layout: Layout, what: str) -> Iterator[Layout]:
    """A layout with other `warps`, of the backward too, or with other numbers of sources `loaded`."""
    if what == "warps":
        others = [replace(layout, warps=w, back_warps=b, back_splits=b) for w in (4, 8) for b in (4, 8)]
    else:
        others = [replace(layout, loaded=n) for n in LOADED if n <= room.loaded]
    yield from _fitting(cell, d, room, others)


def _fitting(cell: Cell, d: Derivative, room: Room, layouts: Iterable[Layout]) -> Iterator[Layout]:
    seen: set[Layout] = set()
    for layout in layouts:
        if layout not in seen and not misfit(cell, d, layout, room):
            seen.add(layout)
            yield layout


def _first(cell: Cell, d: Derivative, room: Room, lanes: int, streamed: bool) -> Iterator[Layout]:
    size, resident = max(op.size for op in cell.ops), 0 if streamed else Layout().resident
    many = many_programs(cell, d, room, streamed)
    one = one_program(cell, d, room)
    if one.fits and not streamed:
        yield one.layout
    if many is not None and (many.fits or streamed):
        yield replace(many.layout.at(lanes), wide=())
    saved = saved_values(cell, d, many=True)
    for tile in _tiles(lanes):
        if one.fits and not streamed:
            yield replace(one.layout, lanes=tile)
        for units in UNITS:
            programs = -(-size // units)
            if programs < 2 or programs > room.programs:
                continue
            groups = max(1, room.programs // programs)
            layout = Layout(
                programs, tile, splits=4, whole=room.whole, groups=groups, loaded=room.loaded,
                resident=resident,
            )  # fmt: skip
            if OVERHEAD * alive(cell, d, saved, layout) * tile / (32 * layout.warps) <= REGISTERS:
                yield layout


def _tiles(lanes: int) -> list[int]:
    """Tiles for so many lanes: none that is more than half empty."""
    return [n for n in LANES if n < 2 * lanes] or [LANES[0]]
