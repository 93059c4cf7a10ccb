"""What one step of a loop computes, forward and backward: values, places, products; for `compiled_nests`."""

from __future__ import annotations

from collections.abc import Mapping

from framework.cell import Op
from framework.component import Component
from framework.derivative import Backward
from framework.runners.compiled_nests import WIDE, Piece, Product, Step
from framework.runners.emit import Place
from framework.runners.source import Buffer, Source, pads
from framework.runners.source_forward import ForwardEmitter


class Forward(ForwardEmitter):
    """One step forward, with the places of the torch runner: a backward finds what is saved where it was.

    narrow: those places hold rounded numbers. Only products read them then, from H what has no other place;
    states go from step to step in Z, rings of rows, and sums of products (N) stand apart from P.
    """

    rings = True  # steps follow each other

    def __init__(
        self,
        c: Component,
        saved: frozenset[int],
        weights: Mapping[str, str],
        masked: bool,
        narrow: bool = False,
    ):
        super().__init__(c, saved, weights, masked)
        self.narrow = narrow

    def step(self) -> Step:
        """The step; fills `source`."""
        self._places()
        c, step = self.c, Step(self.ops, narrow=self.narrow)
        carried = self._carried() if self.narrow and self.rings else frozenset()
        step.ids = [i for i, op in enumerate(c.cell) if op.kind not in ("pre", "ext", "param")]
        for i, op in enumerate(c.cell):
            if op.kind in ("pre", "ext", "param", "block") or (op.kind == "shift" and not self.masked):
                step.memory[i] = self.place[i]
                if op.kind == "shift" and i in carried:
                    step.memory[i] = self._ring(op)
                elif op.kind == "block" and self.narrow:
                    step.memory[i] = Place(f"M{i}", "temp")
            elif op.kind == "full":
                step.skip.add(i)
            elif op.kind == "shift":
                root = c.roots[op.name]
                there = Place(f"V{root}", "chunk", self.front + op.shift)
                there = self._ring(op) if i in carried else there
                step.cuts[i] = (Place(f"K{abs(op.shift)}", "chunk"), there, Place(f"U{root}", "param"))
                step.stores[i] = [self.place[i]]
            if i in self.place and i not in step.memory:
                step.homes[i] = self.place[i]
        for i in sorted({*self.saved, *(at for _, at in c.outputs), *(c.roots[n] for n in c.states)}):
            at = _origin(step, i)
            if self.narrow and self.ops[at].kind == "block" and self.place[at].base[0] != "M":
                step.stores[at] = [self.place[at]]
            if at not in step.memory and self.ops[at].kind != "const":
                step.stores[at] = [self.place[at]]
            if i != at and (at not in self.place or self.place[i].base != self.place[at].base):
                step.stores[i] = [self.place[i]]
        for name in {self.ops[i].name: None for i in carried}:
            root, slots = c.roots[name], c.states[name] + 1
            step.stores.setdefault(root, []).insert(0, Place(f"Z{root}", "ring", 0, slots=slots))
        self._products_of_runs(step)
        for i, op in enumerate(c.cell):
            if op.kind == "block":
                size = self.ops[op.args[0]].size
                x = self._operand_of(step, op.args[0]) if self.narrow else op.args[0]
                out = step.memory[i]
                _blocks(step, i, op.args[0], x, size, self.weights[op.name], out, False)
        return step

    def _carried(self) -> frozenset[int]:
        """Reads of other steps by more than products: these take rounded numbers anyway."""
        read = {a for op in self.ops if op.kind not in ("full", "block") for a in op.args}
        shifts = frozenset(i for i in read if self.ops[i].kind == "shift")
        for i in shifts:
            root, slots = self.c.roots[self.ops[i].name], self.c.states[self.ops[i].name] + 1
            self.source.buffers[f"Z{root}"] = Buffer("ring", self.ops[root].size, slots=slots, wide=True)
        return shifts

    def _ring(self, op: Op) -> Place:
        """Where a read of another step finds its state."""
        return Place(f"Z{self.c.roots[op.name]}", "ring", op.shift, slots=self.c.states[op.name] + 1)

    def _operand_of(self, step: Step, i: int) -> Place:
        """Where a product reads op i, rounded: it is written there, too."""
        op = self.ops[i]
        if op.kind == "slice" and self.ops[op.args[0]].kind != "const":
            return self._operand_of(step, op.args[0]).columns(op.lo, op.hi)
        if op.kind == "stop":
            return self._operand_of(step, op.args[0])
        place = self.place.get(i, Place(f"H{i}", "temp"))
        if place.base[0] in WIDE:
            place = Place(f"H{i}", "temp")
        if op.kind not in ("shift", "ext", "param", "pre") and place not in step.stores.setdefault(i, []):
            step.stores[i].append(place)
        return place

    def _products_of_runs(self, step: Step) -> None:
        for k, run in enumerate(self.c.runs):
            n, size = run.hi - run.lo, self.ops[run.source].size
            piece, needs = Piece(f"w{k}", 0, n, size, size, 1), frozenset({run.source})
            found = [t for t in self.c.targets if t.lo < run.hi and run.lo < t.hi]
            gives = frozenset(t.op for t in found)
            if self.narrow:
                x, out = self._operand_of(step, run.source), Place(f"N{k}", "temp", 0, 0, n)
                for t in found:
                    step.extra.setdefault(t.op, []).append(out.columns(t.lo - run.lo, t.hi - run.lo))
                step.products.append(Product(piece, x, out, False, needs, gives))
                continue
            if self.ops[run.source].kind == "const":
                step.stores[run.source] = [Place(f"M{run.source}", "temp")]
            out = Place("P", "chunk", 0, run.lo, run.hi)
            step.products.append(Product(piece, run.source, out, True, needs, gives))


def _origin(step: Step, i: int) -> int:
    """The op whose memory shows op i."""
    while step.ops[i].kind in ("stop", "slice") and i not in step.memory:
        i = step.ops[i].args[0]
    return i


def _blocks(
    step: Step, i: int, source: int, x: int | Place, size: int, weight: str, out: Place, back: bool
) -> None:
    """Products of op i, with diagonal blocks: of each group by its own matrix [n, k]; back: transposed.

    x: op `source`, or where it is read.
    """
    op = step.ops[i]
    n, k = op.size // op.blocks, size // op.blocks
    for g in range(op.blocks):
        piece = Piece(weight, g * n * k, n, k, *((1, n) if back else (k, 1)))
        part, needs = out.columns(g * n, (g + 1) * n), frozenset({source})
        cut = (g * k, (g + 1) * k)
        step.products.append(Product(piece, x, part, False, needs, frozenset({i}), cut))


class Reverse:
    """One step of the backward: adjoints from `d`, with what the loop stores in the places of the forward.

    Gradients of hoisted columns go to G, what the products after the loop read to X, adjoints for other steps
    to C: a ring of rows, or with masks a sequence (the gradient of initial values is made of it). narrow: all
    but these is rounded in memory.
    """

    def __init__(
        self,
        c: Component,
        d: Backward,
        places: Mapping[int, Place],
        weights: Mapping[str, str],
        masked: bool,
        narrow: bool = False,
    ):
        self.c, self.d, self.places, self.weights, self.masked = c, d, places, weights, masked
        self.narrow = narrow
        front, back = pads(c)
        self.front, self.back = back, front  # gradients come from the other side in time
        self.source = Source()
        self.s = Step(d.ops, narrow=narrow)
        self.ops = d.ops

    def step(self) -> Step:
        """The step; fills `source`."""
        d, s = self.d, self.s
        s.ids = [*d.before, *d.loop, *d.after]
        for i, op in enumerate(self.c.cell):
            if op.kind in ("ext", "param"):
                s.memory[i] = self.places.get(i) or self._leaf(op)
            elif i in d.saved:
                s.memory[i] = self.places[i]
        self.source.places.update(s.memory)
        for i in s.ids:
            op = self.ops[i]
            if op.kind == "grad":
                s.memory[i] = Place(f"DY{op.lo}", "chunk")
            elif op.kind == "back" and self.masked:
                keep = Place(f"L{abs(op.shift)}", "chunk", self.front + op.shift)
                s.cuts[i] = (keep, Place(f"C{op.lo}", "chunk", self.front + op.shift), None)
            elif op.kind == "back":
                s.memory[i] = Place(f"C{op.lo}", "ring", op.shift, slots=abs(op.shift) + 1)
        self._gradients()
        self._carries()
        self._products()
        return s

    def _leaf(self, op: Op) -> Place:
        return Place(f"E{op.lo}", "chunk") if op.kind == "ext" else Place(self.weights[op.name], "param")

    def _store(self, i: int, place: Place) -> None:
        self.s.stores.setdefault(i, []).append(place)
        if i < len(self.c.cell) and i not in self.s.ids:
            self.s.ids.insert(0, i)

    def _gradients(self) -> None:
        c, d, buffers = self.c, self.d, self.source.buffers
        if c.targets:
            hole = any(g is None for g in d.pre)
            buffers["G"] = Buffer("chunk", c.width, self.front, self.back, zero=hole)
        for t, g in zip(c.targets, d.pre, strict=True):
            if g is not None:
                self._store(g, Place("G", "chunk", self.front, t.lo, t.hi))
        outside = [g for g in d.ext if g is not None]
        outside += [*d.params.values(), *(m.g for m in d.matrices if m.kind != "full")]
        for g in dict.fromkeys(outside):
            found = [p for p in self.s.stores.get(g, ()) if p.base == "G"]
            place = found[0] if found else Place(f"X{g}", "chunk")
            if not found:
                buffers[place.base] = Buffer("chunk", self.ops[g].size)
                self._store(g, place)
            self.source.places[g] = place

    def _carries(self) -> None:
        for shift, g in self.d.shifts.items():
            op, name = self.ops[shift], f"C{shift}"
            if self.masked:
                self.source.buffers[name] = Buffer("chunk", op.size, self.front, self.back, wide=True)
                self._store(g, Place(name, "chunk", self.front))
            else:
                slots = abs(op.shift) + 1  # what this step sends may not overwrite what it receives
                self.source.buffers[name] = Buffer("ring", op.size, slots=slots, zero=True, wide=True)
                self._store(g, Place(name, "ring", 0, slots=slots))

    # Products with recurrent weights -------------------------------------------------------------------

    def _products(self) -> None:
        s = self.s
        readers: dict[int, list[int]] = {}
        for i in s.ids:
            for a in self.ops[i].args:
                readers.setdefault(a, []).append(i)
        taken: set[int] = set()
        for i in s.ids:
            op = self.ops[i]
            if op.kind != "sum":
                continue
            mine = [
                a
                for a, coef in zip(op.args, op.coefs, strict=True)
                if self.ops[a].kind == "full_t" and coef == 1.0 and readers[a] == [i] and not s.stores.get(a)
                and self.ops[a].size == op.size
            ]  # fmt: skip
            if not mine:
                continue
            taken.update(mine)
            s.skip.update(mine)
            if len(mine) == len(op.args) and not op.value:
                s.memory[i] = out = self._out(i)
            else:
                out = Place(f"M{i}p", "temp")
                s.extra[i] = [out]
            self._sum_of(mine, out, i)
        for i in s.ids:
            op = self.ops[i]
            if op.kind == "full_t" and i not in taken:
                s.memory[i] = self._out(i)
                self._sum_of([i], s.memory[i], i)
            elif op.kind == "block_t":
                s.memory[i] = self._out(i)
                (g,) = op.args
                x = next(p for p in s.stores[g] if p.base[0] not in WIDE) if self.narrow else g
                size = self.ops[g].size
                _blocks(s, i, g, x, size, self.weights[op.name], s.memory[i], True)

    def _out(self, i: int) -> Place:
        """Where products give op i: where it has to go, unless it is rounded there."""
        stores = self.s.stores.get(i, [])
        fits = bool(stores) and (not self.narrow or stores[0].base[0] in WIDE)
        return stores.pop(0) if fits else Place(f"M{i}", "temp")

    def _sum_of(self, products: list[int], out: Place, gives: int) -> None:
        """Products that add up in `out`; those of adjacent columns of G are one."""
        size = self.ops[products[0]].size
        columns = {name: (k, lo, hi) for k, run in enumerate(self.c.runs) for name, lo, hi in run.weights}
        spans: list[tuple[int, int, int, set[int]]] = []  # run, first and last row, gradients
        for a in sorted(products, key=lambda a: columns[self.ops[a].name]):
            k, lo, hi = columns[self.ops[a].name]
            (g,) = self.ops[a].args
            if spans and spans[-1][0] == k and spans[-1][2] == lo:
                spans[-1] = (k, spans[-1][1], hi, spans[-1][3] | {g})
            else:
                spans.append((k, lo, hi, {g}))
        for at, (k, lo, hi, needs) in enumerate(spans):
            first = self.c.runs[k].lo
            x = Place("G", "chunk", self.front, first + lo, first + hi)
            piece = Piece(f"w{k}", lo * size, size, hi - lo, 1, size)
            after = len(self.s.products) - 1 if at else -1
            product = Product(piece, x, out, at > 0, frozenset(needs), frozenset({gives}), after=after)
            self.s.products.append(product)
