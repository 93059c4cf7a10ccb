"""A recurrent component: what of it stays in the loop, as a cell, and what the loop takes from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from framework.cell import Builder, Op

if TYPE_CHECKING:
    from framework.vanilla import Vanilla

Kind = Literal["dense", "elementwise", "linear"]
MATRICES = ("full", "gather", "block")
EXCHANGES = ("full", "block", "concat", "slice", "normalize", "softmax", "rowsum", "gather")
NEW_PHASE = ("full", "block", "normalize", "softmax", "rowsum")
CONSTANT = ("param", "const")


class Target(NamedTuple):
    """A sum inside the loop that starts from columns lo:hi of the hoisted buffer `pre`.

    `op`: the sum in the cell; `addends`: ops of the whole program, computed for all steps at once.
    """

    op: int
    lo: int
    hi: int
    addends: tuple[tuple[int, float], ...]
    const: float


class Run(NamedTuple):
    """One product of the loop: the weights of adjacent targets with one source, columns lo:hi of `pre`."""

    source: int
    lo: int
    hi: int
    weights: tuple[tuple[str, int, int], ...]  # name, first and last row inside the pack
    phase: int


@dataclass(frozen=True, slots=True)
class Component:
    """One loop. `cell`: its op list (ids are places in it); `roots`: its nodes -> ops of the cell.

    `ext[i]` is the op of the whole program that the cell's `ext` number i reads; `masks`: those that are
    random masks (see `mask_of`), which a runner may make itself. `outputs`: (op of the program, op of the
    cell) whose values are used outside. `states`: nodes read at other steps inside -> largest distance.
    `vanilla`: how torch's LSTM, GRU or RNN computes it, or why it is none of them.
    """

    name: str
    nodes: tuple[str, ...]
    direction: int
    kind: Kind
    phases: int
    delay: int
    factor: int
    cell: tuple[Op, ...]
    roots: Mapping[str, int]
    ext: tuple[int, ...]
    width: int
    targets: tuple[Target, ...]
    runs: tuple[Run, ...]
    outputs: tuple[tuple[int, int], ...]
    states: Mapping[str, int]
    members: frozenset[int] = field(default_factory=frozenset)
    masks: Mapping[int, Op] = field(default_factory=dict)
    vanilla: Vanilla | str = "not looked at"


def mask_of(ops: Sequence[Op], at: int) -> Op | None:
    """The `random` op that op `at` is, or None. Its lo: 0 dropout, 1 zoneout, 2 one minus that of zoneout."""
    op = ops[at]
    if op.kind == "random":
        return op
    if op.kind == "sum" and op.coefs == (-1.0,) and op.value == 1.0:
        inner = ops[op.args[0]]
        if inner.kind == "random" and inner.lo == 1:
            return inner._replace(lo=2)
    return None


def edges_of(ops: Sequence[Op], roots: Mapping[str, int]) -> list[list[int]]:
    """What each op reads, reads at other steps included."""
    return [[*op.args, roots[op.name]] if op.kind == "shift" else list(op.args) for op in ops]


def classify(ops: Sequence[Op], members: Sequence[int]) -> Kind:
    """dense: units exchange values in the loop; linear: affine in the state, unit by unit."""
    inside = set(members)
    kind: Kind = "linear"
    for i in members:
        op = ops[i]
        if op.kind in EXCHANGES or any(ops[a].size != op.size for a in op.args if a in inside):
            return "dense"
        if op.kind == "prod" and sum(a in inside for a in op.args) > 1:
            kind = "elementwise"
        elif op.kind not in ("sum", "prod", "copy", "expand", "shift", "stop"):
            kind = "elementwise"
    return kind


@dataclass(slots=True)
class _Cell:
    """The state of one translation from program ops to cell ops."""

    program: Builder
    inside: frozenset[int]
    hoist: bool
    uses: Mapping[int, int]
    b: Builder = field(default_factory=Builder)
    local: dict[int, int] = field(default_factory=dict)
    ext: dict[int, int] = field(default_factory=dict)  # op of the program -> its number
    # products that one sum alone takes in, with coefficient 1
    direct: set[int] = field(default_factory=set)
    # of each target: hoisted addends, constant and size; columns are given out at the end
    addends: list[tuple[tuple[tuple[int, float], ...], float, int]] = field(default_factory=list)

    def leaf(self, at: int) -> int:
        """An op from outside the loop as seen by the cell."""
        op = self.program.ops[at]
        if op.kind in CONSTANT:
            return self.b.add(op)
        return self.b.add(Op("ext", size=op.size, lo=self.ext.setdefault(at, len(self.ext))))

    def arg(self, at: int) -> int:
        return self.local[at] if at in self.inside else self.leaf(at)

    def pre(self, size: int, addends: Sequence[tuple[int, float]], const: float) -> int:
        """A new target's starting value; lo is the target's number until columns are given out."""
        self.addends.append((tuple(addends), const, size))
        return self.b.add(Op("pre", size=size, lo=len(self.addends) - 1))

    def bulky(self, at: int) -> bool:
        return at not in self.inside and self.program.ops[at].kind not in CONSTANT

    def translate(self, at: int) -> int:
        op = self.program.ops[at]
        if op.kind == "sum":
            return self.sum(at, op)
        if op.kind == "prod" and self.hoist:
            outer = [a for a in op.args if self.bulky(a)]
            if len(outer) > 1:
                inner = [self.arg(a) for a in op.args if not self.bulky(a)]
                return self.b.prod(*inner, self.leaf(self.program.prod(*outer)))
        if op.kind == "full":
            if self.uses[at] == 1 and at in self.direct:
                return -1  # becomes an addend of the one sum that reads it
            return self.wrap(op, [self.arg(op.args[0])])
        args = tuple(self.arg(a) for a in op.args)
        if op.kind == "prod":
            return self.b.prod(*args)
        return self.b.add(
            Op(op.kind, args, op.size, op.name, op.shift, op.coefs, op.value, op.lo, op.hi, op.blocks)
        )

    def wrap(self, op: Op, args: Sequence[int]) -> int:
        """A dense product that no sum takes in: a target of its own, starting from 0."""
        product = self.b.add(Op("full", tuple(args), op.size, op.name))
        start = self.pre(op.size, (), 0.0)
        return self.b.add(Op("sum", (start, product), op.size, coefs=(1.0, 1.0)))

    def sum(self, at: int, op: Op) -> int:
        terms = list(zip(op.args, op.coefs, strict=True))
        fulls = {a for a, _ in terms if a in self.direct and self.local.get(a) == -1}
        outer = [(a, c) for a, c in terms if self.hoist and a not in self.inside]
        bulky = [(a, c) for a, c in outer if self.bulky(a)]
        products = any(self.program.ops[a].kind in MATRICES for a, _ in bulky)
        if not fulls and not products:
            if len(bulky) > 1:
                summed = self.program.sum(*outer, const=op.value)
                rest = [(self.arg(a), c) for a, c in terms if a in self.inside]
                return self.total([*rest, (self.leaf(summed), 1.0)], 0.0, op.size)
            return self.total([(self.arg(a), c) for a, c in terms], op.value, op.size)
        start = self.pre(op.size, outer if self.hoist else (), op.value)
        out: list[tuple[int, float]] = [(start, 1.0)]
        for a, c in terms:
            if a in fulls:
                full = self.program.ops[a]
                out.append((self.b.add(Op("full", (self.arg(full.args[0]),), full.size, full.name)), 1.0))
            elif not self.hoist or a in self.inside:
                out.append((self.arg(a), c))
        return self.total(out, 0.0, op.size)

    def total(self, terms: Sequence[tuple[int, float]], const: float, size: int) -> int:
        args, coefs = tuple(a for a, _ in terms), tuple(c for _, c in terms)
        return self.b.add(Op("sum", args, size, coefs=coefs, value=const))


def make_component(
    name: str,
    nodes: Sequence[str],
    members: Sequence[int],
    program: Builder,
    roots: Mapping[str, int],
    wanted: frozenset[int],
    hoist: bool,
    timing: tuple[int, int, int],
) -> Component:
    """Build the cell of the loop `members` (op ids of `program` in order; it grows by hoisted helpers).

    `wanted`: ops of the program that somebody outside reads; `timing`: direction, delay, factor.
    With hoist=False (the plan's parallel=none) every product stays in the loop.
    """
    inside = frozenset(members)
    uses: dict[int, int] = {}
    for i in members:
        for a in program.ops[i].args:
            uses[a] = uses.get(a, 0) + 1
    for i in wanted & inside:
        uses[i] = uses.get(i, 0) + 1
    for root in {roots[program.ops[i].name] for i in members if program.ops[i].kind == "shift"}:
        uses[root] = uses.get(root, 0) + 1
    c = _Cell(program, inside, hoist, uses)
    for i in members:
        op = program.ops[i]
        if op.kind == "sum":
            c.direct |= {
                a
                for a, coef in zip(op.args, op.coefs, strict=True)
                if a in inside and coef == 1.0 and program.ops[a].kind == "full" and uses[a] == 1
            }
    for i in members:  # in order: the arguments of an op stand before it
        c.local[i] = c.translate(i)
    local_roots = {n: c.local[roots[n]] for n in nodes if roots[n] in inside}
    cell, phase = c.b.ops, phases_of(c.b.ops)
    targets, runs, cell, width = _columns(c, cell, phase)
    outputs = tuple((i, c.local[i]) for i in sorted(wanted & inside))
    states: dict[str, int] = {}
    for op in cell:
        if op.kind == "shift":
            states[op.name] = max(states.get(op.name, 0), abs(op.shift))
    found = [(number, mask_of(program.ops, at)) for at, number in c.ext.items()]
    masks = {number: op for number, op in found if op is not None}
    return Component(
        name, tuple(local_roots), timing[0], classify(program.ops, members),
        max(phase, default=0), timing[1], timing[2], tuple(cell), local_roots, tuple(c.ext), width,
        targets, runs, outputs, states, inside, masks,
    )  # fmt: skip


def phases_of(cell: Sequence[Op]) -> list[int]:
    """The phase of each op: a dense product or a row statistic needs one exchange more than its source."""
    phase: list[int] = []
    for op in cell:
        before = max([phase[a] for a in op.args], default=0)
        phase.append(before + (op.kind in NEW_PHASE))
    return phase


def _columns(
    c: _Cell, cell: Sequence[Op], phase: Sequence[int]
) -> tuple[tuple[Target, ...], tuple[Run, ...], list[Op], int]:
    """Give targets their columns so that what is computed alike lies side by side.

    First by source of their products, those with hoisted products before those without (so that the hoisted
    ones touch, too); then by the function of them (forward), then by the op that they end up in: that one's
    adjoint is a factor of all their gradients (backward).
    """
    sums = {op.args[0]: i for i, op in enumerate(cell) if op.kind == "sum" and cell[op.args[0]].kind == "pre"}
    after: dict[int, str] = {}
    readers: dict[int, list[int]] = {}
    for i, op in enumerate(cell):
        for a in op.args:
            readers.setdefault(a, []).append(i)
        if len(op.args) == 1:
            after.setdefault(op.args[0], op.kind)
    ends, info = _ends(cell, readers), []
    for start, at in sums.items():
        fulls = [a for a in cell[at].args if cell[a].kind == "full"]
        sources = tuple(sorted(cell[a].args[0] for a in fulls))
        extra = len(cell[at].args) - len(fulls) > 1
        first = max((phase[a] for a in fulls), default=0)
        addends = c.addends[cell[start].lo][0]
        bare = not any(c.program.ops[a].kind in MATRICES for a, _ in addends)
        info.append((first, sources, bare, after.get(at, ""), extra, -ends[at], at, start))
    info.sort(key=lambda row: row[:-1])
    targets: list[Target] = []
    columns: dict[int, tuple[int, int]] = {}
    at = 0
    for *_, i, start in info:
        addends, const, size = c.addends[cell[start].lo]
        targets.append(Target(i, at, at + size, addends, const))
        columns[start] = (at, at + size)
        at += size
    new = [
        Op("pre", size=op.size, lo=columns[i][0], hi=columns[i][1]) if op.kind == "pre" else op
        for i, op in enumerate(cell)
    ]
    return tuple(targets), _runs(cell, targets, phase), new, at


def _ends(cell: Sequence[Op], readers: Mapping[int, Sequence[int]]) -> list[int]:
    """For each op the one that its value ends up in, through functions and products of which it is a part."""
    ends = list(range(len(cell)))
    for i in reversed(range(len(cell))):  # readers stand behind what they read
        if len(readers.get(i, ())) == 1:
            after = readers[i][0]
            through = cell[after].kind == "prod" or len(cell[after].args) == 1
            ends[i] = ends[after] if through else after
    return ends


def _runs(cell: Sequence[Op], targets: Sequence[Target], phase: Sequence[int]) -> tuple[Run, ...]:
    """Products of adjacent targets with the same source, joined."""
    found: dict[int, tuple[int, int, list[tuple[str, int, int]]]] = {}  # number -> source, lo, weights
    open_runs: dict[tuple[int, int], int] = {}  # (source, hi) -> number of the run that ends there
    for number, (target, a) in enumerate((t, a) for t in targets for a in cell[t.op].args):
        op = cell[a]
        if op.kind != "full":
            continue
        source = op.args[0]
        # A run that goes on moves to the end: runs stand in the order of their last target.
        old = found.pop(open_runs.pop((source, target.lo), -1), None)
        _, lo, weights = run = old or (source, target.lo, [])
        weights.append((op.name, target.lo - lo, target.hi - lo))
        found[number] = run
        open_runs[(source, target.hi)] = number
    return tuple(
        Run(source, lo, lo + weights[-1][2], tuple(weights), phase[source] + 1)
        for source, lo, weights in found.values()
    )
