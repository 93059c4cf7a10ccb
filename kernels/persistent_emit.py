"""Statements of a persistent kernel: blocks [units, lanes] for ops, products with weights on the chip.

Names in generated source: `u64` the units of a value of 64 units that this program computes, [units, 1];
`k64` those of a source that it multiplies, [1, units]; `m64` which pairs of unit and lane there are; `o_row`
the row of a step and lane; `w_` a matrix on the chip; `in_` what was loaded a step ahead; the rest are values
of the graph, adjoints with `d_`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kernels.codegen import Op, expression, number
from kernels.persistent_cell import ROWS, Cell, Saved, Weight
from kernels.persistent_layout import Layout

if TYPE_CHECKING:
    from kernels.persistent_exchange import Exchange

OWN = re.compile(
    r"(p|o|m|i|in|w|s|sum|rest|init|keep|x|part|lost|far|back|mean|rstd|most|share|whole)_|([ukm]|key)\d+$"
)
TAKEN = {
    "T", "B", "BB", "COMPUTE", "PRECISION", "GROUPS", "t", "s", "seed", "arrive", "wait", "row_sum",
    "row_max", "row_exp", "moments", "exponents", "add_exactly", "random_bits", "drop_mask",
    "zoneout_mask", "renewal_mask", "gates_2", "gates_4", "gates_8", "spread", "polls", "wait_up_to",
}  # fmt: skip
PRODUCTS = ("full", "full_t", "block", "block_t")
MOVES = ("slice", "pad", "concat")
STATISTICS = ("normalize", "softmax", "rowsum", "rstd")
NEAR = 4  # largest distance of a read that stays in registers


def free_names(names: Mapping[int, str]) -> dict[int, str]:
    """Names of values that no variable of a kernel has."""
    used, out = set(names.values()), dict[int, str]()
    for at, name in names.items():
        new = name
        while OWN.match(new) or new in TAKEN or (new != name and new in used):
            new = f"v_{new}"
        used.add(new)
        out[at] = new
    return out


class _Sum(NamedTuple):
    """A sum as `expression` takes it."""

    args: tuple[int, ...]
    coefs: tuple[float, ...]
    value: float
    kind: str = "sum"
    name: str = ""
    shift: int = 0
    lo: int = 0


class Emitter:
    """Collects the parts of one kernel. `text` holds the name of each value that is there."""

    def __init__(self, cell: Cell, ops: Sequence[Op], layout: Layout, names: Mapping[int, str]):
        self.cell, self.ops, self.layout, self.names = cell, ops, layout, names
        self.arguments: list[str] = []
        self.once: list[str] = []  # before all: weights
        self.before: list[str] = []  # the loop
        self.takes: list[str] = []  # at the start of a step, of what was loaded ahead
        self.body: list[str] = []
        self.after: list[str] = []
        self.ahead: list[tuple[str, str]] = []  # name, what to load with {row} for o_row
        self.text: dict[int, str] = {}
        self.vector: set[int] = set()  # values [units, 1], the same for all lanes, and numbers
        self.sizes: dict[str, None] = {}
        self.masks: list[str] = []  # random ones
        self.kept: set[int] = set()  # values that are wanted for themselves
        self.uses: dict[int, int] = {}
        self.rows: set[tuple[str, int]] = set()  # statistics that were loaded
        self.exchange: Exchange

    # Names of blocks ----------------------------------------------------------------------------------

    def argument(self, name: str) -> str:
        """An argument of the kernel."""
        if name not in self.arguments:
            self.arguments.append(name)
        return name

    def units(self, size: int) -> str:
        """Units that this program computes of a value of `size`, [units, 1]."""
        self.sizes[f"u{size}"] = None
        return f"u{size}"

    def sources(self, size: int) -> str:
        """All units of a value of `size`, [1, units]."""
        self.sizes[f"k{size}"] = None
        return f"k{size}"

    def mask(self, size: int) -> str:
        """Which pairs of unit and lane there are, [units, lanes]."""
        if self.exact(size):
            return "m_lane"
        self.sizes[f"m{size}"] = None
        return f"m{size}"

    def exact(self, size: int) -> bool:
        """Whether a block has just the units there are."""
        return self.layout.units(size) * self.layout.programs == size or size == 1

    def ranges(self, kinds: str) -> list[str]:
        """Lines that make the units (u, k) or masks (m) that were used."""
        out = []
        for size in sorted({int(name[1:]) for name in self.sizes}):
            used = {name[0] for name in self.sizes if name[1:] == str(size)}
            block = self.layout.units(size)
            first = f"i_part * {block} + " if self.layout.programs > 1 and size > 1 else ""
            if "u" in kinds and used & {"u", "m"}:
                out.append(f"u{size} = {first}tl.arange(0, {block})[:, None]")
            if "k" in kinds and "k" in used:
                out.append(f"k{size} = tl.arange(0, {block})[None, :]")
            if "m" in kinds and "m" in used:
                out.append(f"m{size} = (u{size} < {size}) & m_lane")
        return out

    def near(self, op: Op) -> bool:
        """Whether a read at another step stays in registers. A single unit does always where many programs
        have it: only one of them stores it.
        """
        return abs(op.shift) <= NEAR or (op.size == 1 and self.layout.programs > 1)

    # Memory -------------------------------------------------------------------------------------------

    def row(self, pointer: str, stride: str | int, size: int, row: str = "o_row", column: int = 0) -> str:
        """Pointers to the units of this program in a row of [rows, B, stride]."""
        start = f" + {column}" if column else ""
        return f"{pointer} + ({row}) * {stride}{start} + {self.units(size)}"

    def matrix(self, w: Weight, row: str, column: str, masks: Sequence[str]) -> str:
        """A load of the elements of a matrix at texts `row` and `column`, where all `masks` say so."""
        if w.blocks > 1:  # what is not in a diagonal block is 0 and stands nowhere
            high, wide = w.rows // w.blocks, w.cols // w.blocks
            masks = [*masks, f"({row} // {high} == {column} // {wide})"]
            place = f"({row}) * {wide} + {column} % {wide}"
        else:
            place = f"({w.lo} + {row}) * {w.cols} + {column}"
        mask = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
        return f"tl.load({self.argument(f'p_w{w.tensor}')} + {place}{mask})"

    def fetch(self, at: int, pointers: str, size: int) -> None:
        """Have value `at` loaded a step ahead from `pointers`, where {row} stands for the row of the step."""
        name = f"in_{self.names[at]}"
        self.ahead.append((name, f"tl.load({pointers}, mask={self.mask(size)}, other=0.0)"))
        self.takes.append(f"{self.names[at]} = {name}.to(COMPUTE)  # [{self.layout.units(size)}, BB]")
        self.text[at] = self.names[at]

    def fetch_rows(self, saved: Saved, ops: Iterable[Op]) -> None:
        """Have kept statistics that make `ops` loaded a step ahead."""
        wanted = {(name, op.args[0]) for op in ops if op.kind in ROWS for name in ROWS[op.kind]}
        for column, (name, at) in enumerate(saved.rows):
            if (name, at) not in wanted:
                continue
            pointers = self.row(self.argument("p_rows"), len(saved.rows), 1, "{row}", column)
            known = self.row_name(name, at)
            self.ahead.append((f"in_{known}", f"tl.load({pointers}, mask=m_lane, other=0.0)"))
            self.takes.append(f"{known} = in_{known}.to(COMPUTE)  # [1, BB]")
            self.rows.add((name, at))

    def row_name(self, name: str, at: int) -> str:
        """Name of a statistic (see `ROWS`) over the units of value `at`."""
        return f"{name}_{self.names[at]}"

    def store_row(self, saved: Saved, column: int) -> str:
        """The statement that stores a statistic for the backward."""
        pointers = self.row(self.argument("p_rows"), len(saved.rows), 1, "o_row", column)
        return self.store_text(pointers, self.row_name(*saved.rows[column]), 1)

    def store(self, pointers: str, at: int, size: int) -> str:
        """The statement that stores value `at`."""
        return self.store_text(pointers, self.block(at), size)

    def store_text(self, pointers: str, value: str, size: int) -> str:
        """The statement that stores a block in the type of the tensor."""
        pointer = pointers.split(" ")[0]
        mask = self.mask(size) if size > 1 or self.layout.programs == 1 else "m_first"
        return f"tl.store({pointers}, {value}.to({pointer}.dtype.element_ty), mask={mask})"

    def block(self, at: int) -> str:
        """The value as a block over lanes, whatever it was."""
        if at not in self.vector:
            return self.text[at]
        return f"tl.broadcast_to({self._tensor(at)}, [{self.layout.units(self.ops[at].size)}, BB])"

    def _tensor(self, at: int) -> str:
        op = self.ops[at]
        return f"tl.full([1, 1], {self.text[at]}, COMPUTE)" if op.kind == "const" else self.text[at]

    # Ops ----------------------------------------------------------------------------------------------

    def emit(self, order: Iterable[int]) -> None:
        """Statements for ops in order; those that have a text are there already."""
        order = [at for at in order if at not in self.text]
        chained = self._chained(order)
        for at in order:
            op = self.ops[at]
            if at in chained:
                continue  # a statement of the sum that takes it in
            if op.kind == "const":
                self.text[at] = number(op.value)
                self.vector.add(at)
                continue
            if op.kind == "random":
                self.body.append(f"{self.names[at]} = {self.random(op)}  # {op.name.partition(':')[0]}")
            elif op.kind in PRODUCTS:
                self.exchange.add_products(self.names[at], [at], None)
            elif op.kind == "sum" and not chained.isdisjoint(op.args):
                self._chain(at, op, chained)
            else:
                if op.args and self.vector.issuperset(op.args):
                    self.vector.add(at)
                self.body.append(f"{self.names[at]} = {self.value(op)}")
            self.text[at] = self.names[at]

    def count(self, order: Iterable[int]) -> None:
        """Note how often each value is read by ops of `order`."""
        for at in order:
            for a in self.ops[at].args if at not in self.text else ():
                self.uses[a] = self.uses.get(a, 0) + 1

    def _chained(self, order: Sequence[int]) -> set[int]:
        """Products that one sum alone takes in, as they are."""
        here, found = set(order), set[int]()
        for at in order:
            op = self.ops[at]
            if op.kind == "sum":
                found |= {
                    a
                    for a, coef in zip(op.args, op.coefs, strict=True)
                    if coef == 1.0 and self.ops[a].kind in PRODUCTS and a in here
                }
        return {at for at in found if self.uses[at] == 1 and at not in self.kept}

    def _chain(self, at: int, op: Op, chained: set[int]) -> None:
        """A sum that products are added to, one after the other."""
        rest = [(a, c) for a, c in zip(op.args, op.coefs, strict=True) if a not in chained]
        name, start = self.names[at], None
        if rest or op.value:
            args, coefs = tuple(a for a, _ in rest), tuple(c for _, c in rest)
            start = expression(_Sum(args, coefs, op.value), [self.text[a] for a in args], self.cell.forms)
            if all(a in self.vector or self.ops[a].size < op.size for a in args):
                start = f"tl.zeros([{self.layout.units(op.size)}, BB], COMPUTE) + {start}"
            self.body.append(f"{name} = {start}")
            start = name
        self.exchange.add_products(name, [a for a in op.args if a in chained], start)

    def value(self, op: Op) -> str:
        """The text of one op."""
        if op.kind in MOVES:
            return self.exchange.move(op)
        if op.kind in STATISTICS:
            return self.exchange.statistic(op)
        if op.kind == "expand":
            return f"tl.broadcast_to({self.block(op.args[0])}, [{self.layout.units(op.size)}, BB])"
        return expression(op, [self.text[a] for a in op.args], self.cell.forms)

    def random(self, op: Op) -> str:
        """A random mask, drawn again wherever it is needed (see `random.py`)."""
        if op.name not in self.masks:
            self.masks.append(op.name)
        counter = f"o_row * {op.size} + {self.units(op.size)}"
        bits = f"random_bits(seed, key{self.masks.index(op.name)}, {counter})"
        scale = f", {number(1.0 / (1.0 - op.value))}" if op.lo == 0 else ""
        form = ("drop_mask", "zoneout_mask", "renewal_mask")[op.lo]
        return f"{form}({bits}, {int(op.value * 2**32)}{scale}, COMPUTE)"
