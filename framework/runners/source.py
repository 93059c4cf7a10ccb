"""Generated Python for one loop, forward and backward: what the `torch` runner executes.

The text is plain torch statements over buffers that `torch_loop.py` allocates; `scripts/show_plan.py --code`
prints it. Names: P pre-activations, G their gradient, V node values with boundary steps, S other saved values,
R masked reads, E hoisted values, DY outer gradients, X their hoisted gradient, B block values, M temporaries,
C carried adjoints, A stored adjoints, K keep masks (L: as numbers), w weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from framework.cell import Op
from framework.component import Component, Run
from framework.ops import TABLE
from framework.runners.emit import Place, pointwise, structural, total


@dataclass(frozen=True, slots=True)
class Buffer:
    """mode chunk: [front + T + back, B, size]; block: [K, B, size]; temp: [B, size]; ring: slots of temps."""

    mode: str
    size: int
    front: int = 0
    back: int = 0
    slots: int = 1
    zero: bool = False


@dataclass(slots=True)
class Source:
    """`text` defines `run(T, K, v)`; `buffers` must be allocated under their names in v."""

    text: str = ""
    buffers: dict[str, Buffer] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)
    direct: dict[int, list[int]] = field(default_factory=dict)  # shift op -> runs multiplied on arrival


def pads(c: Component) -> tuple[int, int]:
    """Boundary steps before and after a chunk in the buffers of values and gradients."""
    d = max(c.states.values(), default=0)
    return (d, 0) if c.direction > 0 else (0, d)


def value_name(c: Component, at: int) -> str:
    """The buffer of a node's values (ids of the cell)."""
    return f"V{at}"


class Emitter:
    """Collects statements and the per-step lists of views that they use."""

    def __init__(self, ops: Sequence[Op]):
        self.ops = ops
        self.source = Source()
        self.place = self.source.places
        self.views: dict[str, str] = {}  # name of a per-step list -> expression
        self.fixed: dict[str, str] = {}  # name of a view that is the same at all steps -> expression
        self.virtual: set[int] = set()

    def buffer(self, name: str, mode: str, size: int, **more: int | bool) -> Place:
        self.source.buffers.setdefault(name, Buffer(mode, size, **more))  # type: ignore[arg-type]
        slots = self.source.buffers[name].slots
        return Place(name, mode, self.source.buffers[name].front, slots=slots)

    def ref(self, p: Place, mode: str, offset: int = 0) -> str:
        """The text that stands for a place: at one step, over a block of steps, or over the whole chunk."""
        cut = "" if p.hi < 0 else f"{p.lo}:{p.hi}"
        tag = "" if p.hi < 0 else f"_{p.lo}_{p.hi}"
        if p.mode == "const":
            return p.base
        if p.mode in ("param", "temp"):
            return self._fixed(p.base, tag, f"[..., {cut}]") if cut else p.base
        if p.mode == "ring":
            at = f"{p.base}[t % {p.slots}]" if p.slots > 1 else f"{p.base}[0]"
            if p.slots == 1:
                return self._fixed(p.base, "_0" + tag, "[0]" + (f"[:, {cut}]" if cut else ""))
            return f"{at}[:, {cut}]" if cut else at
        shift = p.offset + offset
        if mode == "step":
            name = f"{p.base}{tag}_"
            self.views[name] = p.base + (f"[:, :, {cut}]" if cut else "") + ".unbind(0)"
            if p.mode == "block":
                return f"{name}[t - t0]"
            return f"{name}[t{shift:+d}]" if shift else f"{name}[t]"
        columns = f", :, {cut}" if cut else ""
        if p.mode == "block":
            return f"{p.base}[:t1 - t0{columns}]"
        if mode == "block":
            return f"{p.base}[t0{shift:+d}:t1{shift:+d}{columns}]"
        return f"{p.base}[{shift}:T{shift:+d}{columns}]"

    def _fixed(self, base: str, tag: str, expression: str) -> str:
        self.fixed[base + tag] = base + expression
        return base + tag

    def operand(self, at: int, mode: str) -> str:
        """The text of op `at` as an argument."""
        op = self.ops[at]
        if op.kind == "const":
            return self.number(op.value)
        return self.ref(self.place[at], mode)

    def number(self, value: float) -> str:
        """The name of a tensor [] that holds a number."""
        name = "n" + re.sub(r"\W", "_", repr(value))
        self.fixed[name] = f"const({value!r})"
        return name

    def statement(self, at: int, mode: str, skip: Iterable[int] = (), out: str = "") -> list[str]:
        """Statements that compute op `at` into its place (or `out`); `skip`: sum terms already there."""
        op = self.ops[at]
        out = out or self.ref(self.place[at], mode)
        if op.kind == "sum":
            skipped = set(skip)
            added = [(a, coef) for a, coef in zip(op.args, op.coefs, strict=True) if a not in skipped]
            terms = [(self.factors(a, mode), coef) for a, coef in added]
            if skipped or all(self.is_whole(a, op.size) for a, _ in added):
                return total(out, terms, op.value, bool(skipped), self.number(op.value) if op.value else "")
            return [f"{out}.zero_()", *total(out, terms, op.value, True)]
        ids = list(op.args)
        if op.kind == "prod":  # the first two must have the product's shape: out= does not broadcast
            first = min(ids, key=lambda a: (self.is_flat(a), -self.ops[a].size))
            ids.remove(first)
            ids = [first, *sorted(ids, key=lambda a: -self.ops[a].size)]
        flat = all(self.is_flat(a) for a in ids)
        args = [self.wide(a, mode, out) if flat else self.operand(a, mode) for a in ids]
        if op.name and op.kind in ("full", "block", "full_t", "block_t", "gather"):
            args.append(self.weight(op.name))
        if op.kind in TABLE:
            return pointwise(op, out, args, args[0] == out)
        return structural(op, out, args)

    def widest_first(self, terms: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
        """Terms of size 1 last: the first statement must fill all of its place."""
        return sorted(terms, key=lambda term: -self.ops[term[0]].size)

    def weight(self, name: str) -> str:
        """The variable that holds weight `name`."""
        raise NotImplementedError

    def factors(self, at: int, mode: str) -> tuple[str, ...]:
        """A term of a sum: its own text, or the two factors of a product that is computed on the spot."""
        if at in self.virtual:
            a, b = self.ops[at].args
            return self.operand(a, mode), self.operand(b, mode)
        return (self.operand(at, mode),)

    def is_flat(self, at: int) -> bool:
        """Whether op `at` is a number or one row for all lanes (or a product of such)."""
        if at in self.virtual:
            args = self.ops[at].args
            return bool(args) and all(self.is_flat(a) for a in args)
        return self.ops[at].kind == "const" or (at in self.place and self.place[at].mode == "param")

    def is_whole(self, at: int, size: int) -> bool:
        """Whether op `at` has `size` units and a row for each lane: then it may start a sum of that size."""
        return self.ops[at].size == size and not self.is_flat(at)

    def wide(self, at: int, mode: str, out: str) -> str:
        """The text of a flat op with as many rows as `out`."""
        op = self.ops[at]
        text = repr(op.value) if op.kind == "const" else self.operand(at, mode)
        return f"wide({text}, {out})"

    def readers(self, ids: Iterable[int]) -> dict[int, list[int]]:
        """Which of the ops `ids` read each op."""
        found: dict[int, list[int]] = {}
        for i in ids:
            for a in self.ops[i].args:
                found.setdefault(a, []).append(i)
        return found

    def fuse_products(
        self, ids: Sequence[int], readers: Mapping[int, Sequence[int]], keep: Iterable[int]
    ) -> None:
        """Products of two that one sum among `ids` alone reads need no place of their own."""
        kept, inside = set(keep), set(ids)
        for i in ids:
            op = self.ops[i]
            if op.kind != "prod" or len(op.args) != 2 or i in kept:
                continue
            who = readers.get(i, [])
            if len(who) == 1 and who[0] in inside and self.ops[who[0]].kind == "sum":
                consts = any(self.ops[a].kind == "const" for a in op.args)
                if op.size == self.ops[who[0]].size and not consts:
                    self.virtual.add(i)

    def finish(self, head: Sequence[str], tail: Sequence[str] = ()) -> Source:
        lines = ["def run(T, K, v):"]
        names = sorted(_names([*self.views.values(), *self.fixed.values(), *head, *tail]))
        lines += [f"    {n} = v[{n!r}]" for n in names]
        lines += [f"    {n} = {e}" for n, e in sorted(self.fixed.items())]
        lines += [f"    {n} = {e}" for n, e in sorted(self.views.items())]
        lines += [f"    {line}" for line in (*head, *tail)] or ["    pass"]
        self.source.text = "\n".join(lines) + "\n"
        return self.source


def _names(texts: Iterable[str]) -> set[str]:
    """Names of buffers and weights (capital letters and w, with digits) that texts use."""
    found: set[str] = set()
    for text in texts:
        found.update(re.findall(r"(?<![\w.])(?:P|G|const|(?:add|back|base|mm|[VSREBMCAKLX]|DY|w|U)\d+)(?![\w])", text))
    return found


class ForwardEmitter(Emitter):
    """The loop of a component. saved: cell ops that the backward will read."""

    def __init__(self, c: Component, saved: frozenset[int], weights: Mapping[str, str], masked: bool):
        super().__init__(c.cell)
        self.c, self.weights, self.masked = c, weights, masked
        self.front, self.back = pads(c)
        views = set(saved)  # what a saved view shows is saved with it
        for i in range(len(c.cell) - 1, -1, -1):
            if i in views and c.cell[i].kind in ("stop", "slice"):
                views.add(c.cell[i].args[0])
        self.saved = frozenset(views)

    def weight(self, name: str) -> str:
        return self.weights[name]

    def emit(self) -> Source:
        c = self.c
        self._places()
        ids = [i for i, op in enumerate(c.cell) if op.kind not in ("pre", "ext", "param", "const", "full")]
        body: list[str] = []
        run_of: dict[int, list[tuple[int, Run]]] = {run.source: [] for run in c.runs}
        for k, run in enumerate(c.runs):
            run_of[run.source].append((k, run))
        done: set[int] = set()
        pending = [i for i in ids if i not in self.virtual]
        depends = {i: self._needs(i) for i in pending}
        body += self._products(None, run_of)
        while pending:
            ready = [i for i in pending if depends[i] <= done]
            assert ready, "the cell has a loop without delay"
            # Sums that the products have completed already come first: what follows them can be done together.
            i = next((j for j in ready if not self._emit_op(j, [j])), ready[0])
            group = self._side_by_side(i, ready)
            body += self._emit_op(i, group)
            for j in group:
                pending.remove(j)
                done.add(j)
                body += self._products(j, run_of)
        span = "range(T)" if c.direction > 0 else "range(T - 1, -1, -1)"
        return self.finish([f"for t in {span}:", *(f"    {line}" for line in body or ["pass"])])

    def _needs(self, i: int) -> set[int]:
        """Ops with statements that must come before op i."""
        out: set[int] = set()
        todo = list(self.ops[i].args)
        while todo:
            a = todo.pop()
            op = self.ops[a]
            if op.kind in ("pre", "ext", "param", "const"):
                continue
            if op.kind == "full" or a in self.virtual:
                todo.extend(op.args)
            else:
                out.add(a)
        return out

    def _products(self, source: int | None, run_of: Mapping[int, list[tuple[int, Run]]]) -> list[str]:
        """Matrix products whose source has just become ready (None: values from other steps)."""
        lines = []
        for at, runs in run_of.items():
            early = self.ops[at].kind in ("ext", "param", "const") or (
                self.ops[at].kind == "shift" and not self.masked
            )
            if (source is None) != early or (source is not None and at != source):
                continue
            for k, run in runs:
                out = self.ref(Place("P", "chunk", 0, run.lo, run.hi), "step")
                rows = self.wide(at, "step", out) if self.is_flat(at) else self.operand(at, "step")
                lines.append(f"add{k}({out}, {rows})")
        return lines

    def _places(self) -> None:
        c, cell = self.c, self.c.cell
        roots = {c.roots[n] for n in c.states} | {local for _, local in c.outputs}
        readers: dict[int, int] = {}
        for op in cell:
            for a in op.args:
                readers[a] = readers.get(a, 0) + 1
        ids = range(len(cell))
        self.fuse_products(ids, self.readers(ids), {*self.saved, *roots})
        sums = {t.op for t in c.targets}
        for i, op in enumerate(cell):
            if i in self.virtual or op.kind in ("full", "const"):
                continue
            if op.kind == "pre":
                self.place[i] = Place("P", "chunk", 0, op.lo, op.hi)
            elif op.kind == "ext":
                self.place[i] = Place(f"E{op.lo}", "chunk")
            elif op.kind == "param":
                self.place[i] = Place(self.weights[op.name], "param")
            elif op.kind == "shift":
                self.place[i] = self._shift_place(i, op)
            elif i in roots:
                self.place[i] = self.buffer(f"V{i}", "chunk", op.size, front=self.front, back=self.back)
            elif i in sums:
                self.place[i] = self.place[op.args[0]]
            elif op.kind == "stop":
                self.place[i] = self.place[op.args[0]]
            elif op.kind == "slice" and cell[op.args[0]].kind != "const" and op.args[0] in self.place:
                self.place[i] = self._sliced(op)
            elif op.kind in TABLE and TABLE[op.kind].inplace and self._free(op.args[0], readers):
                self.place[i] = self.place[op.args[0]]
            elif i in self.saved:
                self.place[i] = self.buffer(f"S{i}", "chunk", op.size)
            else:
                self.place[i] = self.buffer(f"M{i}", "temp", op.size)

    def _sliced(self, op: Op) -> Place:
        return self.place[op.args[0]].columns(op.lo, op.hi)

    def _free(self, at: int, readers: Mapping[int, int]) -> bool:
        """Whether a target's columns may be overwritten by the function of it."""
        sums = {t.op for t in self.c.targets}
        if at not in sums or at in self.saved or readers[at] != 1:
            return False
        return self.place[at].base == "P"

    def _shift_place(self, i: int, op: Op) -> Place:
        root = self.c.roots[op.name]
        if self.masked:
            return self.buffer(f"R{i}", "chunk", op.size)
        self.buffer(f"V{root}", "chunk", op.size, front=self.front, back=self.back)
        return Place(f"V{root}", "chunk", self.front + op.shift)

    def _emit_op(self, i: int, group: Sequence[int]) -> list[str]:
        op = self.ops[i]
        if op.kind == "shift":
            if not self.masked:
                return []
            root = self.c.roots[op.name]
            source = self.ref(Place(f"V{root}", "chunk", self.front + op.shift), "step")
            keep = self.ref(Place(f"K{abs(op.shift)}", "chunk"), "step")
            out = self.ref(self.place[i], "step")
            return [f"torch.where({keep}, {source}, U{root}, out={out})"]
        if op.kind in ("slice", "stop"):
            if self.place[i] == (self._sliced(op) if op.kind == "slice" else self.place[op.args[0]]):
                return []
            return [f"{self.ref(self.place[i], 'step')}.copy_({self._moved(op)})"]
        if len(group) > 1:
            p = self.place[i]
            lo = min(self.place[j].lo for j in group)
            hi = max(self.place[j].hi for j in group)
            out = self.ref(Place(p.base, p.mode, p.offset, lo, hi), "step")
            return pointwise(op, out, [out], True)
        skip: list[int] = []
        if i in {t.op for t in self.c.targets}:
            start = op.args[0]
            skip = [a for a in op.args if self.ops[a].kind == "full"] + [start]
            if self.place[i] != self.place[start]:
                lines = [f"{self.ref(self.place[i], 'step')}.copy_({self.operand(start, 'step')})"]
                return lines + self.statement(i, "step", skip)
        return self.statement(i, "step", skip)

    def _moved(self, op: Op) -> str:
        source = self.operand(op.args[0], "step")
        return f"{source}[..., {op.lo}:{op.hi}]" if op.kind == "slice" else source

    def _side_by_side(self, i: int, ready: Sequence[int]) -> list[int]:
        """Ops like i, ready too, whose columns touch: one call does them all."""
        op = self.ops[i]

        def joins(j: int) -> bool:
            other = self.ops[j]
            return (
                other.kind == op.kind
                and len(other.args) == 1
                and j in self.place
                and self.place[j] == self.place.get(other.args[0])
                and self.place[j].base == "P"
            )

        if op.kind not in TABLE or not TABLE[op.kind].inplace or not joins(i):
            return [i]
        group = {i}
        lo, hi = self.place[i].lo, self.place[i].hi
        grown = True
        while grown:
            grown = False
            for j in ready:
                if j not in group and joins(j) and (self.place[j].hi == lo or self.place[j].lo == hi):
                    group.add(j)
                    lo, hi = min(lo, self.place[j].lo), max(hi, self.place[j].hi)
                    grown = True
        return [j for j in ready if j in group]
