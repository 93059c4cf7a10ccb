"""How units of a loop get at the values of others: in what kernels for one program and for many differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from kernels.codegen import Op
from kernels.persistent_cell import ROWS
from kernels.persistent_emit import Emitter


class Place(NamedTuple):
    """A value in memory: columns from `column` on of a row of [rows, B, stride] at `pointer`."""

    pointer: str
    row: str
    stride: str | int
    column: int = 0
    unit: str = ""  # factor of the units' offsets

    def at(self, units: str) -> str:
        """Pointers to `units`."""
        start = f" + {self.column}" if self.column else ""
        return f"{self.pointer} + ({self.row}) * {self.stride}{start} + {units}{self.unit}"


class Exchange(ABC):
    """Used in this order: `levels`, then for each of them `open`, its ops emitted, `close`."""

    def __init__(self, e: Emitter):
        self.e = e
        self.stored: set[Place] = set()  # what was stored already
        self.rows = 0  # of partial statistics
        self.numbers = 0  # of matrices on the chip
        self.under_way = 0  # of sources at the same time

    @abstractmethod
    def levels(self, order: Sequence[int]) -> list[list[int]]:
        """`order` cut into parts between which programs exchange values."""

    @property
    def exchanged(self) -> tuple[tuple[int, int, bool], ...]:
        """Values with a place of their own: op, size, whether it is more than a factor of a product."""
        return ()

    def open(self, level: int) -> None:  # noqa: B027 (one program waits for nobody)
        """Statements before the ops of a level."""

    def close(self, level: int) -> None:  # noqa: B027
        """Statements after them."""

    @abstractmethod
    def add_products(self, name: str, products: Sequence[int], start: str | None) -> None:
        """Statements that make `name` the sum of the block `start` and of products (ops)."""

    @abstractmethod
    def row_sum(self, at: int) -> str:
        """The sum over the units of value `at`, [1, lanes]."""

    @abstractmethod
    def pair(self, kind: str, at: int) -> str:
        """The two statistics (see `ROWS`) of which an op `kind` over the units of value `at` is made."""

    def statistic(self, op: Op) -> str:
        """The value of a statistic over units."""
        e, at = self.e, op.args[0]
        x, size = e.block(at), e.ops[at].size
        if op.kind == "rowsum":
            return x if size == 1 else self.row_sum(at)
        if size == 1:
            alone = {"softmax": 1.0, "normalize": 0.0, "rstd": 1e-5**-0.5}
            return f"tl.zeros_like({x}) + {alone[op.kind]}"
        first, second = (e.row_name(name, at) for name in ROWS[op.kind])
        if not self.known(op):
            line = f"{first}, {second} = {self.pair(op.kind, at)}"
            if line not in e.body:
                e.body.append(line)
        if op.kind == "softmax":
            # Without the units that are not there: their exp may be infinite.
            return f"tl.where({e.units(size)} < {size}, tl.exp({x} - {first}), 0.0) * {second}"
        return second if op.kind == "rstd" else f"({x} - {first}) * {second}"

    def known(self, op: Op) -> bool:
        """Whether the forward has left the statistics that make an op."""
        return op.kind in ROWS and self.e.rows.issuperset((name, op.args[0]) for name in ROWS[op.kind])

    @abstractmethod
    def taken(self, at: int, index: str, size: int) -> str:
        """Units `index` of value `at` as a block of `size` units; those past its ends are of any value."""

    def move(self, op: Op) -> str:
        """The value of a slice, pad or concat: units at other places."""
        e = self.e
        if op.kind == "slice":
            return self.taken(op.args[0], f"{e.units(op.size)} + {op.lo}", op.size)
        parts, at = [], op.lo
        for a in op.args:
            parts.append((a, at, at + e.ops[a].size))
            at += e.ops[a].size
        unit, out = e.units(op.size), "0.0"
        for a, lo, hi in reversed(parts):
            inside = f"({unit} >= {lo}) & ({unit} < {hi})" if lo else f"{unit} < {hi}"
            out = f"tl.where({inside}, {self.taken(a, f'{unit} - {lo}' if lo else unit, op.size)}, {out})"
        return out
