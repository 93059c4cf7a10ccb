"""The steps of a plan: hoisted products in shared buffers, other hoisted ops, loops; packed weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from framework.cell import Builder
from framework.component import CONSTANT, Component
from framework.graph import Graph
from framework.scc import topological


class Pack(NamedTuple):
    """One parameter tensor: members stand below each other (full, gather) or end to end (vectors).

    kind: full [rows, source], gather (kept as [vocab, rows] so that a gather reads rows), vector [rows],
    block [blocks, rows, cols]. members: weight name, first and last row.
    """

    name: str
    kind: str
    members: tuple[tuple[str, int, int], ...]
    shape: tuple[int, ...]


class Addend(NamedTuple):
    """Part of a linear step: columns lo:hi get coef * (pack applied to op `source`).

    kind: full, gather (pack is a matrix), bias (pack is a vector, no source), value (source itself).
    """

    kind: str
    lo: int
    hi: int
    source: int = -1
    pack: str = ""
    coef: float = 1.0


@dataclass(frozen=True, slots=True)
class Linear:
    """Hoisted sums that share one buffer [T, B, width].

    `columns`: op -> its columns; `loop`: the name of the loop whose sums start from it, or "".
    """

    width: int
    addends: tuple[Addend, ...]
    const: tuple[tuple[int, int, float], ...]
    columns: Mapping[int, tuple[int, int]]
    loop: str = ""


@dataclass(frozen=True, slots=True)
class Map:
    """A hoisted op other than a sum of products, for all steps at once."""

    op: int


@dataclass(frozen=True, slots=True)
class Loop:
    """Run component `component`; `pre`: place of its Linear step, or -1."""

    component: int
    pre: int = -1


Step = Linear | Map | Loop

# Blocks of a loop that computes gates again: as many as this, unless their products would have fewer rows.
BLOCKS = 8
ROWS = 512


def block_steps(steps: int, lanes: int, reach: int) -> int:
    """Steps of a block in which a loop of `steps` computes its gates again; reach: its largest delay."""
    return min(steps, max(-(-steps // BLOCKS), -(-ROWS // lanes), reach))


class _Columns(NamedTuple):
    """Columns lo:hi of a buffer and what adds up in them."""

    op: int
    lo: int
    hi: int
    addends: tuple[tuple[int, float], ...]
    const: float


def make_steps(
    graph: Graph, b: Builder, roots: Mapping[str, int], made: Sequence[Component]
) -> tuple[tuple[Step, ...], tuple[tuple[int, ...], ...], dict[str, Pack]]:
    """Everything a chunk needs, in order; which loops may run together; the parameters."""
    return _Steps(graph, b, roots, made).run()


class _Steps:
    """Lives only during make_steps."""

    def __init__(self, graph: Graph, b: Builder, roots: Mapping[str, int], made: Sequence[Component]):
        self.graph, self.ops, self.roots, self.made = graph, b.ops, roots, made
        self.home = {i: k for k, c in enumerate(made) for i in c.members}
        self.packs: dict[str, Pack] = {}
        self.packed: set[str] = set()

    def run(self) -> tuple[tuple[Step, ...], tuple[tuple[int, ...], ...], dict[str, Pack]]:
        self.needed = self._needed()
        self.fused = self._fused()
        units, reads = self._units()
        order = topological(range(len(units)), reads)
        place = {u: i for i, u in enumerate(order)}
        steps: list[Step] = []
        for u in order:
            unit = units[u]
            if isinstance(unit, Loop) and unit.pre >= 0:
                unit = Loop(unit.component, place[unit.pre])
            steps.append(unit)
        self._pack_rest()
        level: dict[int, int] = {}  # loops on the longest way to a unit: those of one level do not wait
        together: dict[int, list[int]] = {}
        for u in order:
            level[u] = isinstance(units[u], Loop) + max((level[d] for d in reads[u]), default=0)
            if isinstance(units[u], Loop):
                together.setdefault(level[u], []).append(place[u])
        return tuple(steps), tuple(tuple(g) for g in together.values() if len(g) > 1), self.packs

    def _sources(self, at: int) -> Iterable[int]:
        op = self.ops[at]
        return (self.roots[op.name],) if op.kind == "shift" else op.args

    def _needed(self) -> dict[int, int]:
        """Hoisted ops that anything needs -> how many readers each has."""
        count: dict[int, int] = {}
        seen: set[int] = set()
        todo = [self.roots[n] for n in self.graph.outputs.values()]
        for i in todo:
            count[i] = count.get(i, 0) + 2  # an output is never fused away
        while todo:
            i = todo.pop()
            k = self.home.get(i)
            key = i if k is None else -1 - k
            if key in seen:
                continue
            seen.add(key)
            if k is None:
                sources = list(self._sources(i))
            else:
                c = self.made[k]
                sources = [*c.ext, *(a for t in c.targets for a, _ in t.addends)]
            for a in sources:
                count[a] = count.get(a, 0) + 1
            todo.extend(sources)
        self.seen = seen
        return count

    def _fused(self) -> set[int]:
        """Products and biases that are computed right into the buffer of the one sum that reads them."""
        sums = [[a for a, _ in t.addends] for c in self.made for t in c.targets]
        sums += [list(op.args) for i, op in enumerate(self.ops) if self._is_sum(i)]
        kinds = ("full", "gather", "param")
        return {
            a
            for args in sums
            for a in args
            if self.ops[a].kind in kinds and self.needed[a] == 1 and a not in self.home
        }

    def _is_sum(self, at: int) -> bool:
        op = self.ops[at]
        return (
            op.kind == "sum"
            and at in self.seen
            and at not in self.home
            and any(self.ops[a].kind in ("full", "gather") and a not in self.home for a in op.args)
        )

    def _units(self) -> tuple[list[Step], list[list[int]]]:
        """Steps without order, and which steps each reads."""
        units: list[Step] = []
        sources: list[list[int]] = []  # ops each step reads
        of_op: dict[int, int] = {}
        groups: dict[tuple[tuple[str, int], ...], list[_Columns]] = {}
        singles: list[list[_Columns]] = []
        for i in sorted(j for j in self.seen if j >= 0):
            op = self.ops[i]
            if i in self.fused or op.kind in CONSTANT:
                continue
            if self._is_sum(i):
                column = _Columns(i, 0, op.size, tuple(zip(op.args, op.coefs, strict=True)), op.value)
                if all(self.ops[a].kind in CONSTANT or a in self.fused for a in op.args):
                    key = {(self.ops[a].kind, self.ops[a].args[0]) for a in op.args if self.ops[a].args}
                    groups.setdefault(tuple(sorted(key)), []).append(column)
                else:
                    singles.append([column])
            elif op.kind in ("full", "gather"):
                column = _Columns(i, 0, op.size, ((i, 1.0),), 0.0)
                groups.setdefault(((op.kind, op.args[0]),), []).append(column)
            else:
                of_op[i] = len(units)
                units.append(Map(i))
                sources.append(list(self._sources(i)))
        for columns in [*groups.values(), *singles]:
            placed, at = [], 0
            for c in columns:
                placed.append(_Columns(c.op, at, at + c.hi, c.addends, c.const))
                at += c.hi
            of_op.update((c.op, len(units)) for c in placed)
            step = self._linear(placed, at, "")
            units.append(step)
            sources.append([a.source for a in step.addends if a.source >= 0])
        for k, c in enumerate(self.made):
            pre = -1
            if c.targets:
                pre = len(units)
                placed = [_Columns(-1, t.lo, t.hi, t.addends, t.const) for t in c.targets]
                step = self._linear(placed, c.width, c.name)
                units.append(step)
                sources.append([a.source for a in step.addends if a.source >= 0])
            of_op.update(dict.fromkeys(c.members, len(units)))
            units.append(Loop(k, pre))
            sources.append(list(c.ext))
        reads = []
        for u, (unit, ops) in enumerate(zip(units, sources, strict=True)):
            found = [of_op[a] for a in ops if a in of_op and of_op[a] != u]
            if isinstance(unit, Loop) and unit.pre >= 0:
                found.append(unit.pre)
            reads.append(list(dict.fromkeys(found)))
        return units, reads

    def _linear(self, columns: Sequence[_Columns], width: int, loop: str) -> Linear:
        """One buffer: products of one source and adjacent columns share a pack and a product."""
        parts: dict[tuple[str, int, float], list[tuple[int, int, str]]] = {}
        values: list[Addend] = []
        for c in columns:
            for a, coef in c.addends:
                op = self.ops[a]
                if a in self.fused or (a == c.op and op.kind in ("full", "gather")):
                    kind = "bias" if op.kind == "param" else op.kind
                    source = op.args[0] if op.args else -1
                    parts.setdefault((kind, source, coef), []).append((c.lo, c.hi, op.name))
                else:
                    values.append(Addend("value", c.lo, c.hi, a, coef=coef))
        addends: list[Addend] = []
        for (kind, source, coef), cells in parts.items():
            for run in _runs(cells):
                lo, hi = run[0][0], run[-1][1]
                members = tuple((name, a - lo, b - lo) for a, b, name in run)
                cols = 0 if source < 0 else self.ops[source].size
                pack = self._pack("vector" if kind == "bias" else kind, members, cols)
                addends.append(Addend(kind, lo, hi, source, pack, coef))
        return Linear(
            width, tuple(addends + values), tuple((c.lo, c.hi, c.const) for c in columns if c.const),
            {c.op: (c.lo, c.hi) for c in columns if c.op >= 0}, loop,
        )  # fmt: skip

    def _pack(self, kind: str, members: tuple[tuple[str, int, int], ...], cols: int) -> str:
        name = f"w{len(self.packs)}"
        rows = members[-1][2]
        shape: tuple[int, ...] = (rows,) if kind == "vector" else (rows, cols)
        if kind == "gather":
            shape = (self.graph.weights[members[0][0]].shape[1], rows)
        elif kind == "block":
            shape = self.graph.weights[members[0][0]].shape
        self.packs[name] = Pack(name, kind, members, shape)
        self.packed |= {m[0] for m in members}
        return name

    def _pack_rest(self) -> None:
        """Weights of the loops (by product), then every weight that stands alone."""
        for c in self.made:
            for run in c.runs:
                self._pack("full", run.weights, c.cell[run.source].size)
        gathered = {op.name for op in self.ops if op.kind == "gather"}
        alive = {op.name for op in self.ops if op.kind in ("param", "full", "gather", "block")}
        for name, w in self.graph.weights.items():
            if name in self.packed or (name not in alive and w.kind != "init"):
                continue
            if w.kind == "init" and name.removesuffix(":init") not in self.roots:
                continue
            kind = "block" if w.kind == "block" else "vector" if len(w.shape) == 1 else "full"
            kind = "gather" if name in gathered else kind
            rows = prod(w.shape[:2]) if kind == "block" else w.shape[0]
            self._pack(kind, ((name, 0, rows),), 0 if len(w.shape) == 1 else w.shape[1])


def _runs(cells: Sequence[tuple[int, int, str]]) -> list[list[tuple[int, int, str]]]:
    """Cells (lo, hi, name) sorted and cut where their columns do not touch."""
    runs: list[list[tuple[int, int, str]]] = []
    for cell in sorted(cells):
        if runs and runs[-1][-1][1] == cell[0]:
            runs[-1].append(cell)
        else:
            runs.append([cell])
    return runs
