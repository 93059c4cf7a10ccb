"""What the persistent kernels know of a loop, as plain data: op lists, weights, what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kernels import cell_reads
from kernels.codegen import Op, needed

LEAVES = ("pre", "ext", "param", "shift", "grad", "back")
PRODUCTS = ("full", "block")
# Statistics of a row that make the value of an op from its argument: `value` of `persistent_exchange.py`.
ROWS = {"normalize": ("mean", "rstd"), "rstd": ("mean", "rstd"), "softmax": ("most", "share")}


class Unkept(ValueError):
    """A derivative reads what neither is kept nor can be computed again."""


@dataclass(frozen=True)
class Weight:
    """Where a matrix is: rows lo:lo + rows of weight tensor `tensor`, which has `cols` columns.

    blocks > 1: block-diagonal, the tensor is [blocks, rows / blocks, cols / blocks].
    """

    tensor: int
    lo: int
    rows: int
    cols: int
    blocks: int = 1


@dataclass(frozen=True)
class Cell:
    """One step of a loop. `roots`: node -> op; `states`: nodes that are read at other steps -> how far;
    `outputs`: ops seen outside; `columns`: pre op -> first column of the hoisted buffer [T, B, width];
    `weights`: matrix -> place; `forms`: Triton forms of pointwise ops; `keys`: random mask -> its key, int32;
    forward: in the order of time.
    """

    ops: Sequence[Op]
    roots: Mapping[str, int]
    states: Mapping[str, int]
    outputs: Sequence[int]
    columns: Mapping[int, int]
    width: int
    weights: Mapping[str, Weight]
    forms: Mapping[str, str]
    forward: bool
    keys: Mapping[str, int]

    @property
    def stored(self) -> tuple[int, ...]:
        """Ops whose values are stored at every step: states first, then other outputs but reads."""
        return cell_reads.stored(self.ops, self.roots, self.states, self.outputs)

    @property
    def distances(self) -> tuple[int, ...]:
        """Distances of reads at other steps, small first."""
        return cell_reads.distances(self.ops)

    @property
    def reach(self) -> int:
        """The largest distance of a read."""
        return max(self.states.values())

    @property
    def front(self) -> int:
        """Boundary steps before the chunk in stored values (those of a loop against time come after it)."""
        return self.reach if self.forward else 0


@dataclass(frozen=True)
class Derivative:
    """Adjoint ops of the derivative (`Backward` of the framework): `ops` begin with the cell's own.

    Maps from pre and shift ops, ext numbers and names of vector weights to adjoint ops. `products`: (kind,
    weight, adjoint op, source op) of each weight gradient.
    """

    ops: Sequence[Op]
    pre: Mapping[int, int]
    ext: Mapping[int, int]
    params: Mapping[str, int]
    shifts: Mapping[int, int]
    products: Sequence[tuple[str, str, int, int]]

    @property
    def outputs(self) -> list[int]:
        """Ops that the backward computes: what it stores or sends, and factors of weight gradients."""
        found = [*self.pre.values(), *self.ext.values(), *self.params.values(), *self.shifts.values()]
        return [*found, *(g for _, _, g, _ in self.products)]


@dataclass(frozen=True)
class Saved:
    """What a forward leaves for its backward beside stored nodes.

    columns: op (a hoisted sum, or its activation) -> first column of the hoisted buffer that it is written
    over; extra: ops with a sequence [T, B, size] of their own; rows: (name of `ROWS`, op over whose units it
    is taken), one number of a row each, together [T, B, rows] in float32.
    """

    columns: Mapping[int, int]
    extra: tuple[int, ...]
    rows: tuple[tuple[str, int], ...] = ()

    def known(self, op: Op) -> bool:
        """Whether the statistics of an op are there."""
        return op.kind == "rstd" and ("rstd", op.args[0]) in self.rows


NOTHING = Saved({}, ())


def saved_values(cell: Cell, d: Derivative, many: bool = False) -> Saved:
    """Sums of products cannot be computed again without the products: they are kept, over the hoisted
    buffer; or the activation of such a sum, where the derivative reads nothing but that. Results of other
    products, and their sources, are kept beside. All else is computed again from these, but for statistics
    over units, which cost programs a meeting. many: programs share a loop; one then must not write over a
    hoisted value of a single unit, which all of them read.
    """
    ops = cell.ops
    sums = {at: op.args[0] for at, op in enumerate(ops) if op.kind == "sum" and op.args[0] in cell.columns}
    stored = set(cell.stored)
    scales = {at for at, op in enumerate(d.ops) if op.kind == "rstd" and _over_units(cell, d, op)}
    given = {at for at, op in enumerate(d.ops) if op.kind in LEAVES} | stored | scales
    leaves = given | set(sums)
    found = needed(d.ops, d.outputs, leaves)
    readers: dict[int, set[int]] = {}
    for at in found:
        for a in d.ops[at].args if at not in leaves else ():
            readers.setdefault(a, set()).add(at)
    columns: dict[int, int] = {}
    single: set[int] = set()
    for at, start in sums.items():
        if at not in readers or at in stored:
            continue
        (first, *more) = readers[at]
        alone = not more and first < len(ops) and len(d.ops[first].args) == 1
        alone = alone and (d.ops[first].kind in cell.forms or d.ops[first].kind in ROWS)
        keep = first if alone else at
        if keep not in stored and not (many and ops[keep].size == 1):
            columns[keep] = cell.columns[start]
        elif keep not in stored:
            single.add(keep)
    extra = single | {at for at in found if at < len(ops) and ops[at].kind == "block"}
    extra |= {source for *_, source in d.products if ops[source].kind not in (*LEAVES, "const")}
    extra -= stored | set(columns)
    given |= extra | set(columns)
    rows: dict[tuple[str, int], None] = {}
    for at in needed(d.ops, d.outputs, given):
        op = d.ops[at]
        if at in scales:
            rows["rstd", op.args[0]] = None
        elif op.kind in ROWS and at not in given and _over_units(cell, d, op):
            rows |= dict.fromkeys((name, op.args[0]) for name in ROWS[op.kind])
    return Saved(columns, tuple(sorted(extra)), tuple(rows))


def _over_units(cell: Cell, d: Derivative, op: Op) -> bool:
    """Whether the statistic is one of several units of the cell itself."""
    return op.args[0] < len(cell.ops) and d.ops[op.args[0]].size > 1


def given_to(cell: Cell, d: Derivative, saved: Saved) -> list[int]:
    """Ops that the backward needs, in order, of which those that are read come from outside it.

    Raises Unkept.
    """
    leaves = [at for at, op in enumerate(d.ops) if op.kind in LEAVES]
    leaves += [*cell.stored, *saved.columns, *saved.extra]
    leaves += [at for at, op in enumerate(d.ops) if saved.known(op)]
    found = needed(d.ops, d.outputs, leaves)
    lost = [at for at in found if at < len(cell.ops) and at not in leaves and d.ops[at].kind in PRODUCTS]
    if lost:
        raise Unkept(f"op {lost[0]}, {d.ops[lost[0]].kind} of {d.ops[lost[0]].name}, was not kept")
    return found
