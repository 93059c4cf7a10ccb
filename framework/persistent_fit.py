"""What the persistent kernels can take on a machine, and how it is spread over programs. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from framework.component import Component
from framework.machine import Machine

if TYPE_CHECKING:
    from kernels.persistent_choice import Choice, Room
    from kernels.persistent_layout import Layout

# Shared memory beside weights and what they are multiplied with: layouts on their way to another.
SPARE = 14 << 10
FAR = 32  # steps back that a value of one unit may be read
# On AMD matrices stay in registers, of which four waves have 512 KB; half of them are for everything else.
AMD_BYTES = 256 << 10


def bytes_of(machine: Machine) -> int:
    """Of one number of a matrix on the chip: float32 is in two parts on NVIDIA, for its tensor cores."""
    return machine.itemsize * (2 if machine.dtype == "fp32" and machine.chip != "gfx9" else 1)


def room(machine: Machine) -> Room:
    """What a GPU has for one program and for all."""
    from kernels.persistent_choice import LOADED, REGISTERS, SHAPES, Room

    there = AMD_BYTES if machine.chip == "gfx9" else machine.shared - SPARE
    # With more under way, loops of 1024 units spilled on sm_100 (docs/kernels.md).
    loaded = 64 if machine.chip == "sm_100" else LOADED[0]
    # What spilled in one program: products of float32 in three parts keep as many registers again (gru of 64
    # units on sm_80, rhn on sm_90). AMD's waves have 64 threads of 512 registers, which took up to 489 by our
    # count (lstm_peephole of 128 units) and not 707 (nas); 8 waves have half as many each, and every number
    # twice (rhn, nas, mlstm of 64 spilled). Its tensor cores take 16 lanes.
    registers = 500 if machine.chip == "gfx9" else REGISTERS
    shapes = SHAPES[:1] if machine.chip == "gfx9" else SHAPES
    numbers = there // bytes_of(machine)
    if bytes_of(machine) < 8:
        return Room(numbers, machine.units, loaded, registers, shapes)
    if machine.chip != "sm_100":
        return Room(numbers, machine.units, loaded, 100, shapes)
    # There the three parts of a whole product of float32 come from registers, matrices included, through
    # tensor memory: lstm of 64 units spilled with 16 lanes (83 by our count), mlstm and rhn with 8, lstm of
    # 128 over many programs. Products in splits have their matrices in shared memory.
    return Room(numbers, machine.units, loaded, 80, shapes, alone=4 * 64 * 64, whole=1 << 30)


def fit(c: Component, machine: Machine) -> Choice | str:
    """The best layout for a loop that `structure` has nothing against, or why there is none."""
    from framework.persistent import cell_of, derivative_of
    from kernels.persistent_choice import Room, choose_layout

    cell, d = cell_of(c, True), derivative_of(c)
    if machine.device != "cuda":
        return choose_layout(cell, d, Room())
    try:
        return choose_layout(cell, d, room(machine))
    except ValueError as e:
        return f"it is too large: {e}"


def structure(c: Component, machine: Machine) -> str:
    """Why no kernel of this kind can run the loop on a machine, or ""."""
    if not c.states:
        return "nothing in it reads another step"
    if any(op.kind in ("gather", "index") for op in c.cell):
        return "it looks rows up inside the loop"
    if machine.device != "cuda":
        return ""
    far = max((abs(op.shift) for op in c.cell if op.kind == "shift" and op.size == 1), default=0)
    if far > FAR:  # many programs keep all steps between in registers
        return f"it reads a value of one unit {far} steps back, over {FAR}"
    return "float64 has no fast products" if machine.dtype == "fp64" else ""


def refuses(c: Component, machine: Machine) -> str:
    """Why weights cannot all stay on the chip, or ""."""
    reason = structure(c, machine)
    if reason:
        return reason
    found = fit(c, machine)
    if isinstance(found, str):
        return found
    if not found.fits:
        numbers = room(machine).numbers
        need, there = found.numbers * bytes_of(machine), (numbers or 0) * bytes_of(machine)
        sizes = f"{need >> 10} KB in each of {found.layout.programs} programs, there are {there >> 10} KB"
        return f"weights and what they are multiplied with take {sizes}"
    return ""


def refuses_streamed(c: Component, machine: Machine) -> str:
    """Why weights cannot come from L2 at every step, or ""."""
    reason = structure(c, machine)
    if reason:
        return reason
    if machine.device != "cuda":
        return "its programs wait for each other, which only a GPU's can"
    found = fit(c, machine)
    return found if isinstance(found, str) else ""


def layout_of(c: Component, machine: Machine, streamed: bool = False) -> Layout:
    """The layout of a loop that was not refused, with those that were measured on this GPU. streamed: weights
    come from L2, as many as do not fit; all of them where all would. Raises ConfigError for a broken file of
    measurements.
    """
    from framework.persistent import cell_of, derivative_of
    from kernels.persistent_choice import many_programs

    found = fit(c, machine)
    assert not isinstance(found, str), found
    layout = found.layout
    if streamed and found.fits:
        many = many_programs(cell_of(c, True), derivative_of(c), room(machine), streamed=True)
        layout = layout if many is None else many.layout
    return replace(layout, tuned=tuned(c, machine, streamed)[0])


def side_by_side(layouts: Sequence[Layout], lanes: int, machine: Machine) -> tuple[Layout, ...] | str:
    """How loops are spread in one launch with so many lanes, or why they cannot share one."""
    from kernels.persistent_choice import Room
    from kernels.persistent_joint_choice import side_by_side

    room = machine.units if machine.device == "cuda" else Room().programs
    return side_by_side(layouts, lanes, room)


def tuned(
    c: Component, machine: Machine, streamed: bool = False
) -> tuple[tuple[tuple[int, Layout], ...], tuple[str, ...]]:
    """(most lanes, layout) as measured on this GPU, fewest first; and of those that do not fit it, why.

    Raises ConfigError for a broken file of measurements.
    """
    from framework.persistent import cell_of, derivative_of
    from framework.tuning import active
    from kernels.persistent_tuned import misfit
    from kernels.tuning import LOOP_TABLE, cell_key

    if machine.device != "cuda" or not (active().loops or LOOP_TABLE):
        return (), ()
    cell, d, here = cell_of(c, True), derivative_of(c), room(machine)
    rows = active().layouts(machine.name, machine.chip, cell_key(cell), machine.dtype, streamed)
    wrong = {lanes: misfit(cell, d, layout, here) for lanes, layout in rows.items()}
    taken = tuple((lanes, layout) for lanes, layout in rows.items() if not wrong[lanes])
    return taken, tuple(f"that measured for {n} lanes: {why}" for n, why in wrong.items() if why)


def describe(c: Component, machine: Machine, streamed: bool = False) -> str:
    """The layout in words, for plans."""
    layout = layout_of(c, machine, streamed)
    _, refused = tuned(c, machine, streamed)
    more = "".join(
        [f"; up to {n} lanes as measured: {_words(x, machine, streamed)}" for n, x in layout.tuned]
        + [f"; not {why}" for why in refused]
    )
    return _words(layout, machine, streamed) + more


def _words(layout: Layout, machine: Machine, streamed: bool) -> str:
    if layout.programs == 1:
        return f"one program, {layout.lanes} lanes"
    kept = f", {layout.resident * bytes_of(machine) >> 10} KB of weights in each" if streamed else ""
    return f"{layout.programs} programs, {layout.lanes} lanes{kept}"


def describe_streamed(c: Component, machine: Machine) -> str:
    """As `describe`, with weights that come from L2 at every step."""
    return describe(c, machine, streamed=True)
