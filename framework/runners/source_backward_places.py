"""Where the values of a backward loop lie, and which adjoints are not carried from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from framework.component import Component
from framework.derivative import Backward
from framework.runners.emit import Place
from framework.runners.source import Emitter, pads


class BackwardPlaces(Emitter):
    """See `BackwardEmitter`, whose statements read and write these places.

    carried[s]: terms of the adjoint of shift op s that are handed to earlier steps in C.
    direct[s]: products with recurrent weights that need no carrying: the step that receives them reads the
    stored gradient G of the later step and multiplies then.
    """

    def __init__(
        self,
        c: Component,
        d: Backward,
        places: Mapping[int, Place],
        weights: Mapping[str, str],
        masked: bool,
    ):
        super().__init__(d.ops)
        self.c, self.d, self.weights, self.masked = c, d, weights, masked
        front, back = pads(c)
        self.gfront, self.gback = back, front  # gradients come from the other side in time
        self.cell_places = places
        self.loop = set(d.loop)
        self.before = set(d.before)
        # gradient -> first gradient of its group, adjoint, members and size
        self.joined: dict[int, tuple[int, int, int, int]] = {}
        self.all_readers = self.readers((*d.before, *d.loop, *d.after))
        self.outputs = [g for g in (*d.pre, *d.ext) if g is not None]
        self.outputs += [*d.params.values(), *(m.g for m in d.matrices)]
        self.copies: list[tuple[int, int, int]] = []  # adjoint op that must also stand in G columns lo:hi
        self.run_terms: dict[int, list[int]] = {}  # sum -> runs whose products with G it takes in
        self.carried: dict[int, list[tuple[int, float]]] = {}
        self.direct: dict[int, list[int]] = {}

    def weight(self, name: str) -> str:
        """The variable that holds weight `name`."""
        return self.weights[name]

    def _columns(self, lo: int, hi: int) -> Place:
        return Place("G", "chunk", self.gfront, lo, hi)

    def _gradient_columns(self) -> set[int]:
        """Give the gradients of hoisted columns their place in G."""
        d, c = self.d, self.c
        if c.targets:
            hole = any(g is None for g in d.pre)
            self.buffer("G", "chunk", c.width, front=self.gfront, back=self.gback, zero=hole)
        placed: set[int] = set()
        for t, g in zip(c.targets, d.pre, strict=True):
            if g is None:
                continue
            if g in placed or self.ops[g].kind in ("back", "grad"):
                self.copies.append((g, t.lo, t.hi))
            else:
                self.place[g] = self._columns(t.lo, t.hi)
                placed.add(g)
        return placed

    def _run_products(self, terms: Mapping[int, float], source: int, in_g: set[int]) -> list[int]:
        """Runs with that source whose transposed products are all among `terms` and read nowhere else."""
        out = []
        for k, run in enumerate(self.c.runs):
            if run.source != source:
                continue
            names = {name for name, _, _ in run.weights}
            mine = [
                a
                for a, coef in terms.items()
                if coef == 1.0 and self.ops[a].kind == "full_t" and self.ops[a].name in names
            ]
            alone = all(len(self.all_readers.get(a, ())) <= 1 and a not in self.outputs for a in mine)
            at = {t.lo: g for t, g in zip(self.c.targets, self.d.pre, strict=True)}
            lined = all(at.get(run.lo + lo) in in_g for _, lo, _ in run.weights)
            in_order = all(
                self.place.get(self.ops[a].args[0]) is not None
                and self.place[self.ops[a].args[0]].base == "G"
                for a in mine
            )
            if len(mine) == len(names) and alone and lined and in_order:
                self.virtual.update(mine)
                out.append(k)
        return out

    def _terms(self, g: int) -> dict[int, float]:
        op = self.ops[g]
        if op.kind == "sum" and not op.value:
            return dict(zip(op.args, op.coefs, strict=True))
        return {g: 1.0}

    def _take_in_products(self, in_g: set[int]) -> None:
        """Sums inside a step that hold all products of a run: one product with G instead."""
        ends = set(self.d.shifts.values())
        sources = {run.source for run in self.c.runs if self.c.cell[run.source].kind != "shift"}
        names = {name: run.source for run in self.c.runs for name, _, _ in run.weights}
        for i in self.d.loop:
            op = self.ops[i]
            if op.kind != "sum" or i in ends:
                continue
            here = {names.get(self.ops[a].name) for a in op.args if self.ops[a].kind == "full_t"}
            for source in sources & {s for s in here if s is not None}:
                runs = self._run_products(self._terms(i), source, in_g)
                if runs:
                    self.run_terms.setdefault(i, []).extend(runs)

    def _carries(self, in_g: set[int]) -> None:
        for shift, g in self.d.shifts.items():
            shared = bool(self.all_readers.get(g)) or g in self.outputs or g not in self.loop
            shared = shared or list(self.d.shifts.values()).count(g) > 1
            terms = self._terms(g)
            op = self.ops[g]
            split = op.kind in ("sum", "full_t") and not self.masked and not shared
            runs = self._run_products(terms, shift, in_g) if split else []
            self.direct[shift] = runs
            if runs:
                self.carried[shift] = [(a, x) for a, x in terms.items() if a not in self.virtual]
                self.virtual.add(g)
            else:
                self.carried[shift] = [(g, 1.0)]
                if self.masked and not shared and op.kind == "sum":
                    self.run_terms[g] = self._run_products(terms, shift, in_g)
                if not shared and op.kind in ("prod", "sum"):
                    self.virtual.add(g)  # computed at the end of the step, right where it is carried

    def _places(self, in_g: set[int]) -> None:
        d = self.d
        read_after = {a for i in d.after for a in self.ops[i].args if a in self.loop}
        keep = {*read_after, *in_g, *self.outputs, *self.virtual, *d.shifts.values()}
        for ids in (d.before, d.loop, d.after):
            self.fuse_products(ids, self.all_readers, keep)
        for i in d.loop:
            readers = self.all_readers.get(i, [])
            if self.ops[i].kind == "back" and i not in keep and len(readers) == 1:
                if self._adds(readers[0], i) and readers[0] not in self.virtual:
                    self.virtual.add(i)
        self._side_by_side(in_g)
        results = set(self.outputs)
        for i in (*d.before, *d.loop, *d.after):
            op = self.ops[i]
            if i in self.virtual or i in self.place:
                continue
            if op.kind == "grad":
                self.place[i] = Place(f"DY{op.lo}", "chunk")
            elif i in results:
                self.place[i] = self.buffer(f"X{i}", "chunk", op.size)
            elif i not in read_after and (view := self._sliced(i)) is not None:
                self.place[i] = view
            elif i in self.loop and i not in read_after:
                self.place[i] = self.buffer(f"M{i}", "temp", op.size)
            else:
                self.place[i] = self.buffer(f"B{i}", "block", op.size)
        for shift, terms in self.carried.items():
            size, slots = self.ops[shift].size, abs(self.ops[shift].shift)
            if terms and self.masked:
                self.buffer(f"C{shift}", "chunk", size, front=self.gfront, back=self.gback)
            elif terms:
                self.buffer(f"C{shift}", "ring", size, slots=slots, zero=True)

    def _side_by_side(self, in_g: set[int]) -> None:
        """Gradients next to each other in G that are one adjoint times prepared factors: one product for all.

        Their factors get columns of one block buffer, in the same order.
        """
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (adjoint, size) -> (gradient, factor)
        for g in sorted(in_g & self.loop, key=lambda g: self.place[g].lo):
            op = self.ops[g]
            factors = [a for a in op.args if a in self.before and self.ops[a].kind != "grad"]
            adjoints = [a for a in op.args if a in self.loop and a not in self.virtual]
            if op.kind == "prod" and len(op.args) == 2 and len(factors) == len(adjoints) == 1:
                f, x = factors[0], adjoints[0]
                if self.ops[f].size == self.ops[x].size == op.size and self.all_readers[f] == [g]:
                    found.setdefault((x, op.size), []).append((g, f))
        for (x, size), pairs in found.items():
            run: list[tuple[int, int]] = []
            for pair in [*pairs, None]:
                if run and (pair is None or self.place[pair[0]].lo != self.place[run[-1][0]].hi):
                    if len(run) > 1:
                        self._join(x, size, run)
                    run = []
                if pair is not None:
                    run.append(pair)

    def _join(self, x: int, size: int, pairs: Sequence[tuple[int, int]]) -> None:
        first = pairs[0][0]
        base = f"B{pairs[0][1]}"
        self.buffer(base, "block", size * len(pairs))
        for k, (g, f) in enumerate(pairs):
            self.place[f] = Place(base, "block", 0, k * size, (k + 1) * size)
            self.joined[g] = (first, x, len(pairs), size)

    def _adds(self, i: int, back: int) -> bool:
        """Whether op i is a sum that takes the read `back` as it is."""
        op = self.ops[i]
        if op.kind != "sum":
            return False
        return op.coefs[op.args.index(back)] == 1.0 or not self.direct[self.ops[back].lo]

    def _sliced(self, i: int) -> Place | None:
        """A slice is a view of its argument."""
        op = self.ops[i]
        if op.kind == "slice" and op.args[0] in self.place:
            return self.place[op.args[0]].columns(op.lo, op.hi)
        return None
