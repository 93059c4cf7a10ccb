"""Generated Python for one loop, forward and backward: what the `torch` runner executes.

The text is plain torch statements over buffers that `torch_loop.py` allocates, and `scripts/show_plan.py`
prints it with --code. Names, followed by the number of an op of the cell, of an input (E), of a distance in
time (K, L), or of a product (w, add, back, base, mm). The argument K of `run` is the steps of a block:

    P  hoisted sums, which become gates in place       G  their gradient
    V  node values with boundary steps                 S  other values that the backward reads
    R  reads at other steps where resets cut           E  hoisted values
    K  where a read is inside its sequence (L as 0, 1) U  initial values
    DY gradients from outside                          X  gradients for outside
    B  values of a block of steps                      M  values of one step
    C  adjoints carried to other steps
    w  weights; add, back, base, mm: products with them (`products.step_product`)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from framework.cell import Op
from framework.component import Component
from framework.ops import TABLE
from framework.runners.emit import Place, pointwise, structural, total


@dataclass(frozen=True, slots=True)
class Buffer:
    """mode chunk: [front + T + back, B, size]; block: [K, B, size]; temp: [B, size]; ring: slots of temps.
    wide: of float32 at least.
    """

    mode: str
    size: int
    front: int = 0
    back: int = 0
    slots: int = 1
    zero: bool = False
    wide: bool = False


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
        """The place of a new buffer (see `Buffer`), or of the one that has this name."""
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
        """The source: names from v, lists of views by step, the statements."""
        lines = ["def run(T, K, v):"]
        names = sorted(_names([*self.views.values(), *self.fixed.values(), *head, *tail]))
        lines += [f"    {n} = v[{n!r}]" for n in names]
        lines += [f"    {n} = {e}" for n, e in sorted(self.fixed.items())]
        lines += [f"    {n} = {e}" for n, e in sorted(self.views.items())]
        lines += [f"    {line}" for line in (*head, *tail)] or ["    pass"]
        self.source.text = "\n".join(lines) + "\n"
        return self.source


_NAME = re.compile(r"(?<![\w.])(?:P|G|const|(?:add|back|base|mm|[VSREBMCKLX]|DY|w|U)\d+)(?!\w)")


def _names(texts: Iterable[str]) -> set[str]:
    """Names of buffers, weights and products that texts use."""
    return {name for text in texts for name in _NAME.findall(text)}
