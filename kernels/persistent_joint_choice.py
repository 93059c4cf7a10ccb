"""Which loops go into one launch, for so many lanes, and how each is then spread. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kernels.persistent_layout import Layout


def side_by_side(layouts: Sequence[Layout], lanes: int, programs: int) -> tuple[Layout, ...] | str:
    """Layouts of loops that run in one launch on a chip with room for so many programs, or why they cannot.

    Loops over many programs share the room: all of them must be there at once. They go together only if that
    takes no more rounds of tiles than one loop after the other.
    """
    alone = [layout.at(lanes) for layout in layouts]
    if _different(alone):
        return _different(alone)
    if alone[0].programs == 1:
        return tuple(alone)  # nobody waits: those that do not fit come later
    whole = sum(layout.programs for layout in alone)
    tiles = programs // whole
    if not tiles:
        return f"{' + '.join(str(x.programs) for x in alone)} programs, there is room for {programs}"
    shared = [_limited(layout, tiles).at(lanes) for layout in layouts]
    if max(_rounds(x, lanes) for x in shared) > sum(_rounds(x, lanes) for x in alone):
        return f"{lanes} lanes take fewer rounds one loop after the other"
    return tuple(shared)


def _different(layouts: Sequence[Layout]) -> str:
    """Why one launch cannot have these layouts whatever room there is, or ""."""
    if len({layout.programs > 1 for layout in layouts}) > 1:
        return "one takes a single program, another many"
    warps = [f"{x.warps} + {x.backward().warps}" for x in layouts]
    return f"forward + backward take {' and '.join(warps)} warps" if len(set(warps)) > 1 else ""


def _limited(layout: Layout, tiles: int) -> Layout:
    """With at most so many tiles at the same time."""
    tuned = tuple((lanes, _limited(x, tiles)) for lanes, x in layout.tuned)
    return replace(layout, groups=min(layout.groups, tiles), tuned=tuned)


def _rounds(layout: Layout, lanes: int) -> int:
    """Tiles that a program takes one after the other."""
    return -(-lanes // (layout.lanes * layout.groups))
