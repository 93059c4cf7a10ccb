"""One program has all units: what they exchange stays on the chip."""

from __future__ import annotations

from collections.abc import Sequence

from kernels.codegen import Op
from kernels.persistent_cell import Weight
from kernels.persistent_emit import Emitter
from kernels.persistent_exchange import Exchange


class OnChip(Exchange):
    """The exchange of a single program."""

    def __init__(self, e: Emitter):
        super().__init__(e)
        self.slabs: dict[tuple[str, bool], str] = {}
        self.wholes: dict[int, str] = {}

    def levels(self, order: Sequence[int]) -> list[list[int]]:
        """All at once."""
        return [list(order)]

    def row_sum(self, at: int) -> str:
        """See `Exchange`."""
        return f"row_sum({self.e.block(at)}, {self._inside(at)})"

    def pair(self, kind: str, at: int) -> str:
        """See `Exchange`."""
        x, inside = self.e.block(at), self._inside(at)
        if kind == "softmax":
            return f"exponents({x}, {inside})"
        return f"moments({x}, {inside}, {self.e.ops[at].size})"

    def _inside(self, at: int) -> str:
        size = self.e.ops[at].size
        return f"{self.e.units(size)} < {size}"

    def taken(self, at: int, index: str, size: int) -> str:
        """Units `index` of value `at` as a block of `size` units; those past its ends are of any value."""
        last, units = self.e.layout.units(self.e.ops[at].size) - 1, self.e.layout.units(size)
        if last == 0:
            return f"tl.broadcast_to({self.e.block(at)}, [{units}, BB])"
        inside = f"tl.minimum(tl.maximum({index}, 0), {last})"
        return f"tl.gather({self.e.block(at)}, tl.broadcast_to({inside}, [{units}, BB]), 0)"

    # Products -----------------------------------------------------------------------------------------

    def add_products(self, name: str, products: Sequence[int], start: str | None) -> None:
        """See `Exchange`: one product after the other, each starting from the sum so far."""
        for at in products:
            self.e.body.append(f"{name} = {self.product(self.e.ops[at], start)}")
            start = name

    def product(self, op: Op, start: str | None) -> str:
        """A matrix times a value, added to the block `start`."""
        weight, source, turned = self.e.cell.weights[op.name], op.args[0], op.kind.endswith("_t")
        slab, size = self.slab(op.name, weight, turned), self.e.ops[source].size
        plus = f"{start} + " if start else ""
        if size == 1:
            return f"{plus}{slab}.to(COMPUTE) * {self.e.block(source)}"
        if op.size == 1:
            x = f"{slab}.to(COMPUTE) * {self.e.block(source)}"
            return f"{plus}row_sum({x}, {self.e.units(size)} < {size})"
        start = start or f"tl.zeros([{self.e.layout.units(op.size)}, BB], COMPUTE)"
        operands = f"{slab}, {self.whole(source, slab)}, {start}"
        return f"tl.dot({operands}, input_precision=PRECISION, out_dtype=COMPUTE)"  # 3.6 asks for the type

    def whole(self, at: int, slab: str) -> str:
        """All units of a value, as they are multiplied."""
        known = self.wholes.get(at)
        if known is None:
            known, size = f"x_{self.e.names[at]}", self.e.ops[at].size
            self.wholes[at] = known
            x = self.e.block(at)
            if not self.e.exact(size):  # what lies past the end may be infinite, and 0 * inf is none
                x = f"tl.where({self.e.units(size)} < {size}, {x}, 0.0)"
            self.e.body.append(f"{known} = ({x}).to({slab}.dtype)  # [{self.e.layout.units(size)}, BB]")
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
            own = [self.e.units(one) if n == one and one > 1 else "0" for n in (result, source)]
            if one == 1:
                own = [self.e.units(1), "0"]
            r, k, shape = own[0], own[1], f"[{self.e.layout.units(one)}, 1]"
            sizes = [one]
            marks = [self.e.units(one)]
        else:
            r, k = self.e.units(result), self.e.sources(source)
            shape = f"[{self.e.layout.units(result)}, {self.e.layout.units(source)}]"
            sizes, marks = [result, source], [r, k]
        row, column = (k, r) if turned else (r, k)
        masks = [f"({m} < {n})" for m, n in zip(marks, sizes, strict=True) if not self.e.exact(n)]
        load = self.e.matrix(w, row, column, masks)
        self.e.once.append(f"{slab} = {load}  # {shape} {name}{' turned' if turned else ''}")
        return slab
