"""Source of the persistent kernels: all steps of a loop in one launch, weights and state on the chip.

A kernel is written for one loop as a whole, because what it holds (how many matrices, states, exchanges of
which sizes) is what makes one cell differ from another. Statements come from `persistent_emit.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kernels.codegen import without_path
from kernels.persistent_cell import Cell
from kernels.persistent_emit import Emitter
from kernels.persistent_exchange import Exchange, Place
from kernels.persistent_memory import AHEAD, ThroughMemory
from kernels.persistent_onchip import OnChip

HEADER = """\
import triton
import triton.language as tl

from kernels.activations import relu, sigmoid, tanh  # noqa: F401
from kernels.barrier import arrive, wait  # noqa: F401
from kernels.random import drop_mask, random_bits, renewal_mask, zoneout_mask  # noqa: F401
from kernels.rows import (  # noqa: F401
    add_exactly, exponents, gates_2, gates_4, gates_8, moments, part_mean, part_moment, row_exp, row_max,
    row_sum, spread, whole_exponents, whole_moments,
)
"""

CONSTANTS = ("BB", "COMPUTE", "PRECISION")


@dataclass(frozen=True)
class Kernel:
    """`text`: source of a function `name` with tensors `arguments`, then `scalars`: strides `s_*`, T, B and
    others, constants last.

    Tensors by the first part of their name: p_pre, p_d_pre; p_ext<number>, p_d_ext<number>; p_par<i>: the
    i-th of `par`; p_w<number>; p_keep<distance>; p_init<state>; and with the place of an op in the list:
    p_node, p_extra (saved), p_grad (of an output), p_edge and p_far (of a read), p_factor (of a weight
    gradient), p_x (exchanged between programs: `exchanged` has the op, its size and whether it is more than a
    factor of a product). p_sums<size> [tiles, sums, 2, size]: `sums` has the name (d_par<i>, the i-th of
    `d_par`, or lost<read>), size and number of each, equal ones the same; of each pair the first is the sum,
    the second what rounding took. p_stat: `statistics` rows; p_rows: `Saved.rows`; p_counter: of barriers.
    keys: of random masks, arguments key<i> behind the seed. numbers: of matrices on the chip, in each of many
    programs; under_way: of sources at the same time.
    """

    name: str
    text: str
    arguments: tuple[str, ...]
    scalars: tuple[str, ...] = ()
    par: tuple[str, ...] = ()
    d_par: tuple[str, ...] = ()
    sums: tuple[tuple[str, int, int], ...] = ()
    factors: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()
    exchanged: tuple[tuple[int, int, bool], ...] = ()
    statistics: int = 0
    numbers: int = 0
    under_way: int = 0


class Step:
    """What forward and backward have in common; lives while one kernel is written."""

    def __init__(self, cell: Cell, e: Emitter, masked: bool, backward: bool):
        self.cell, self.e, self.masked, self.backward = cell, e, masked, backward
        self.ops, self.names = e.ops, e.names

    def outside(self, order: Iterable[int]) -> tuple[str, ...]:
        """Have hoisted values and vector weights loaded; the names of the weights."""
        e, par = self.e, []
        for at in order:
            op = self.ops[at]
            if op.kind == "pre":
                p = e.argument("p_pre")
                e.fetch(at, e.row(p, self.cell.width, op.size, "{row}", self.cell.columns[at]), op.size)
            elif op.kind in ("ext", "grad"):
                name, unit = f"{op.kind}{op.lo}", e.units(op.size)
                p = e.argument(f"p_{name}")
                e.fetch(at, f"{p} + {{row}} * s_{name} + {unit} * s_unit_{name}", op.size)
            elif op.kind == "param":
                p, unit = e.argument(f"p_par{len(par)}"), e.units(op.size)
                par.append(op.name)
                mask = "" if e.exact(op.size) else f", mask={unit} < {op.size}, other=0.0"
                shape = f"[{e.layout.units(op.size)}, 1]"
                line = f"{self.names[at]} = tl.load({p} + {unit}{mask}).to(COMPUTE)  # {shape} {op.name}"
                e.once.append(line)
                e.text[at] = self.names[at]
                e.vector.add(at)
        return tuple(par)

    def outer(self, at: int) -> Place | None:
        """Where a value from outside is, or an outer gradient."""
        op = self.ops[at]
        if op.kind == "pre":
            return Place(self.e.argument("p_pre"), "o_row", self.cell.width, self.cell.columns[at])
        if op.kind in ("ext", "grad"):
            name = f"{op.kind}{op.lo}"
            return Place(self.e.argument(f"p_{name}"), "o_row", f"s_{name}", 0, f" * s_unit_{name}")
        return None

    def keep(self, distance: int) -> str:
        """Whether a read of that distance stays in its sequence, [1, lanes]."""
        p = self.e.argument(f"p_keep{distance}")
        name = f"in_keep{distance}"
        if all(known != name for known, _ in self.e.ahead):
            self.e.ahead.append((name, f"tl.load({p} + {{row}}, mask=m_lane, other=0)"))
            self.e.takes.append(f"keep_{distance} = {name} != 0")
        return f"keep_{distance}"

    def initial(self, node: str) -> str:
        """The value of a node before its first step, [units, 1]."""
        number, size = list(self.cell.states).index(node), self.ops[self.cell.roots[node]].size
        p, unit, name = self.e.argument(f"p_init{number}"), self.e.units(size), f"init_{number}"
        mask = "" if self.e.exact(size) else f", mask={unit} < {size}, other=0.0"
        line = f"{name} = tl.load({p} + {unit}{mask}).to(COMPUTE)  # {node}"
        if line not in self.e.once:
            self.e.once.append(line)
        return name

    def place(self, at: int, shift: int = 0, row: str = "o_row") -> Place:
        """Where stored op `at` is, `shift` steps from those of `row`."""
        p = self.e.argument(f"p_node{at}")
        away = self.cell.front + shift
        return Place(p, f"{row} + {away} * B" if away else row, self.ops[at].size)

    def node(self, at: int, shift: int, row: str = "o_row") -> str:
        """Pointers to stored op `at`, `shift` steps from those of `row`."""
        return self.place(at, shift, row).at(self.e.units(self.ops[at].size))

    def exchange(self, ready: Callable[[int], Place | None], stores: Sequence[tuple[int, Place]]) -> Exchange:
        """Through memory, if there are many programs (see `ThroughMemory`)."""
        e = self.e
        if e.layout.programs == 1:
            return OnChip(e)
        return ThroughMemory(e, ready, dict(stores), self.cut, not self.backward)

    def cut(self, at: int, value: str, units: str, mask: str, deep: bool) -> str:
        """A read of any units, or their initial values where it has left its sequence."""
        op = self.ops[at]
        if op.kind != "shift" or not self.masked:
            return value
        state = list(self.cell.states).index(op.name)
        p = self.e.argument(f"p_init{state}")
        initial = f"tl.load({p} + {units}, mask={mask}, other=0.0)" if mask else f"tl.load({p} + {units})"
        keep = self.keep(abs(op.shift)) + ("[None, :, :]" if deep else "")
        kind = ".to(COMPUTE)" if value.endswith(".to(COMPUTE)") else ""
        return f"tl.where({keep}, {value}, {initial}{kind})"

    def emit(self, exchange: Exchange, order: Sequence[int], stores: Sequence[tuple[int, Place]]) -> None:
        """All ops, with what programs exchange between them; then what is still to be stored."""
        e = self.e
        e.exchange = exchange
        e.count(order)
        for level, part in enumerate(exchange.levels(order)):
            exchange.open(level)
            e.emit(part)
            exchange.close(level)
        done = exchange.stored
        for at, place in stores:
            if place not in done:
                e.body.append(e.store(place.at(e.units(self.ops[at].size)), at, self.ops[at].size))

    def within(self, at: int) -> None:
        """Put the initial value in place of a read (it has a text) that has left its sequence."""
        if self.masked:
            op, name = self.ops[at], self.names[at]
            kept = f"tl.where({self.keep(abs(op.shift))}, {self.e.text[at]}, {self.initial(op.name)})"
            self.e.body.append(f"{name} = {kept}  # {op.name}[t{op.shift:+d}]")
            self.e.text[at] = name

    def kernel(self, name: str, doc: str, **more: tuple[Any, ...]) -> Kernel:
        """The whole kernel."""
        e, ahead = self.e, self.e.ahead
        forward = self.cell.forward is not self.backward
        strides = [a[2:] for a in e.arguments if a.startswith(("p_ext", "p_grad"))]
        loop = [
            "t = s" if forward else "t = T - 1 - s",
            "o_row = tl.cast(t, tl.int64) * B + o_lane  # [1, BB]",
        ]
        loop += e.takes
        step: list[str] = []
        if ahead:
            after = "tl.minimum(s + 1, T - 1)" if forward else "tl.maximum(T - 2 - s, 0)"
            step = [f"o_next = tl.cast({after}, tl.int64) * B + o_lane"]
            step += [f"{name} = {load.format(row='o_next')}" for name, load in ahead]
        if AHEAD in e.body:  # behind the last arrival, before programs wait
            place = e.body.index(AHEAD)
            loop += [*e.body[:place], *step, *e.body[place + 1 :]]
        else:  # on their way while this step is computed
            loop += [*step, *e.body]
        first_row = "o_lane" if forward else "tl.cast(T - 1, tl.int64) * B + o_lane"
        tile = [
            "o_lane = tl.cast(i_tile, tl.int64) * BB + tl.arange(0, BB)[None, :]  # [1, BB]",
            "m_lane = o_lane < B",
            *(["m_first = o_lane < tl.where(i_part == 0, B, 0)"] if e.layout.programs > 1 else []),
            *e.ranges("m"),
            *e.before,
            *([f"o_row = {first_row}"] if ahead else []),
            *(f"{name} = {load.format(row='o_row')}" for name, load in ahead),
            "for s in tl.range(0, T, num_stages=1):",
            *(f"    {line}" for line in loop),
            *e.after,
        ]
        parts = e.layout.programs
        if parts > 1:
            lines = [
                f"i_part = tl.program_id(0) % {parts}",
                f"i_parts = tl.arange(0, {1 << (parts - 1).bit_length()})[:, None]",
                *e.ranges("uk"),
                *e.once,
                f"for i_tile in tl.range(tl.program_id(0) // {parts}, tl.cdiv(B, BB), GROUPS, num_stages=1):",
                *(["    p_bar = p_counter + i_tile * 32"] if "p_counter" in e.arguments else []),
                *(f"    {line}" for line in tile),
            ]
        else:
            lines = ["i_tile = tl.program_id(0)", *e.ranges("uk"), *e.once, *tile]
        lines = [f'"""{doc}"""', *lines]
        groups = ["GROUPS"] * (parts > 1)
        seeds = ["seed", *(f"key{i}" for i in range(len(e.masks)))] if e.masks else []
        scalars = [*(f"s_{name}" for name in strides), *(f"s_unit_{name}" for name in strides)]
        scalars += ["T", "B", *groups, *seeds, *CONSTANTS]
        arguments = ", ".join([*e.arguments, *(declared(name) for name in scalars)])
        loose = ", ".join(f'"{x}"' for x in ("T", "B", *groups, *seeds))
        head = f"@triton.jit(do_not_specialize=[{loose}])\ndef {name}(\n{wrapped(arguments)}\n):\n"
        text = without_path(head + "".join(f"    {line}\n" for line in lines), self.cell.roots)
        keys = tuple(self.cell.keys[name] for name in e.masks)
        exchanged, rows = e.exchange.exchanged, e.exchange.rows
        return Kernel(
            name, text, tuple(e.arguments), tuple(scalars), keys=keys, exchanged=exchanged, statistics=rows,
            numbers=e.exchange.numbers, under_way=e.exchange.under_way, **more,
        )  # fmt: skip


def declared(name: str) -> str:
    """A scalar in a list of arguments: constants and distances between units make the code another one."""
    return f"{name}: tl.constexpr" if name in CONSTANTS or name.startswith("s_unit_") else name


def wrapped(text: str) -> str:
    """Arguments on lines of readable length."""
    return textwrap.indent(textwrap.fill(text, 106, break_long_words=False, break_on_hyphens=False), "    ")


def module_text(kernels: Sequence[Kernel]) -> str:
    """A whole module."""
    return "\n\n".join([HEADER, *(k.text for k in kernels)])
