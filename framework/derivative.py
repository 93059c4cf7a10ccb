"""The derivative of a cell: symbolic reverse mode over its op list, planned like the forward.

The result is again an op list. Reads back in time become reads ahead (`back` ops), so the loop of the
backward is found by the same search for strongly connected components, and everything outside it (factors
that need only saved values, gradients of weights) is computed for many steps at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from framework.cell import Builder, Op
from framework.component import Component
from framework.ops import TABLE
from framework.scc import components, topological


@dataclass(frozen=True, slots=True)
class MatrixGradient:
    """d weight += outer(g, source), summed over steps and lanes. `kind`: full, block or gather."""

    kind: str
    name: str
    g: int
    source: int


@dataclass(frozen=True, slots=True)
class Backward:
    """`ops` begin with the cell's own ops (same ids); adjoints follow.

    | field | meaning |
    |---|---|
    | pre, ext, params | adjoint op of each target's columns, ext number, vector weight (None: no gradient) |
    | shifts | adjoint of each shift op of the cell, also what `back` ops read |
    | matrices | the weight gradients that are products of two stored sequences |
    | before, loop, after | ids in order: from saved values alone; step by step; from the loop's results |
    | saved | cell ops whose values the backward reads |
    """

    ops: tuple[Op, ...]
    pre: tuple[int | None, ...]
    ext: tuple[int | None, ...]
    params: Mapping[str, int]
    shifts: Mapping[int, int]
    matrices: tuple[MatrixGradient, ...]
    before: tuple[int, ...]
    loop: tuple[int, ...]
    after: tuple[int, ...]
    saved: frozenset[int]


@dataclass(slots=True)
class _Reverse:
    b: Builder
    n: int  # ops of the cell itself
    terms: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    live: dict[int, bool] = field(default_factory=dict)

    def is_live(self, at: int) -> bool:
        """Whether op `at` depends on an adjoint (else it needs saved values alone)."""
        if at < self.n:
            return False
        known = self.live.get(at)
        if known is None:
            op = self.b.ops[at]
            known = op.kind in ("grad", "back") or any(self.is_live(a) for a in op.args)
            self.live[at] = known
        return known

    def cheap(self, at: int) -> int:
        """A value like 1 - u is written again rather than saved."""
        op = self.b.ops[at]
        if at < self.n and op.kind == "sum" and len(op.args) == 1:
            return self.b.sum((op.args[0], op.coefs[0]), const=op.value)
        return at

    def split(self, g: int) -> tuple[tuple[int, ...], list[int], float]:
        """g as (adjoint factors, factors from saved values, number)."""
        coef, op = 1.0, self.b.ops[g]
        if op.kind == "sum" and len(op.args) == 1 and op.value == 0.0 and g >= self.n:
            coef, g = op.coefs[0], op.args[0]
            op = self.b.ops[g]
        if op.kind != "prod" or g < self.n:
            return ((g,), [], coef) if self.is_live(g) else ((), [g], coef)
        live = tuple(a for a in op.args if self.is_live(a))
        rest: list[int] = []
        for a in op.args:
            if not self.is_live(a):
                inner = self.b.ops[a]
                rest.extend(inner.args if inner.kind == "prod" and a >= self.n else [a])
        return live, rest, coef

    def times(self, g: int, *factors: int, coef: float = 1.0) -> int:
        """g * factors with everything that needs no adjoint gathered in one factor."""
        live, rest, c = self.split(g)
        for f in factors:
            f_live, f_rest, f_c = self.split(f)
            live, rest, c = live + f_live, rest + f_rest, c * f_c
        return self.scaled(live, rest, c * coef)

    def scaled(self, live: Sequence[int], rest: Sequence[int], coef: float) -> int:
        b = self.b
        if not rest:
            return b.affine(b.prod(*live), coef, 0.0)
        factor = b.affine(b.prod(*rest), coef, 0.0)
        if b.ops[factor].kind == "sum" and len(b.ops[factor].args) == 1:
            # A scaled factor stays one op of its own: b.prod would pull the number out again.
            args = tuple(sorted((*live, factor)))
            return b.add(Op("prod", args, b.size(args))) if live else factor
        return b.prod(*live, factor)

    def give(self, to: int, g: int, coef: float = 1.0) -> None:
        """Add coef * g to the adjoint of `to`, undoing broadcasting."""
        if self.b.ops[to].size == 1 and self.b.ops[g].size > 1:
            g = self.b.rowsum(g)
        self.terms.setdefault(to, []).append((g, coef))

    def adjoint(self, at: int) -> int | None:
        """The sum of all that was given to `at`; terms with one adjoint and several factors are joined."""
        terms = self.terms.get(at)
        if not terms:
            return None
        groups: dict[tuple[int, ...], list[tuple[list[int], float]]] = {}
        for g, coef in terms:
            live, rest, c = self.split(g)
            groups.setdefault(tuple(sorted(live)), []).append((rest, c * coef))
        out: list[tuple[int, float]] = []
        for live, parts in groups.items():
            if len(parts) == 1 or not live:
                for rest, c in parts:
                    out.append((self.b.prod(*live, self.b.prod(*rest)) if rest else self.b.prod(*live), c))
                continue
            const = sum(c for rest, c in parts if not rest)
            factor = self.b.sum(*((self.b.prod(*rest), c) for rest, c in parts if rest), const=const)
            out.append((self.times(self.b.prod(*live), factor), 1.0))
        return self.b.sum(*out)


def derive(c: Component, hoist: bool = True, given: frozenset[int] | None = None) -> Backward:
    """The backward of component `c` when its outputs `given` (ops of the cell; all) receive gradients.

    With hoist=False (the plan's parallel=none) every op of it stays in the loop.
    """
    skip: frozenset[int] = frozenset()
    if given is None:
        given = frozenset(at for _, at in c.outputs)
    while True:
        found = _derive(c, skip, hoist, given)
        # A delayed read that no gradient reaches (all its uses are stopped) sends nothing back.
        unreached = frozenset(
            i for i, op in enumerate(c.cell) if op.kind == "shift" and i not in found.shifts
        )
        if unreached == skip:
            return found
        skip = unreached


def _derive(c: Component, skip: frozenset[int], hoist: bool, given: frozenset[int]) -> Backward:
    # Nothing of the cell is `known`: an op written again here is computed again, not saved.
    b = Builder(list(c.cell))
    r = _Reverse(b, len(c.cell))
    shifts: dict[int, int | None] = {}
    for at in sorted(given):
        r.give(at, b.add(Op("grad", size=c.cell[at].size, lo=at)))
    for i, op in enumerate(c.cell):
        if op.kind == "shift" and i not in skip:
            r.give(c.roots[op.name], b.add(Op("back", size=op.size, shift=-op.shift, lo=i)))
    matrices: list[MatrixGradient] = []
    params: dict[str, int] = {}
    ext: dict[int, int] = {}
    pre: dict[int, int] = {}
    order = topological(range(len(c.cell)), [list(op.args) for op in c.cell])
    for at in reversed(order):
        g = r.adjoint(at)
        if g is None:
            continue
        op = c.cell[at]
        if op.kind == "shift":
            shifts[at] = g
        elif op.kind == "param":
            params[op.name] = g
        elif op.kind == "ext":
            if op.lo not in c.masks:  # nothing to learn in a random mask
                ext[op.lo] = g
        elif op.kind == "pre":
            pre[op.lo] = g
        elif op.kind in ("full", "block", "gather"):
            matrices.append(MatrixGradient(op.kind, op.name, g, op.args[0]))
            if op.kind != "gather":
                size = c.cell[op.args[0]].size
                back = b.add(Op(op.kind + "_t", (g,), size, op.name, blocks=op.blocks))
                r.give(op.args[0], back)
        else:
            _rule(r, op, at, g)
    known = {i: g for i, g in shifts.items() if g is not None}
    outputs = [*known.values(), *params.values(), *ext.values(), *pre.values(), *(m.g for m in matrices)]
    before, loop, after = _classify(b.ops, r.n, known, outputs, hoist)
    saved: set[int] = set()
    for i in (*before, *loop, *after):
        saved |= {a for a in b.ops[i].args if a < r.n}
    saved |= {m.source for m in matrices}
    return Backward(
        tuple(b.ops), tuple(pre.get(t.lo) for t in c.targets), tuple(ext.get(i) for i in range(len(c.ext))),
        params, known, tuple(matrices), tuple(before), tuple(loop), tuple(after),
        frozenset(i for i in saved if c.cell[i].kind not in ("ext", "param", "const")),
    )  # fmt: skip


def _rule(r: _Reverse, op: Op, at: int, g: int) -> None:
    """Give the arguments of `op` their share of its adjoint g."""
    b = r.b
    if op.kind == "sum":
        for a, coef in zip(op.args, op.coefs, strict=True):
            r.give(a, g, coef)
    elif op.kind == "prod":
        for i, a in enumerate(op.args):
            others = [r.cheap(x) for x in (*op.args[:i], *op.args[i + 1 :])]
            # A weight's gradient is summed after the loop, from the g that is stored anyway.
            outside = b.ops[a].kind in ("param", "ext")
            r.give(a, b.prod(g, *others) if outside else r.times(g, *others))
    elif op.kind in ("copy", "expand"):
        r.give(op.args[0], g)
    elif op.kind == "concat":
        lo = 0
        for a in op.args:
            size = b.ops[a].size
            r.give(a, b.add(Op("slice", (g,), size, lo=lo, hi=lo + size)))
            lo += size
    elif op.kind == "slice":
        size = b.ops[op.args[0]].size
        r.give(op.args[0], b.add(Op("pad", (g,), size, lo=op.lo, hi=op.hi)))
    elif op.kind == "normalize":
        # y = (x - mean) * rstd: dx = rstd * (g - mean(g) - y * mean(g * y))
        x, n = op.args[0], op.size
        inner = b.sum((g, 1.0), (b.rowsum(g), -1.0 / n), (r.times(b.rowsum(r.times(g, at)), at), -1.0 / n))
        r.give(x, r.times(inner, b.add(Op("rstd", (x,)))))
    elif op.kind == "softmax":
        r.give(op.args[0], r.times(b.sum((g, 1.0), (b.rowsum(r.times(g, at)), -1.0)), at))
    elif op.kind in TABLE:
        derivative = TABLE[op.kind].derivative
        if derivative is not None:
            for a, partial in zip(op.args, derivative(b, at, op.args), strict=True):
                r.give(a, r.times(g, partial))
    else:
        assert op.kind in ("stop", "const", "input", "index"), op.kind


def _classify(
    ops: Sequence[Op], n: int, shifts: Mapping[int, int], outputs: Sequence[int], hoist: bool
) -> tuple[list[int], list[int], list[int]]:
    """Needed ops after the first n, split into before, in and after the loop of the adjoints."""
    edges = [list(op.args) for op in ops]
    full = [
        [*e, shifts[op.lo]] if op.kind == "back" and op.lo in shifts else e
        for e, op in zip(edges, ops, strict=True)
    ]
    needed: set[int] = set()
    todo = [i for i in outputs if i >= n]
    while todo:
        i = todo.pop()
        if i in needed:
            continue
        needed.add(i)
        todo.extend(a for a in full[i] if a >= n and a not in needed)
    order = sorted(needed)
    place = {v: k for k, v in enumerate(order)}
    found = components([[place[a] for a in full[v] if a in place] for v in order])
    cyclic = {order[k] for group in found if len(group) > 1 for k in group}
    # Reads from later steps, and what they read, are part of the loop even where no cycle runs through them.
    cyclic |= {v for v in order if ops[v].kind == "back"} | {g for g in shifts.values() if g in needed}
    below = _closure(order, cyclic, {v: [a for a in full[v] if a in needed] for v in order})
    readers: dict[int, list[int]] = {v: [] for v in order}
    for v in order:
        for a in full[v]:
            if a in needed:
                readers[a].append(v)
    above = _closure(order, cyclic, readers)
    loop = {v for v in order if not hoist or v in cyclic or (v in below and v in above)}
    sequence = topological(order, edges)
    # `back` ops read what an earlier turn of the loop left, so those of the loop come first in it.
    return (
        [v for v in sequence if v not in loop and v not in above],
        [v for v in sequence if v in loop],
        [v for v in sequence if v not in loop and v in above],
    )


def _closure(order: Sequence[int], start: set[int], edges: Mapping[int, Sequence[int]]) -> set[int]:
    seen = set(start)
    todo = list(start)
    while todo:
        for a in edges[todo.pop()]:
            if a not in seen:
                seen.add(a)
                todo.append(a)
    return seen
