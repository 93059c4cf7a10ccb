"""Op lists: what a graph computes at one step, as flat data that planner, derivative and runners share.

A program is a tuple of `Op`; an op names its arguments by their place in the tuple. Reads at other
steps (`shift`) name a node or input instead, so loops through time need no forward references.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from framework.expr import Expr
from framework.graph import Graph
from framework.ops import TABLE


class Op(NamedTuple):  # hashed and made by the hundred thousand: several times faster than a dataclass
    """One operation on a vector of `size` units (per step and lane).

    | kind | meaning |
    |---|---|
    | input, index | the value of input `name` at this step (index: integers) |
    | param | the vector weight `name` |
    | const | the number `value` |
    | random | mask `name` of dropout (lo = 0) or zoneout (lo = 1) with probability `value` |
    | shift | the value of node or input `name` at step t + shift |
    | sum | sum of coefs[i] * args[i], plus `value` |
    | prod | product of args |
    | full, gather, block | matrix weight `name` times args[0]; gather: its columns at the indices args[0] |
    | concat, slice, pad, expand, copy | moving units: slice [lo:hi]; pad puts args[0] at lo among zeros |
    | stop | args[0], with no gradient |
    | normalize, rstd | layer norm without gain and bias; 1 / standard deviation (size 1), eps 1e-5 |
    | softmax, rowsum | over the units |
    | a name of `ops.TABLE` | pointwise |

    In the cell of a component (see `plan.py`) also: `pre`, columns lo:hi of its hoisted buffer; `ext`,
    hoisted value number lo. In its derivative (see `derivative.py`) also: `grad`, the outer gradient of
    cell op lo; `back`, the adjoint of shift op number lo at step t + shift; `full_t`, `block_t`.
    """

    kind: str
    args: tuple[int, ...] = ()
    size: int = 1
    name: str = ""
    shift: int = 0
    coefs: tuple[float, ...] = ()
    value: float = 0.0
    lo: int = 0
    hi: int = 0
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """Ops in an order in which arguments come first.

    `roots`: node or input name -> its op; `owner[i]`: the node that op i was first written for.
    """

    ops: tuple[Op, ...]
    roots: Mapping[str, int]
    owner: tuple[str, ...]


@dataclass(slots=True)
class Builder:
    """Appends ops, each distinct one once (common subexpressions), with the simplest algebra."""

    ops: list[Op] = field(default_factory=list)
    known: dict[Op, int] = field(default_factory=dict)

    def add(self, op: Op) -> int:
        """The id of `op`, new or known."""
        at = self.known.setdefault(op, len(self.ops))
        if at == len(self.ops):
            self.ops.append(op)
        return at

    def size(self, ids: Iterable[int]) -> int:
        """The common size of `ids` after broadcasting."""
        return max([self.ops[i].size for i in ids], default=1)

    def const(self, value: float) -> int:
        """A number."""
        return self.add(Op("const", value=value))

    def sum(self, *terms: tuple[int, float], const: float = 0.0) -> int:
        """const + sum of coefficient * value; scaled values and equal terms are folded."""
        merged: dict[int, float] = {}
        for start, factor in terms:
            at = start
            op = self.ops[at]
            while op.kind == "sum" and len(op.args) == 1:
                const += factor * op.value
                factor *= op.coefs[0]
                at = op.args[0]
                op = self.ops[at]
            if op.kind == "const":
                const += factor * op.value
            else:
                merged[at] = merged.get(at, 0.0) + factor
        if not merged:
            return self.const(const)
        if len(merged) == 1 and const == 0.0 and next(iter(merged.values())) == 1.0:
            return next(iter(merged))
        args = tuple(merged)
        return self.add(
            Op("sum", args, self.size(args), coefs=tuple(merged.values()), value=const),
        )

    def affine(self, x: int, factor: float, const: float) -> int:
        """factor * x + const."""
        return self.sum((x, factor), const=const)

    def prod(self, *args: int) -> int:
        """Product; numbers are taken out as a factor."""
        factor = 1.0
        rest: list[int] = []
        for start in args:
            at = start
            op = self.ops[at]
            if op.kind == "sum" and len(op.args) == 1 and op.value == 0.0:
                factor *= op.coefs[0]
                at = op.args[0]
                op = self.ops[at]
            if op.kind == "const":
                factor *= op.value
            else:
                rest.append(at)
        if not rest:
            return self.const(factor)
        rest.sort()
        x = rest[0] if len(rest) == 1 else self.add(Op("prod", tuple(rest), self.size(rest)))
        return x if factor == 1.0 else self.affine(x, factor, 0.0)

    def point(self, name: str, *args: int) -> int:
        """Pointwise function `name` of the op table."""
        return self.add(Op(name, args, self.size(args)))

    def rowsum(self, x: int) -> int:
        """Sum over the units (size 1)."""
        return x if self.ops[x].size == 1 else self.add(Op("rowsum", (x,)))


def lower(graph: Graph, order: Iterable[str]) -> Program:
    """All nodes as one op list. `order`: node names, undelayed uses first. Each node has an op of its own."""
    b = Builder()
    roots: dict[str, int] = {}
    for name, source in graph.inputs.items():
        roots[name] = b.add(Op("input" if source.vocab is None else "index", size=source.size, name=name))
    owned = set(roots.values())
    owner = list(roots)
    for name in order:
        node = graph.nodes[name]
        at = _lower(b, roots, node.expr, node.size)
        if b.ops[at].size != node.size:
            at = b.add(Op("expand", (at,), node.size))
        if at in owned or not b.ops[at].args:
            at = b.add(Op("copy", (at,), node.size, name=name))
        owned.add(at)
        roots[name] = at
        owner += [name] * (len(b.ops) - len(owner))
    return Program(tuple(b.ops), roots, tuple(owner))


def _lower(b: Builder, roots: Mapping[str, int], e: Expr, size: int) -> int:
    """Ops of one expression inside a node of `size` units."""
    if e.op in ("add", "sub", "neg"):
        terms, const = _terms(b, roots, e, size)
        return b.sum(*terms, const=const)
    if e.op == "num":
        return b.const(e.value)
    if e.op == "ref":
        if not e.shift:
            return roots[e.name]
        return b.add(Op("shift", (), e.size, name=e.name, shift=e.shift))
    if e.op == "bias":
        return b.add(Op("param", (), e.size, name=e.weights[0]))
    if e.op in ("mul", "div"):
        return b.prod(*_factors(b, roots, e, size))
    args = tuple([_lower(b, roots, a, size) for a in e.args])
    if e.op == "full":
        gathered = _is_index(b, roots, args[0])
        return b.add(Op("gather" if gathered else "full", args, e.size, name=e.weights[0]))
    if e.op == "diag":
        return b.prod(b.add(Op("param", (), e.size, name=e.weights[0])), args[0])
    if e.op == "block":
        return b.add(Op("block", args, e.size, name=e.weights[0], blocks=e.blocks))
    if e.op == "norm":
        gain, bias = (b.add(Op("param", (), e.size, name=w)) for w in e.weights)
        return b.sum((b.prod(gain, b.add(Op("normalize", args, e.size))), 1.0), (bias, 1.0))
    if e.op == "dropout":
        mask = b.add(Op("random", (), e.size, name=e.name, value=e.value, lo=0))
        return b.prod(mask, args[0])
    if e.op == "zoneout":
        mask = b.add(Op("random", (), e.size, name=e.name, value=e.value, lo=1))
        return b.sum((b.prod(mask, args[1]), 1.0), (b.prod(b.affine(mask, -1.0, 1.0), args[0]), 1.0))
    if e.op == "slice":
        return b.add(Op("slice", args, e.size, lo=e.lo, hi=e.hi))
    if e.op in TABLE:
        return b.point(e.op, *args)
    assert e.op in ("concat", "softmax", "stop"), e.op
    return b.add(Op(e.op, args, e.size))


def _is_index(b: Builder, roots: Mapping[str, int], at: int) -> bool:
    op = b.ops[at]
    if op.kind == "shift":  # a node that is not lowered yet is no index
        return op.name in roots and b.ops[roots[op.name]].kind == "index"
    return op.kind == "index"


def _terms(
    b: Builder, roots: Mapping[str, int], e: Expr, size: int, factor: float = 1.0
) -> tuple[list[tuple[int, float]], float]:
    """A tree of + - and numbers as one flat list of (op, coefficient), and a constant."""
    if e.op == "num":
        return [], factor * e.value
    if e.op == "neg":
        return _terms(b, roots, e.args[0], size, -factor)
    if e.op in ("add", "sub"):
        left, c0 = _terms(b, roots, e.args[0], size, factor)
        right, c1 = _terms(b, roots, e.args[1], size, factor if e.op == "add" else -factor)
        return left + right, c0 + c1
    return [(_lower(b, roots, e, size), factor)], 0.0


def _factors(b: Builder, roots: Mapping[str, int], e: Expr, size: int) -> list[int]:
    """A tree of * and / as one flat list of factors."""
    if e.op == "mul":
        return _factors(b, roots, e.args[0], size) + _factors(b, roots, e.args[1], size)
    if e.op == "div":
        below = _lower(b, roots, e.args[1], size)
        number = b.ops[below].kind == "const" and b.ops[below].value != 0.0
        over = b.const(1.0 / b.ops[below].value) if number else b.point("reciprocal", below)
        return [*_factors(b, roots, e.args[0], size), over]
    return [_lower(b, roots, e, size)]
