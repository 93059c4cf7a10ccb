"""Many programs share a tile of lanes: they exchange values through memory, a barrier behind each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kernels.codegen import Op
from kernels.persistent_emit import MOVES, PRODUCTS, STATISTICS, Emitter
from kernels.persistent_exchange import Exchange, Place
from kernels.persistent_products import Products

AHEAD = "# loads of the next step"  # where they are issued: behind the last arrival


class ThroughMemory(Exchange):
    """`ready`: the place of a value that is in memory before the step (reads of other steps included);
    `stores`: of those that the kernel writes anyway; `cut(op, value, units, mask, deep)`: a read, or its
    initial value where it has left its sequence. forward: reads are of steps that were computed just now.
    """

    def __init__(
        self,
        e: Emitter,
        ready: Callable[[int], Place | None],
        stores: Mapping[int, Place],
        cut: Callable[[int, str, str, str, bool], str],
        forward: bool,
    ):
        super().__init__(e)
        self.ready, self.stores, self.cut, self.forward = ready, stores, cut, forward
        self.level: dict[int, int] = {}
        self.published: dict[int, None] = {}
        self.own: dict[int, None] = {}
        self.statistics: dict[tuple[str, int], int] = {}  # (what, of which value) -> first row
        self.wide: set[int] = set()  # exchanged as they are, not only to be multiplied
        self.start = False  # reads of the last step wait for it
        self.products = Products(self)

    # Levels -------------------------------------------------------------------------------------------

    def levels(self, order: Sequence[int]) -> list[list[int]]:
        """Values that others read are written at the end of a level, and read in a later one."""
        e, ops = self.e, self.e.ops
        late: dict[int, None] = {}
        for at in order:
            op = ops[at]
            if at in e.text:  # it was loaded
                self.level[at] = 0
                continue
            level = max([self.level[a] for a in op.args], default=0)
            if op.kind in PRODUCTS or op.kind in MOVES:
                if op.kind in MOVES:
                    self.wide.update(op.args)
                for a in op.args:
                    if ops[a].size == 1:
                        continue  # every program has it
                    if self.ready(a) is None:
                        self.published[a] = None
                        level = max(level, self.level[a] + 1)
                    elif self.forward and ops[a].kind == "shift":
                        self.start = True
                        late[e.cell.roots[ops[a].name]] = None
            elif op.kind in STATISTICS and ops[op.args[0]].size > 1 and not self.known(op):
                level = max(level, self.level[op.args[0]] + 1)
                self._note(op)
            self.level[at] = level
        self.published |= late
        last = max(self.level.values(), default=0)
        parts: list[list[int]] = [[] for _ in range(last + 1)]
        for at in order:
            parts[self.level[at]].append(at)
        for part in parts:
            self.products.pack(part)
        self.barriers = last + self.start
        return parts

    def _note(self, op: Op) -> None:
        what = "sum" if op.kind == "rowsum" else "softmax" if op.kind == "softmax" else "moments"
        if (what, op.args[0]) not in self.statistics:
            self.statistics[what, op.args[0]] = self.rows
            self.rows += 1 if what == "sum" else 2

    def open(self, level: int) -> None:
        """Wait until all have arrived."""
        if level or self.start:
            parts = self.e.layout.programs
            self.e.body.append(f"wait(p_bar, (s * {self.barriers} + {level}) * {parts})")

    def close(self, level: int) -> None:
        """Write what others read, and arrive."""
        e, last = self.e, max(self.level.values(), default=0)
        for at in self.published:
            if self.level[at] == level:
                place = self.place(at)
                e.body.append(e.store(place.at(e.units(e.ops[at].size)), at, e.ops[at].size))
                self.stored.add(place)
        for (what, at), row in self.statistics.items():
            if self.level[at] == level:
                self._part(what, at, row)
        if level < last or self.start:
            if AHEAD in e.body:
                e.body.remove(AHEAD)
            e.body += ["arrive(p_bar)", AHEAD]
            e.argument("p_counter")

    def place(self, at: int) -> Place:
        """Where value `at` is in memory when others read it."""
        found = self.ready(at) or self.stores.get(at)
        if found is None:
            self.own[at] = None
            found = Place(self.e.argument(f"p_x{at}"), "o_row", self.e.ops[at].size)
        return found

    @property
    def exchanged(self) -> tuple[tuple[int, int, bool], ...]:
        """See `Exchange`."""
        return tuple((at, self.e.ops[at].size, at in self.wide) for at in self.own)

    # Statistics ---------------------------------------------------------------------------------------

    def _row(self, row: int, part: str) -> str:
        """Pointers to a row of partial statistics [2, tiles, rows, programs, BB]; two steps in turn, as no
        program is two steps ahead. Rows lie at constant distances: they share the registers of an address.
        """
        parts, pointer = self.e.layout.programs, self.e.argument("p_stat")
        tile = f"(s % 2 * tl.cdiv(B, BB) + i_tile) * ({self.rows * parts} * BB)"
        return f"{pointer} + {tile} + {row * parts} * BB + {part} * BB + tl.arange(0, BB)[None, :]"

    def _part(self, what: str, at: int, row: int) -> None:
        """This program's part of a statistic."""
        e, size = self.e, self.e.ops[at].size
        x, unit, block = e.block(at), e.units(size), e.layout.units(size)
        inside = f"{unit} < {size}"
        if what == "sum":
            values = [f"row_sum({x}, {inside})"]
        elif what == "softmax":
            values = [f"row_max({x}, {inside})", f"row_exp({x}, {inside})"]
        else:
            count = f"tl.minimum(tl.maximum({size} - i_part * {block}, 0), {block})"
            values = [f"part_mean({x}, {inside}, {count})", f"part_moment({x}, {inside}, {count})"]
        for i, value in enumerate(values):
            e.body.append(f"tl.store({self._row(row + i, 'i_part')}, {value}, mask=m_lane)")

    def _all(self, row: int, other: str = "0.0") -> str:
        """The parts of all programs, [programs, lanes]."""
        mask = f"(i_parts < {self.e.layout.programs}) & m_lane"
        return f'tl.load({self._row(row, "i_parts")}, mask={mask}, other={other}, cache_modifier=".cg")'

    def row_sum(self, at: int) -> str:
        """See `Exchange`."""
        return f"tl.sum({self._all(self.statistics['sum', at])}, axis=0, keep_dims=True)"

    def pair(self, kind: str, at: int) -> str:
        """See `Exchange`."""
        if kind == "softmax":
            row = self.statistics["softmax", at]
            # Lanes that are not there get numbers, too: 0 / 0 would go on to their next step.
            largest = f'tl.where(i_parts < {self.e.layout.programs}, {self._all(row)}, float("-inf"))'
            return f"whole_exponents({largest}, {self._all(row + 1, '1.0')})"
        row, size = self.statistics["moments", at], self.e.ops[at].size
        parts = f"{self._all(row)}, {self._all(row + 1)}, i_parts"
        return f"whole_moments({parts}, {size}, {self.e.layout.units(size)})"

    # Units at other places ----------------------------------------------------------------------------

    def taken(self, at: int, index: str, size: int) -> str:
        """See `Exchange`."""
        e, n = self.e, self.e.ops[at].size
        if n == 1:
            return f"tl.broadcast_to({e.block(at)}, [{e.layout.units(size)}, BB])"
        mask = f"({index} >= 0) & ({index} < {n}) & m_lane"
        load = f'tl.load({self.place(at).at(f"({index})")}, mask={mask}, other=0.0, cache_modifier=".cg")'
        return self.cut(at, f"{load}.to(COMPUTE)", f"({index})", f"({index} >= 0) & ({index} < {n})", False)

    def add_products(self, name: str, products: Sequence[int], start: str | None) -> None:
        """See `Exchange`."""
        self.products.add(name, products, start)
