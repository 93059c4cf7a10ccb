"""The ops of one step in an order of nests: loops over lanes and units, rows, products. No text, no torch.

A nest of kind `point` computes several pointwise ops of one size in one pass: what only they read stays in
registers. `row` nests compute one op that needs all units of a lane, `product` nests one matrix product.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from framework.cell import Op
from framework.ops import TABLE
from framework.runners.emit import Place

ROWS = ("normalize", "rstd", "softmax", "rowsum")
ZERO = -1  # stands for the number 0 where an op is stored
# Letters of buffers of full numbers where all others are narrow: carried to other steps, of one step, sums of
# products; see `source.py` and `compiled_steps.py`.
WIDE = "CMNZ"


@dataclass(frozen=True, slots=True)
class Piece:
    """One packed matrix [n, k]: `weight` from number `start` on; apart: numbers to the next n, the next k."""

    weight: str
    start: int
    n: int
    k: int
    apart_n: int
    apart_k: int


@dataclass(frozen=True, slots=True)
class Product:
    """out (+)= x by a matrix. x: an op, or where it lies once `needs` are in memory; of it columns `cut`, all
    where that is (0, 0). gives: ops that wait for it.
    """

    piece: Piece
    x: int | Place
    out: Place
    add: bool
    needs: frozenset[int]
    gives: frozenset[int]
    cut: tuple[int, int] = (0, 0)
    after: int = -1  # the product that must come before


@dataclass(frozen=True, slots=True)
class Nest:
    """`ops` are computed; `stores`: op (or ZERO) and where to."""

    kind: str
    size: int = 0
    ops: tuple[int, ...] = ()
    stores: tuple[tuple[int, Place], ...] = ()
    product: Product | None = None


@dataclass(slots=True)
class Step:
    """What one step computes.

    ids: ops in order, arguments first; an op of `memory` among them is one whose value is stored elsewhere,
    too. memory: values that are there before the step, or as soon as products have given them. stores: where
    an op must go; homes: where it goes if a later nest needs it (by default a row of its own, M<op>). skip:
    arguments of sums that products have added already; extra: what stands for them. narrow: numbers in
    memory are rounded, but for those in WIDE.
    """

    ops: Sequence[Op]
    ids: list[int] = field(default_factory=list)
    memory: dict[int, Place] = field(default_factory=dict)
    stores: dict[int, list[Place]] = field(default_factory=dict)
    homes: dict[int, Place] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    skip: set[int] = field(default_factory=set)
    extra: dict[int, list[Place]] = field(default_factory=dict)
    cuts: dict[int, tuple[Place, Place, Place | None]] = field(default_factory=dict)  # see `reads`
    narrow: bool = False

    def reads(self, i: int) -> list[int]:
        """Ops that op i takes as arguments. One that is in memory and one of `cuts` read places only: value
        where `where` is true, else `otherwise`; without that one value times where.
        """
        if i in self.memory or i in self.cuts:
            return []
        return [a for a in self.ops[i].args if a not in self.skip]

    def same(self, i: int) -> int:
        """The op whose value op i is: another one where i only stops gradients."""
        while self.ops[i].kind == "stop" and i not in self.memory:
            i = self.ops[i].args[0]
        return i

    def sliced(self, i: int) -> bool:
        """Whether op i is part of a value that is read where that one lies."""
        return self.ops[i].kind == "slice" and i not in self.memory

    def is_number(self, i: int) -> bool:
        """Whether op i is a constant (or part of one)."""
        i = self.same(i)
        while self.sliced(i):
            i = self.same(self.ops[i].args[0])
        return self.ops[i].kind == "const"

    def number(self, i: int) -> float:
        """Its value."""
        i = self.same(i)
        while self.ops[i].kind == "slice":
            i = self.same(self.ops[i].args[0])
        return self.ops[i].value


class Scheduler:
    """Makes nests of a step. `place`: where each value lies that nests read from memory."""

    def __init__(self, step: Step):
        self.step = step
        self.ops = step.ops
        self.place: dict[int, Place] = dict(step.memory)
        self.closed: set[int] = set()  # computed by an earlier nest
        self.crossed: set[int] = set()  # computed, and read by a later nest
        self.done: set[int] = set()  # products
        self.waits: dict[int, set[int]] = {}  # op -> products that give it
        for k, product in enumerate(step.products):
            for i in product.gives:
                self.waits.setdefault(i, set()).add(k)

    def run(self) -> list[Nest]:
        """All nests in order; those that others read have their stores."""
        step = self.step
        pending = [i for i in step.ids if self._work(i)]
        found: list[tuple[str, int, list[int], Product | None]] = []
        while pending or len(self.done) < len(step.products):
            made = self._product() or self._row(pending) or self._point(pending)
            assert made is not None, "the cell has a loop without delay"
            kind, _, group, _ = made
            self.closed |= set(group) if kind != "product" else set()
            pending = [i for i in pending if i not in self.closed]
            found.append(made)
        return [nest for made in found for nest in self._nests(*made)]

    def _work(self, i: int) -> bool:
        """Whether a nest must do something for op i."""
        if i in self.step.memory:
            return bool(self.step.stores.get(i))
        if self.ops[i].kind in ("const", "stop", "slice"):
            return bool(self.step.stores.get(i))
        return i not in self.step.skip

    # Choosing -----------------------------------------------------------------------------------------

    def _source(self, i: int) -> int:
        """The op whose memory a read of op i touches."""
        i = self.step.same(i)
        while self.step.sliced(i):
            i = self.step.same(self.ops[i].args[0])
        return i

    def _given(self, i: int) -> bool:
        """Whether products have given op i."""
        return self.waits.get(i, set()) <= self.done

    def _stored(self, i: int) -> bool:
        """Whether op i can be read from memory by the next nest."""
        at = self._source(i)
        if self.ops[at].kind == "const" and at not in self.step.memory:
            return True
        return (at in self.step.memory and self._given(at)) or at in self.closed

    def _written(self, i: int) -> bool:
        """Whether op i stands in all places where it must go."""
        return self._stored(i) and (not self.step.stores.get(i) or i in self.closed)

    def _product(self) -> tuple[str, int, list[int], Product | None] | None:
        for k, product in enumerate(self.step.products):
            early = product.after >= 0 and product.after not in self.done
            if k not in self.done and not early and all(self._written(i) for i in product.needs):
                self.done.add(k)
                for i in product.needs:
                    self._cross(i)
                return "product", 0, [], product
        return None

    def _cross(self, i: int) -> None:
        at = self._source(i)
        if at not in self.step.memory and self.ops[at].kind != "const":
            self.crossed.add(at)

    def _row(self, pending: Sequence[int]) -> tuple[str, int, list[int], Product | None] | None:
        for i in pending:
            op = self.ops[i]
            if i in self.step.memory or op.kind not in (*ROWS, "concat", "pad"):
                continue
            if all(self._stored(a) for a in op.args) and self._given(i):
                for a in op.args:
                    self._cross(a)
                return op.kind, self.ops[op.args[0]].size, [i], None
        return None

    def _is_point(self, i: int) -> bool:
        kind = self.ops[i].kind
        if i in self.step.memory or i in self.step.cuts:
            return True
        return kind in TABLE or kind in ("sum", "prod", "copy", "expand", "const", "stop", "slice")

    def _ready(self, i: int, group: Collection[int]) -> bool:
        if not self._given(i):
            return False
        for a in self.step.reads(i):
            same = self.step.same(a)
            if same in group and self.ops[same].size == self.ops[i].size and not self.step.sliced(i):
                continue
            if not self._stored(a):
                return False
        return True

    def _point(self, pending: Sequence[int]) -> tuple[str, int, list[int], Product | None] | None:
        best: list[int] = []
        for size in dict.fromkeys(self.ops[i].size for i in pending):
            group: dict[int, None] = {}
            for i in pending:  # in order: arguments first
                if self.ops[i].size == size and self._is_point(i) and self._ready(i, group.keys()):
                    group[i] = None
            kept = self._needed_now(group)
            if len(kept) > len(best):
                best = kept
        if not best:
            return None
        inside = set(best)
        for i in best:
            for a in self.step.reads(i):
                if self.step.same(a) not in inside or self.step.sliced(i):
                    self._cross(a)
        return "point", self.ops[best[0]].size, best, None

    def _needed_now(self, group: dict[int, None]) -> list[int]:
        """The group without what only later nests read, and can compute from memory themselves."""
        inside = set(group)
        readers: dict[int, set[int]] = {}
        for i in group:
            for a in self.step.reads(i):
                readers.setdefault(self.step.same(a), set()).add(i)
        for i in reversed(group):
            alone = not (readers.get(i, set()) & inside) and not self.step.stores.get(i)
            from_memory = all(self.step.same(a) not in inside for a in self.step.reads(i))
            if alone and from_memory and len(inside) > 1:
                inside.discard(i)
        return [i for i in group if i in inside]

    # Places -------------------------------------------------------------------------------------------

    def home(self, i: int) -> Place:
        """Where op i is read by other nests."""
        if i not in self.place:
            stores, own = self.step.stores.get(i), Place(f"M{i}", "temp")
            if self.step.narrow:  # what this step reads is not rounded
                self.place[i] = next((p for p in stores or () if p.base[0] in WIDE), own)
            else:
                self.place[i] = stores[0] if stores else self.step.homes.get(i, own)
        return self.place[i]

    def read(self, i: int) -> Place:
        """Where nests read op i, which is no number."""
        i = self.step.same(i)
        if self.step.sliced(i):
            return self.read(self.ops[i].args[0]).columns(self.ops[i].lo, self.ops[i].hi)
        return self.home(i)

    def _targets(self, i: int) -> list[Place]:
        """All places that op i is written to."""
        stores = list(self.step.stores.get(i, ()))
        rounded = self.step.narrow and self.ops[i].kind in ROWS  # they read what they have written
        if (i in self.crossed or rounded) and i not in self.step.memory and self.home(i) not in stores:
            stores.insert(0, self.home(i))
        return stores

    def _nests(self, kind: str, size: int, group: list[int], product: Product | None) -> list[Nest]:
        if kind == "product":
            return [Nest("product", product=product)]
        if kind == "point":
            stores = [(i, place) for i in group for place in self._targets(i)]
            return [Nest("point", size, tuple(group), tuple(stores))]
        (i,) = group
        op, out = self.ops[i], self._targets(i)
        if not out:
            return []
        if kind == "concat":
            return self._concat(op, out)
        if kind == "pad":
            return self._pad(op, out)
        copies = [Nest("point", op.size, (), ((i, place),)) for place in out[1:]]
        self.place[i] = out[0]
        return [Nest("row", size, (i,), ((i, out[0]),)), *copies]

    def _concat(self, op: Op, out: Sequence[Place]) -> list[Nest]:
        nests, lo = [], 0
        for a in op.args:
            size = self.ops[a].size
            nests.append(Nest("point", size, (), tuple((a, x.columns(lo, lo + size)) for x in out)))
            lo += size
        return nests

    def _pad(self, op: Op, out: Sequence[Place]) -> list[Nest]:
        parts = [(0, op.lo, ZERO), (op.lo, op.hi, op.args[0]), (op.hi, op.size, ZERO)]
        return [
            Nest("point", hi - lo, (), tuple((a, x.columns(lo, hi)) for x in out))
            for lo, hi, a in parts
            if hi > lo
        ]


def nests_of(step: Step) -> tuple[list[Nest], Scheduler]:
    """The nests of a step in order, and where they find values."""
    scheduler = Scheduler(step)
    return scheduler.run(), scheduler
