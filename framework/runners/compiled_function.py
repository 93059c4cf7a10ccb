"""The text of the function that runs all steps of a loop, from the nests of one step.

Several threads may run it at once. They share either the lanes, and then never wait for each other, or (few
lanes, large weights) the units: then each does its part of every nest, and they wait for each other wherever
one reads what another has written. Where no step waits for another, they share the steps, and each goes over
its own in slabs of several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from framework.runners import compiled_product as product
from framework.runners.compiled_math import pointwise, weighted
from framework.runners.compiled_nests import WIDE, ZERO, Nest, Piece, Product, Scheduler
from framework.runners.compiled_rows import row
from framework.runners.compiled_text import Code, Vectors
from framework.runners.emit import Place

# p: addresses of the buffers; T, B: steps, lanes; b0, b1: lanes of this thread; tid of nt threads pack
# weights; uid of un share units; sync: where they count. In slabs: b0, b1 are steps, uid is the steps of one.
SIGNATURE = (
    "void @run(ptr %p, i64 %T, i64 %B, i64 %b0, i64 %b1, i64 %tid, i64 %nt, i64 %uid, i64 %un, ptr %sync)"
)
# Waits until all %n threads are here. The count only grows; %mine is how far it must have come. A thread that
# waits long lets others run: there may be fewer processors than threads.
BARRIER = """\
define internal void @barrier(ptr %sync, ptr %mine, i64 %n) #1 {
entry:
  %alone = icmp slt i64 %n, 2
  br i1 %alone, label %done, label %arrive
arrive:
  %old = load i64, ptr %mine
  %target = add i64 %old, %n
  store i64 %target, ptr %mine
  %before = atomicrmw add ptr %sync, i64 1 acq_rel
  br label %look
look:
  %tries = phi i64 [ 0, %arrive ], [ %more, %spin ], [ 0, %rest ]
  %now = load atomic i64, ptr %sync acquire, align 8
  %here = icmp uge i64 %now, %target
  br i1 %here, label %done, label %wait
wait:
  %long = icmp ugt i64 %tries, 4000
  br i1 %long, label %rest, label %spin
spin:
  %more = add i64 %tries, 1
  br label %look
rest:
  %ignored = call i32 @sched_yield()
  br label %look
done:
  ret void
}
"""


@dataclass(slots=True)
class Function:
    """`text` of the module; `bases`: the buffers whose addresses it takes, in order; `packs`: numbers in each
    buffer of packed weights (Q0, Q1, ...).
    """

    text: str
    bases: list[str]
    packs: dict[str, int] = field(default_factory=dict)


class Emitter:
    """Writes one function. width: the columns of each buffer; forward: whether steps go up; slabs: whether it
    takes several at once. Lanes are then those of all steps of a slab, values of one step lie so, too.
    """

    def __init__(
        self,
        nests: Sequence[Nest],
        scheduler: Scheduler,
        width: Mapping[str, int],
        forward: bool,
        v: Vectors,
        slabs: bool = False,
    ):
        self.nests, self.scheduler, self.step = nests, scheduler, scheduler.step
        self.width, self.forward, self.slabs = width, forward, slabs
        self.lanes = ("%b0", "%b1")  # that a nest does
        self.c = Code(v)
        self.bases: dict[str, str] = {}
        self.packs: dict[Piece, str] = {}
        self.spans: dict[tuple[str, int], tuple[str, str]] = {}
        # buffers written since all threads have waited, and how these shared the writing
        self.dirty: dict[str, set[str]] = {}

    def emit(self) -> Function:
        """The module."""
        c, v = self.c, self.c.v
        sizes = self._collect()
        pointers = [c.get(f"load ptr, ptr {c.at('%p', i, 'ptr')}") for i in range(len(self.bases))]
        self.bases = dict(zip(self.bases, pointers, strict=True))
        self.count = c.variable("i64", "0")
        self._spans()
        control = self._flush_denormals() if v.x86 else ""
        for piece, name in self.packs.items():
            lo, hi = self._share(product.panels(v, piece.n), "%tid", "%nt")
            w = c.at(self.bases[piece.weight], piece.start, v.narrow)
            apart = piece.apart_n, piece.apart_k
            product.pack(c, self.bases[name], w, piece.n, piece.k, *apart, lo, hi)
        if self.packs:
            c.put(f"call void @barrier(ptr %sync, ptr {self.count}, i64 %nt)")
        self._slabs() if self.slabs else self._steps()
        if control:
            c.put(f"call void @llvm.x86.sse.ldmxcsr(ptr {control})")
        texts, declared = [c.function(SIGNATURE), BARRIER], {*c.declared, "declare i32 @sched_yield()"}
        if self.packs:
            text, more = product.functions(v)
            texts.append(text)
            declared |= more
        return Function("\n".join([*sorted(declared), "", *texts]), list(self.bases), sizes)

    def _steps(self) -> None:
        c = self.c
        with c.loop(0, "%T") as k:
            self.t = k if self.forward else c.i64("sub", c.i64("sub", "%T", 1), k)
            for nest in self.nests:
                self._wait_for(nest)
                self._nest(nest)
            if self.dirty:
                self._wait()

    def _slabs(self) -> None:
        c = self.c
        self.first = c.i64("mul", c.i64("mul", "%tid", "%uid"), "%B")
        with c.loop("%b0", "%b1", "%uid") as self.t:
            left = c.i64("sub", "%b1", self.t)
            whole = c.get(f"icmp slt i64 {left}, %uid")
            steps = c.get(f"select i1 {whole}, i64 {left}, i64 %uid")
            self.lanes = "0", c.i64("mul", steps, "%B")
            self.spans["lanes", 0] = self.lanes
            for nest in self.nests:
                self._nest(nest)

    # Before the steps ---------------------------------------------------------------------------------

    def _collect(self) -> dict[str, int]:
        """Names all buffers and packed weights; the numbers in each of these."""
        sizes: dict[str, int] = {}
        for nest in self.nests:
            for place in [*self._reads(nest), *(p for _, p in nest.stores)]:
                self.bases.setdefault(place.base, "")
            if nest.product is not None:
                piece = nest.product.piece
                self.bases.setdefault(nest.product.out.base, "")
                self.bases.setdefault(piece.weight, "")
                if piece not in self.packs:
                    name = self.packs[piece] = f"Q{len(self.packs)}"
                    sizes[name] = product.packed(self.c.v, piece.n, piece.k)
        self.bases.update(dict.fromkeys(sizes, ""))
        return sizes

    def _share(self, n: int | str, who: str = "%uid", of: str = "%un") -> tuple[str, str]:
        """A thread's part of n things."""
        c = self.c
        lo = c.get(f"udiv i64 {c.i64('mul', who, n)}, {of}")
        hi = c.get(f"udiv i64 {c.i64('mul', c.i64('add', who, 1), n)}, {of}")
        return lo, hi

    def _span(self, nest: Nest) -> tuple[str, int]:
        """What of a nest threads share: panels of columns, vectors of units, or lanes."""
        if nest.product is not None:
            return "panels", product.panels(self.c.v, nest.product.piece.n)
        return ("lanes", 0) if nest.kind == "row" else ("units", -(-nest.size // self.c.v.width))

    def _spans(self) -> None:
        """The part of this thread."""
        c = self.c
        if not self.slabs:
            lo, hi = self._share(c.i64("sub", "%b1", "%b0"))
            self.spans["lanes", 0] = (c.i64("add", "%b0", lo), c.i64("add", "%b0", hi))
        for nest in self.nests:
            key = self._span(nest)
            if key[0] != "lanes" and key not in self.spans:
                self.spans[key] = ("0", str(key[1])) if self.slabs else self._share(key[1])

    def _flush_denormals(self) -> str:
        """Has the processor take tiny numbers for 0; the place of the setting that was there."""
        c = self.c
        c.declare("void @llvm.x86.sse.stmxcsr(ptr)")
        c.declare("void @llvm.x86.sse.ldmxcsr(ptr)")
        old, new = c.variable("i32"), c.variable("i32")
        c.put(f"call void @llvm.x86.sse.stmxcsr(ptr {old})")
        value = c.get(f"load i32, ptr {old}")
        c.put(f"store i32 {c.get(f'or i32 {value}, {0x8040}')}, ptr {new}")
        c.put(f"call void @llvm.x86.sse.ldmxcsr(ptr {new})")
        return old

    # Waiting ------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        self.c.put(f"call void @barrier(ptr %sync, ptr {self.count}, i64 %un)")
        self.dirty.clear()

    def _wait_for(self, nest: Nest) -> None:
        """Wait where this nest touches what other threads may have written in this step."""
        p = nest.product
        mine = f"{self._span(nest)}" + (f" {p.out.base} {p.out.lo}" if p else "")
        written = [p.out.base] if p else [place.base for _, place in nest.stores]
        apart = [place.base for place, size in self._reads(nest).items() if p or size != nest.size]
        others = {base for base, who in self.dirty.items() if who - {mine}}
        touched = {*written, *(place.base for place in self._reads(nest))}
        if touched & others or self.dirty.keys() & set(apart):
            self._wait()
        for base in written:
            self.dirty.setdefault(base, set()).add(mine)

    # What nests read ----------------------------------------------------------------------------------

    def _operands(self, i: int, nest: Nest) -> list[int]:
        """Ops that a nest reads from memory for op i."""
        if i == ZERO or self.step.is_number(i):
            return []
        if i not in nest.ops or i in self.step.memory:
            return [i]
        if i in self.step.cuts:
            return []
        inside = set(nest.ops)
        args = [a for a in self.step.reads(i) if not self.step.is_number(a)]
        if self.step.ops[i].kind == "slice":
            return [i]
        return [a for a in args if self.step.same(a) not in inside]

    def _reads(self, nest: Nest) -> dict[Place, int]:
        """All that a nest reads from memory, with its units (0: units that are not those of the nest)."""
        if nest.product is not None:
            return {self._x(nest.product): 0}
        found: dict[Place, int] = {}
        for i in (*nest.ops, *(i for i, _ in nest.stores if i not in nest.ops)):
            for a in self._operands(i, nest):
                same = self.step.same(a)
                size = self.step.ops[same].size
                found[self.scheduler.read(a)] = 0 if size > 1 and self.step.sliced(same) else size
            if i in nest.ops and i in self.step.cuts:
                where, value, otherwise = self.step.cuts[i]
                found |= {where: 1, value: nest.size} | ({} if otherwise is None else {otherwise: nest.size})
            if i in nest.ops:
                found |= dict.fromkeys(self.step.extra.get(i, ()), nest.size)
        return found

    def _x(self, p: Product) -> Place:
        place = p.x if isinstance(p.x, Place) else self.scheduler.read(p.x)
        return place.columns(*p.cut) if p.cut[1] else place

    # Addresses ----------------------------------------------------------------------------------------

    def _apart(self, p: Place) -> int:
        """Numbers from one lane to the next."""
        return 0 if p.mode == "param" else self.width[p.base]

    def _lane0(self, p: Place) -> str:
        """The address of a place at this step, of lane 0."""
        c, base, real = self.c, self.bases[p.base], self._kind(p)
        if p.mode == "temp" and self.slabs:
            return c.at(base, c.i64("add", c.i64("mul", self.first, self.width[p.base]), p.lo), real)
        if p.mode in ("param", "temp"):
            return c.at(base, p.lo, real)
        t = c.i64("add", self.t, p.offset % p.slots if p.mode == "ring" else p.offset)
        if p.mode == "ring":
            t = c.get(f"urem i64 {t}, {p.slots}")
        first = c.i64("mul", c.i64("mul", t, "%B"), self.width[p.base])
        return c.at(base, c.i64("add", first, p.lo), real)

    def _lane(self, start: str, p: Place, b: str) -> str:
        """The address of lane b."""
        apart = self._apart(p)
        return self.c.at(start, self.c.i64("mul", b, apart), self._kind(p)) if apart else start

    def _kind(self, p: Place) -> str:
        """The type of the elements, where they are no full numbers."""
        if p.base[0] == "K":
            return "i8"
        return "" if p.base[0] in WIDE else self.c.v.narrow

    # Nests --------------------------------------------------------------------------------------------

    def _nest(self, nest: Nest) -> None:
        c, span = self.c, self.spans[self._span(nest)]
        if p := nest.product:
            x, packed = self._x(p), self.bases[self.packs[p.piece]]
            out = self._lane0(p.out), self._apart(p.out)
            given = self._lane0(x), self._apart(x)
            assert self._kind(p.out) == "" and self._kind(x) == c.v.narrow, nest
            product.multiply(c, *out, *given, packed, p.piece.n, p.piece.k, p.add, *span, self.lanes)
        elif nest.kind == "row":
            (i,), ((_, out),) = nest.ops, nest.stores
            op = self.step.ops[i]
            x = self.scheduler.read(op.args[0])
            x0, out0 = self._lane0(x), self._lane0(out)
            assert self._kind(out) == "", nest
            with c.loop(*span) as b:
                row(c, op, (self._lane(x0, x, b), self._kind(x)), self._lane(out0, out, b), nest.size)
        else:
            self._point(nest, span)

    def _point(self, nest: Nest, span: tuple[str, str]) -> None:
        c, v, size = self.c, self.c.v, nest.size
        reads = self._reads(nest)
        starts = {p: self._lane0(p) for p in (*reads, *(p for _, p in nest.stores))}
        with c.loop(*self.lanes) as b:
            lane = {p: self._lane(start, p, b) for p, start in starts.items()}
            known: dict[Place, str] = {}  # one number for all units
            for p, units in reads.items():
                if p.base[0] == "K":
                    byte = c.get(f"load i8, ptr {lane[p]}, align 1")
                    known[p] = c.get(f"icmp ne i8 {byte}, 0")
                elif units == 1 < size:
                    known[p] = c.splat(c.scalar(lane[p], self._kind(p)))
            with c.loop(*span) as block:
                u = c.i64("mul", block, v.width)
                mask = c.mask(c.i64("sub", size, u)) if size % v.width else ""
                loaded = dict(known)

                def load(p: Place) -> str:
                    if p not in loaded:
                        loaded[p] = c.load(c.at(lane[p], u, self._kind(p)), mask, self._kind(p))
                    return loaded[p]

                values: dict[int, str] = {ZERO: c.const(0.0)}
                for i in nest.ops:
                    values[i] = self._value(i, values, load)
                for i, place in nest.stores:
                    if i not in values:
                        values[i] = self._operand(i, values, load)
                    c.store(values[i], c.at(lane[place], u, self._kind(place)), mask, self._kind(place))

    def _operand(self, a: int, values: Mapping[int, str], load: Callable[[Place], str]) -> str:
        if self.step.is_number(a):
            return self.c.const(self.step.number(a))
        same = self.step.same(a)
        return values[same] if same in values else load(self.scheduler.read(a))

    def _value(self, i: int, values: Mapping[int, str], load: Callable[[Place], str]) -> str:
        """Op i of a nest."""
        step, c, op = self.step, self.c, self.step.ops[i]
        if i in step.cuts:
            where, value, otherwise = step.cuts[i]
            if otherwise is None:
                return c.op("fmul", load(value), load(where))
            kind = c.v.type
            return c.get(f"select i1 {load(where)}, {kind} {load(value)}, {kind} {load(otherwise)}")
        if i in step.memory:
            return load(self.scheduler.place[i])
        if op.kind in ("const", "stop", "slice"):
            return self._operand(i if op.kind != "stop" else op.args[0], values, load)
        if op.kind == "sum":
            pairs = zip(op.args, op.coefs, strict=True)
            terms = [(self._operand(a, values, load), coef) for a, coef in pairs if a not in step.skip]
            terms = [*((load(p), 1.0) for p in step.extra.get(i, ())), *terms]
            return weighted(c, terms, op.value)
        return pointwise(c, op, [self._operand(a, values, load) for a in op.args])
