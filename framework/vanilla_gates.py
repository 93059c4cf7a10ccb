"""The gates of a loop as torch has them: functions of sums of products; see vanilla.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from framework.cell import Op
from framework.component import Component, Target


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate: the weight names that torch has in one block of rows.

    inputs: for each of `Vanilla.sources` the weights that are added up (none: zeros); bias, const: weights
    and a number that are added up; inner, inner_const: the same of the bias beside the recurrent product in
    the candidate of a GRU.
    """

    inputs: tuple[tuple[str, ...], ...]
    recurrent: str
    bias: tuple[str, ...] = ()
    const: float = 0.0
    inner: tuple[str, ...] = ()
    inner_const: float = 0.0


class No(Exception):
    """Why a loop is none of them; ends the search."""


class Row(NamedTuple):
    """A gate that was found: its op, its function ("candidate": the tanh of a GRU's), its units."""

    at: int
    function: str
    size: int


class Gates:
    """Equations of one component; lives only while it is looked at. Its methods raise `No`."""

    def __init__(self, c: Component, program: Sequence[Op]):
        self.c, self.program = c, program
        self.targets: dict[int, Target] = {t.op: t for t in c.targets}
        self.sources: list[int] = []
        self.hidden = ""

    def see(self, at: int) -> int:
        """The op behind copies."""
        while self.c.cell[at].kind == "copy":
            at = self.c.cell[at].args[0]
        return at

    def op(self, at: int) -> Op:
        """The op of a value, copies left out."""
        return self.c.cell[self.see(at)]

    def reads(self, at: int, node: str) -> bool:
        """Whether it is the value of a state one step before."""
        op = self.op(at)
        return op.kind == "shift" and op.name == node

    def factors(self, at: int, what: str) -> tuple[int, int]:
        """Both factors of a product; `what`: why not, if it is none."""
        op = self.op(at)
        if op.kind != "prod" or len(op.args) != 2:
            raise No(what)
        return op.args[0], op.args[1]

    def gate(self, row: Row) -> Gate:
        """A gate, a function of a sum of products."""
        op, size, candidate = self.op(row.at), row.size, row.function == "candidate"
        if op.kind != ("tanh" if candidate else row.function):
            raise No(f"one of its gates is {op.kind}(...), not {row.function}(...)")
        start = self.see(op.args[0])
        target = self.targets.get(start)
        if target is None:
            raise No("one of its gates is no sum of products")
        if self.c.cell[start].size != size:
            raise No("its gates have different sizes")
        inputs, bias, const = self.outer(target)
        rest = self.rest(start)
        if not candidate:
            return Gate(inputs, self.recurrent(rest), bias, const)
        if len(rest) != 1:
            raise No("its candidate adds up more than full(x) and r * full(h[t-1])")
        inner = next((self.see(a) for a in self.op(rest[0]).args if self.see(a) in self.targets), -1)
        if inner < 0 or self.c.cell[inner].size != size:
            raise No("its reset gate does not scale a product of h[t-1]")
        fed, second, second_const = self.outer(self.targets[inner])
        if any(fed):
            raise No("its reset gate scales a product of the input")
        return Gate(inputs, self.recurrent(self.rest(inner)), bias, const, second, second_const)

    def rest(self, at: int) -> list[int]:
        """What a sum adds to its hoisted part."""
        op = self.c.cell[at]
        if any(coef != 1.0 for coef in op.coefs):
            raise No("a term of it has a factor")
        return [a for a in op.args if self.c.cell[a].kind != "pre"]

    def recurrent(self, rest: Sequence[int]) -> str:
        """The weight of the one product of h[t-1] in a sum."""
        if len(rest) != 1 or self.c.cell[rest[0]].kind != "full":
            raise No("one of its gates adds up more than products of the input and of h[t-1]")
        op = self.c.cell[rest[0]]
        if not self.reads(op.args[0], self.hidden):
            raise No("one of its gates reads another value than h[t-1]")
        return op.name

    def outer(self, target: Target) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...], float]:
        """Input weights by source, biases and the number in the hoisted part of a sum."""
        weights: dict[int, list[str]] = {}
        bias: list[str] = []
        for a, coef in target.addends:
            op = self.program[a]
            if coef != 1.0:
                raise No("a term of it has a factor")
            if op.kind == "param":
                if op.size != target.hi - target.lo:
                    raise No("a bias of it is smaller than its gate")
                bias.append(op.name)
            elif op.kind == "full":
                if op.args[0] not in self.sources:
                    self.sources.append(op.args[0])
                weights.setdefault(op.args[0], []).append(op.name)
            else:
                raise No("its hoisted sums are not products of inputs alone")
        return tuple(tuple(weights.get(s, ())) for s in self.sources), tuple(bias), target.const
