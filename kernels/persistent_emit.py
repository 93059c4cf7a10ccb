"""Statements of a persistent kernel: blocks [units, lanes] for ops, products with weights on the chip.

Names in generated source: `u64` the units of a value of 64 units that this program computes, [units, 1];
`k64` those of a source that it multiplies, [1, units]; `m64` which pairs of unit and lane there are; `o_row`
the row of a step and lane; `w_` a matrix on the chip; `in_` what was loaded a step ahead; the rest are values
of the graph, adjoints with `d_`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kernels.codegen import Op, expression, number
from kernels.persistent_cell import Cell, Weight
from kernels.persistent_layout import Layout

OWN = re.compile(r"(p|o|m|i|in|w|s|sum|rest|init|keep|x|part|lost|far|back)_|[ukm]\d+$")
TAKEN = {
    "T", "B", "BB", "COMPUTE", "PRECISION", "t", "s", "seed",
    "row_sum", "normalize", "rstd", "softmax", "add_exactly", "random_bits",
    "drop_mask", "zoneout_mask", "renewal_mask",
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
        self.before: list[str] = []  # the loop
        self.takes: list[str] = []  # at the start of a step, of what was loaded ahead
        self.body: list[str] = []
        self.after: list[str] = []
        self.ahead: list[tuple[str, str]] = []  # name, what to load with {row} for o_row
        self.text: dict[int, str] = {}
        self.vector: set[int] = set()  # values [units, 1], the same for all lanes, and numbers
        self.sizes: dict[str, None] = {}
        self.slabs: dict[tuple[str, bool], str] = {}
        self.wholes: dict[int, str] = {}
        self.draws = False  # random masks
        self.kept: set[int] = set()  # values that are wanted for themselves

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

    def ranges(self) -> list[str]:
        """Lines that make the units and masks that were used."""
        sizes = sorted({int(name[1:]) for name in self.sizes})
        out = []
        for size in sizes:
            block = self.layout.units(size)
            if f"u{size}" in self.sizes or f"m{size}" in self.sizes:
                out.append(f"u{size} = tl.arange(0, {block})[:, None]")
            if f"k{size}" in self.sizes:
                out.append(f"k{size} = tl.arange(0, {block})[None, :]")
            if f"m{size}" in self.sizes:
                out.append(f"m{size} = (u{size} < {size}) & m_lane")
        return out

    # Memory -------------------------------------------------------------------------------------------

    def row(self, pointer: str, stride: str | int, size: int, row: str = "o_row", column: int = 0) -> str:
        """Pointers to the units of this program in a row of [rows, B, stride]."""
        start = f" + {column}" if column else ""
        return f"{pointer} + ({row}) * {stride}{start} + {self.units(size)}"

    def fetch(self, at: int, pointers: str, size: int) -> None:
        """Have value `at` loaded a step ahead from `pointers`, where {row} stands for the row of the step."""
        name = f"in_{self.names[at]}"
        self.ahead.append((name, f"tl.load({pointers}, mask={self.mask(size)}, other=0.0)"))
        self.takes.append(f"{self.names[at]} = {name}.to(COMPUTE)  # [{self.layout.units(size)}, BB]")
        self.text[at] = self.names[at]

    def store(self, pointers: str, at: int, size: int) -> str:
        """The statement that stores value `at`."""
        return self.store_text(pointers, self.block(at), size)

    def store_text(self, pointers: str, value: str, size: int) -> str:
        """The statement that stores a block in the type of the tensor."""
        pointer = pointers.split(" ")[0]
        return f"tl.store({pointers}, {value}.to({pointer}.dtype.element_ty), mask={self.mask(size)})"

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
                self.body.append(f"{self.names[at]} = {self.random(op)}  # {op.name}")
            elif op.kind == "sum" and not chained.isdisjoint(op.args):
                self._chain(at, op, chained)
            else:
                if op.args and self.vector.issuperset(op.args) and op.kind not in PRODUCTS:
                    self.vector.add(at)
                self.body.append(f"{self.names[at]} = {self.value(op)}")
            self.text[at] = self.names[at]

    def _chained(self, order: Iterable[int]) -> set[int]:
        """Products that one sum alone takes in, as they are."""
        uses: dict[int, int] = {}
        found: set[int] = set()
        for at in order:
            op = self.ops[at]
            for i, a in enumerate(op.args):
                uses[a] = uses.get(a, 0) + 1
                if op.kind == "sum" and op.coefs[i] == 1.0 and self.ops[a].kind in PRODUCTS:
                    found.add(a)
        return {at for at in found if uses[at] == 1 and at not in self.kept and at not in self.text}

    def _chain(self, at: int, op: Op, chained: set[int]) -> None:
        """A sum that products are added to, one after the other."""
        rest = [(a, c) for a, c in zip(op.args, op.coefs, strict=True) if a not in chained]
        terms = [a for a in op.args if a in chained]
        name, start = self.names[at], None
        if rest or op.value:
            args, coefs = tuple(a for a, _ in rest), tuple(c for _, c in rest)
            start = expression(_Sum(args, coefs, op.value), [self.text[a] for a in args], self.cell.forms)
            if all(a in self.vector or self.ops[a].size < op.size for a in args):
                start = f"tl.zeros([{self.layout.units(op.size)}, BB], COMPUTE) + {start}"
            self.body.append(f"{name} = {start}")
            start = name
        for a in terms:
            self.body.append(f"{name} = {self.product(self.ops[a], start)}")
            start = name

    def value(self, op: Op) -> str:
        """The text of one op."""
        if op.kind in PRODUCTS:
            return self.product(op, None)
        if op.kind in MOVES:
            return self.move(op)
        if op.kind in STATISTICS:
            return self.statistic(op)
        if op.kind == "expand":
            return f"tl.broadcast_to({self.block(op.args[0])}, [{self.layout.units(op.size)}, BB])"
        return expression(op, [self.text[a] for a in op.args], self.cell.forms)

    def random(self, op: Op) -> str:
        """A random mask, drawn again wherever it is needed (see `random.py`)."""
        self.draws = True
        counter = f"o_row * {op.size} + {self.units(op.size)}"
        bits = f"random_bits(seed, {self.cell.keys[op.name]}, {counter})"
        scale = f", {number(1.0 / (1.0 - op.value))}" if op.lo == 0 else ""
        form = ("drop_mask", "zoneout_mask", "renewal_mask")[op.lo]
        return f"{form}({bits}, {int(op.value * 2**32)}{scale}, COMPUTE)"

    def statistic(self, op: Op) -> str:
        """Over the units of a value."""
        size = self.ops[op.args[0]].size
        x, mask = self.block(op.args[0]), f"{self.units(size)} < {size}"
        if op.kind == "rowsum":
            return f"row_sum({x}, {mask})"
        return f"softmax({x}, {mask})" if op.kind == "softmax" else f"{op.kind}({x}, {mask}, {size})"

    def move(self, op: Op) -> str:
        """Units at other places: slice, pad, concat."""
        if op.kind == "slice":
            return self.taken(op.args[0], f"{self.units(op.size)} + {op.lo}", op.size)
        parts, at = [], op.lo
        for a in op.args:
            parts.append((a, at, at + self.ops[a].size))
            at += self.ops[a].size
        unit, out = self.units(op.size), "0.0"
        for a, lo, hi in reversed(parts):
            inside = f"({unit} >= {lo}) & ({unit} < {hi})" if lo else f"{unit} < {hi}"
            out = f"tl.where({inside}, {self.taken(a, f'{unit} - {lo}' if lo else unit, op.size)}, {out})"
        return out

    def taken(self, at: int, index: str, size: int) -> str:
        """Units `index` of value `at` as a block of `size` units; those past its ends are of any value."""
        last, units = self.layout.units(self.ops[at].size) - 1, self.layout.units(size)
        if last == 0:
            return f"tl.broadcast_to({self.block(at)}, [{units}, BB])"
        inside = f"tl.minimum(tl.maximum({index}, 0), {last})"
        return f"tl.gather({self.block(at)}, tl.broadcast_to({inside}, [{units}, BB]), 0)"

    # Products -----------------------------------------------------------------------------------------

    def product(self, op: Op, start: str | None) -> str:
        """A matrix times a value, added to the block `start`."""
        weight, source, turned = self.cell.weights[op.name], op.args[0], op.kind.endswith("_t")
        slab, size = self.slab(op.name, weight, turned), self.ops[source].size
        plus = f"{start} + " if start else ""
        if size == 1:
            return f"{plus}{slab}.to(COMPUTE) * {self.block(source)}"
        if op.size == 1:
            x = f"{slab}.to(COMPUTE) * {self.block(source)}"
            return f"{plus}row_sum({x}, {self.units(size)} < {size})"
        start = start or f"tl.zeros([{self.layout.units(op.size)}, BB], COMPUTE)"
        return f"tl.dot({slab}, {self.whole(source, slab)}, {start}, input_precision=PRECISION)"

    def whole(self, at: int, slab: str) -> str:
        """All units of a value, as they are multiplied."""
        known = self.wholes.get(at)
        if known is None:
            known, size = f"x_{self.names[at]}", self.ops[at].size
            self.wholes[at] = known
            x = self.block(at)
            if not self.exact(size):  # what lies past the end may be infinite, and 0 * inf is none
                x = f"tl.where({self.units(size)} < {size}, {x}, 0.0)"
            self.body.append(f"{known} = ({x}).to({slab}.dtype)  # [{self.layout.units(size)}, BB]")
        return known

    def slab(self, name: str, w: Weight, turned: bool) -> str:
        """The matrix as [result, source] on the chip, loaded before the loop; one of a single row or column
        as [units, 1].
        """
        known = self.slabs.get((name, turned))
        if known is not None:
            return known
        slab = self.slabs[name, turned] = f"w_{len(self.slabs)}"
        result, source = (w.cols, w.rows) if turned else (w.rows, w.cols)
        if source == 1 or result == 1:
            one = result if source == 1 else source
            own = [self.units(one) if n == one and one > 1 else "0" for n in (result, source)]
            if one == 1:
                own = [self.units(1), "0"]
            r, k, shape = own[0], own[1], f"[{self.layout.units(one)}, 1]"
            sizes = [one]
            marks = [self.units(one)]
        else:
            r, k = self.units(result), self.sources(source)
            shape = f"[{self.layout.units(result)}, {self.layout.units(source)}]"
            sizes, marks = [result, source], [r, k]
        row, column = (k, r) if turned else (r, k)
        masks = [f"({m} < {n})" for m, n in zip(marks, sizes, strict=True) if not self.exact(n)]
        if w.blocks > 1:
            high, wide = w.rows // w.blocks, w.cols // w.blocks
            masks.append(f"({row} // {high} == {column} // {wide})")
            place = f"({row}) * {wide} + {column} % {wide}"
        else:
            place = f"({w.lo} + {row}) * {w.cols} + {column}"
        pointer = self.argument(f"p_w{w.tensor}")
        load = f"tl.load({pointer} + {place}" + (f", mask={' & '.join(masks)}, other=0.0)" if masks else ")")
        self.before.append(f"{slab} = {load}  # {shape} {name}{' turned' if turned else ''}")
        return slab
