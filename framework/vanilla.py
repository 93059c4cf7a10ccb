"""Loops that are exactly what torch's LSTM, GRU or RNN computes, recognised by their equations.

Names of nodes, the order in which gates and factors are written, the number of inputs and the packing of
weights make no difference; a peephole, a mask, a value from outside, another function or delay does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from framework.cell import Op
from framework.component import Component
from framework.steps import Linear, Loop, Map, Step
from framework.vanilla_gates import Gate, Gates, No, Row

if TYPE_CHECKING:
    from framework.machine import Machine

Kind = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]


@dataclass(frozen=True, slots=True)
class Vanilla:
    """A loop in torch's terms. gates: in torch's order (LSTM i, f, g, o; GRU r, z, n; RNN the one).

    size: units of a gate; project: the weight [proj, size] of an LSTM with projection, or "". hidden, memory:
    the states h and c (of an LSTM, else ""); sources: ops of the program that its inputs are; given: those
    that are h outside. rests: the states start at 0.
    """

    kind: Kind
    size: int
    gates: tuple[Gate, ...]
    sources: tuple[int, ...]
    given: tuple[int, ...]
    hidden: str
    memory: str = ""
    project: str = ""
    rests: bool = True


def mark(
    made: Sequence[Component],
    steps: Sequence[Step],
    ops: Sequence[Op],
    roots: Mapping[str, int],
    results: Iterable[int],
    zero: frozenset[str],
) -> tuple[Component, ...]:
    """The components, each with its `vanilla`. results: ops that are outputs of the graph; zero: nodes whose
    initial value is the number 0.
    """
    loops = {step.component: step.pre for step in steps if isinstance(step, Loop)}
    read = {*results, *_reads(made, steps, ops, roots)}
    out = []
    for k, c in enumerate(made):
        try:
            found: Vanilla | str = _Match(c, ops, read).run(steps, loops.get(k, -1), zero)
        except No as no:
            found = str(no)
        out.append(replace(c, vanilla=found))
    return tuple(out)


def refuses(c: Component, machine: Machine) -> str:
    """Why torch's own cannot run the loop on a machine, or ""."""
    if isinstance(c.vanilla, str):
        return c.vanilla
    if machine.device not in ("cpu", "cuda"):
        return f"torch has it for CPUs and CUDA, not for {machine.device}"
    if machine.device == "cuda" and machine.dtype == "fp64" and c.vanilla.project:
        return "cuDNN has no projection in float64"
    return ""


def describe(c: Component, machine: Machine) -> str:
    """What it is, for plans."""
    assert isinstance(c.vanilla, Vanilla)
    name = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "tanh RNN", "rnn_relu": "relu RNN"}[c.vanilla.kind]
    projected = " with projection" if c.vanilla.project else ""
    whose = "cuDNN's" if machine.device == "cuda" else "torch's"
    return f"{whose} {name}{projected}, product of the input included"


def _reads(
    made: Sequence[Component], steps: Sequence[Step], ops: Sequence[Op], roots: Mapping[str, int]
) -> Iterable[int]:
    """Ops whose values some step takes for the whole chunk."""
    for step in steps:
        if isinstance(step, Linear):
            yield from (a.source for a in step.addends if a.source >= 0)
        elif isinstance(step, Map):
            op = ops[step.op]
            yield from (roots[op.name],) if op.kind == "shift" else op.args
        else:
            yield from made[step.component].ext


class _Match(Gates):
    """Lives only while one component is looked at."""

    def __init__(self, c: Component, program: Sequence[Op], read: set[int]):
        super().__init__(c, program)
        self.read = read

    def run(self, steps: Sequence[Step], pre: int, zero: frozenset[str]) -> Vanilla:
        """The whole match. Raises `No`."""
        c = self.c
        self.check()
        step = steps[pre] if pre >= 0 else None
        if not isinstance(step, Linear) or any(a.kind in ("value", "gather") for a in step.addends):
            raise No("its hoisted sums are not products of inputs alone")
        self.hidden, memory = self.names()
        h = self.see(c.roots[self.hidden])
        kind, rows, project = self.lstm(h, memory) if memory else self.gru_or_rnn(h)
        for row in rows:
            self.gate(row)
        if not self.sources:
            raise No("it has no input")
        given = self.given(h, memory)
        # All sources are known only now: each gate gets a place for every one of them.
        gates = tuple(self.gate(row) for row in rows)
        rests = {self.hidden, memory} - {""} <= zero
        return Vanilla(
            kind, rows[0].size, gates, tuple(self.sources), given, self.hidden, memory, project, rests
        )

    def check(self) -> None:
        """What needs no look at equations."""
        c = self.c
        if c.kind != "dense" or not 1 <= len(c.states) <= 2:
            raise No("it is no LSTM, GRU or RNN")
        if c.ext:
            raise No("it takes values from outside in the loop")
        if any(distance != 1 for distance in c.states.values()):
            raise No("it reads further back than one step")
        if len(c.cell) > 64:
            raise No("it is no LSTM, GRU or RNN")

    def names(self) -> tuple[str, str]:
        """The state that is multiplied in the loop, and the other one."""
        c = self.c
        multiplied = {
            c.cell[op.args[0]].name
            for op in c.cell
            if op.kind == "full" and c.cell[op.args[0]].kind == "shift"
        }
        others = [n for n in c.states if n not in multiplied]
        if len(multiplied) != 1:
            raise No("its products read more than one state, or none")
        return next(iter(multiplied)), others[0] if others else ""

    def given(self, h: int, memory: str) -> tuple[int, ...]:
        """Outputs that are h: of it all steps are to be had, of c the last one, of anything else nothing."""
        c, out = self.c, []
        for at, local in c.outputs:
            local = self.see(local)
            if local == h:
                out.append(at)
                continue
            if not memory or local != self.see(c.roots[memory]):
                raise No("a value inside it is read outside")
            if at in self.read:
                raise No(f"{memory} is read outside")
        return tuple(out)

    # Equations ------------------------------------------------------------------------------------------

    def lstm(self, h: int, memory: str) -> tuple[Kind, list[Row], str]:
        """h = o * tanh(c), or a product of it; c = f * c[t-1] + i * g."""
        c, other = self.c, "its h is not o * tanh(c)"
        project, m = "", h
        size = c.cell[c.roots[memory]].size
        if h in self.targets:
            full = [a for a in c.cell[h].args if c.cell[a].kind == "full"]
            target, terms = self.targets[h], len(c.cell[h].args)
            if len(full) != 1 or terms != 2 or target.addends or target.const:
                raise No("its projection is not a product alone")
            project, m = c.cell[full[0]].name, self.see(c.cell[full[0]].args[0])
            if c.cell[h].size >= size:
                raise No("it projects to no fewer units than it has")
        a, b = self.factors(m, other)
        if self.op(a).kind != "tanh" or self.see(self.op(a).args[0]) != self.see(c.roots[memory]):
            a, b = b, a
        if self.op(a).kind != "tanh" or self.see(self.op(a).args[0]) != self.see(c.roots[memory]):
            raise No(other)
        out, other = b, "its c is not f * c[t-1] + i * g"
        terms = self.op(c.roots[memory])
        if terms.kind != "sum" or terms.coefs != (1.0, 1.0) or terms.value:
            raise No(other)
        pairs = [self.factors(t, other) for t in terms.args]
        pairs.sort(key=lambda p: not any(self.reads(x, memory) for x in p))
        (x, y), (i, g) = pairs
        forget = y if self.reads(x, memory) else x
        if not self.reads(x if forget == y else y, memory):
            raise No(other)
        if self.op(i).kind == "tanh":
            i, g = g, i
        gates = ((i, "sigmoid"), (forget, "sigmoid"), (g, "tanh"), (out, "sigmoid"))
        return "lstm", [Row(at, function, size) for at, function in gates], project

    def gru_or_rnn(self, h: int) -> tuple[Kind, list[Row], str]:
        """One state: h = f(...), or between h[t-1] and a candidate."""
        op = self.c.cell[h]
        if op.kind in ("tanh", "relu"):
            return "rnn_tanh" if op.kind == "tanh" else "rnn_relu", [Row(h, op.kind, op.size)], ""
        update, candidate = self.mixed(h)
        start = self.op(self.op(candidate).args[0]) if self.op(candidate).kind == "tanh" else None
        other = "its candidate is not tanh(full(x) + r * full(h[t-1]))"
        if start is None or start.kind != "sum":
            raise No(other)
        inner = [a for a in start.args if self.op(a).kind == "prod"]
        if len(inner) != 1:
            raise No(other)
        a, b = self.factors(inner[0], other)
        reset = a if self.op(a).kind == "sigmoid" else b
        gates = ((reset, "sigmoid"), (update, "sigmoid"), (candidate, "candidate"))
        return "gru", [Row(at, function, op.size) for at, function in gates], ""

    def mixed(self, h: int) -> tuple[int, int]:
        """(u, n) of h = u * h[t-1] + (1 - u) * n, or of n + u * (h[t-1] - n)."""
        op, hidden, other = self.c.cell[h], self.hidden, "its h is not u * h[t-1] + (1 - u) * n"
        if op.kind != "sum" or op.coefs != (1.0, 1.0) or op.value:
            raise No(other)
        products = [self.factors(a, other) for a in op.args if self.op(a).kind == "prod"]
        if len(products) == 2:
            products.sort(key=lambda p: not any(self.reads(x, hidden) for x in p))
            (x, y), (a, b) = products
            u = y if self.reads(x, hidden) else x
            if self.reads(x if u == y else y, hidden):
                for rest, n in ((a, b), (b, a)):
                    minus = self.op(rest)
                    if minus.kind == "sum" and (minus.coefs, minus.value) == ((-1.0,), 1.0):
                        if self.see(minus.args[0]) == self.see(u):
                            return u, n
        elif len(products) == 1:
            n = next(a for a in op.args if self.op(a).kind != "prod")
            for u, rest in (products[0], products[0][::-1]):
                minus = self.op(rest)
                if minus.kind == "sum" and sorted(minus.coefs) == [-1.0, 1.0] and not minus.value:
                    signs = {coef: a for a, coef in zip(minus.args, minus.coefs, strict=True)}
                    if self.reads(signs[1.0], hidden) and self.see(signs[-1.0]) == self.see(n):
                        return u, n
        raise No(other)
