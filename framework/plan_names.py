"""What the values of a plan are called when it is printed, and their formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from framework.cell import Op
from framework.steps import Linear, Loop, Map

if TYPE_CHECKING:
    from framework.plan import Plan

LISTED = 12  # names in one pair of brackets before "..."
INLINE = 60  # characters of a formula that may stand inside another one
SUM, PRODUCT, ATOM = 1, 2, 3  # how strongly the outermost sign of a text binds


def join_names(names: Sequence[str]) -> str:
    """l1/i, l1/f, l2/i -> l1/{i,f} l2/i; long lists are cut."""
    heads: dict[str, list[str]] = {}
    for n in dict.fromkeys(names):
        head, _, tail = n.rpartition("/")
        heads.setdefault(head, []).append(tail)
    out = []
    for head, tails in heads.items():
        inner = tails[0]
        if len(tails) > 1:
            cut = "" if len(tails) <= LISTED else f",... {len(tails) - LISTED + 2} more"
            inner = "{" + ",".join(tails[: LISTED - 2] if cut else tails) + cut + "}"
        out.append(f"{head}/{inner}" if head else inner)
    if len(out) > LISTED:
        return f"{' '.join(out[: LISTED - 2])} ... {len(out) - LISTED + 2} more"
    return " ".join(out)


def join_terms(weights: Sequence[str]) -> str:
    """The terms of weight names: l1/i:full(x), l1/f:full(x)#2 -> full(x); a term on its own keeps its #2."""
    if len(weights) == 1:
        return weights[0].split(":", 1)[1]
    terms = list(dict.fromkeys(term_of(w) for w in weights))
    return " | ".join(terms) if len(terms) <= 3 else f"{terms[0]} | {len(terms) - 1} more"


def term_of(weight: str) -> str:
    """l1/i:full(x)#2 -> full(x)."""
    return weight.split(":", 1)[1].split("#")[0]


def node_of(weight: str) -> str:
    """l1/i:full(x) -> l1/i."""
    return weight.split(":", 1)[0]


class Values:
    """Names and formulas of the values of one plan.

    A value that is a node bears its name; a hoisted sum of products inside a node is `<node>.sum`, a part of
    a node that a loop gives out `<node>.tanh` or the like; any other value is called by its formula when that
    is short, else `<node>.1`, `<node>.2`. `inlined`: hoisted ops that only one other hoisted op reads, and
    that are written as a part of its formula.
    """

    def __init__(self, plan: Plan):
        self.ops = plan.ops
        self.owner = list(plan.owner)
        for c in plan.components:  # helpers that the planner made for a loop
            for at in (*c.ext, *(a for t in c.targets for a, _ in t.addends)):
                self.owner[at] = self.owner[at] or c.name
        self.names: dict[int, str] = {root: name for name, root in plan.roots.items()}
        self.counts: dict[str, int] = {}
        self.texts: dict[int, tuple[str, int]] = {}
        for step in plan.steps:
            if isinstance(step, Linear):
                for at in step.columns:
                    if at not in self.names:
                        self.names[at] = self._numbered(f"{self.owner[at]}.sum", first="")
        for c in plan.components:
            for at, _ in c.outputs:  # parts of a node that others read, too
                if at not in self.names and self.ops[at].kind != "shift":
                    self.names[at] = self._numbered(f"{self.owner[at]}.{self.ops[at].kind}", first="")
        self.inlined = self._inlined(plan)

    def _numbered(self, name: str, first: str) -> str:
        n = self.counts[name] = self.counts.get(name, 0) + 1
        return f"{name}{first if n == 1 else n}"

    def _inlined(self, plan: Plan) -> frozenset[int]:
        """Anonymous hoisted ops that exactly one other hoisted op reads."""
        maps = {step.op for step in plan.steps if isinstance(step, Map)}
        readers: dict[int, int] = dict.fromkeys((plan.roots[n] for n in plan.graph.outputs.values()), 2)
        for step in plan.steps:
            if isinstance(step, Map):
                for a in set(self.ops[step.op].args):
                    readers[a] = readers.get(a, 0) + 1
            elif isinstance(step, Linear):
                for addend in step.addends:
                    readers[addend.source] = 2
            else:
                assert isinstance(step, Loop)
                for a in plan.components[step.component].ext:
                    readers[a] = 2
        anonymous = {a for a in maps.difference(self.names) if self.ops[a].kind != "shift"}
        alone = {a for a in anonymous if readers.get(a) == 1}
        for a in sorted(alone):  # arguments first: no deep recursion
            self.text(a)
        return frozenset(alone.difference(self.names))  # a long formula has been given a name

    def name(self, at: int) -> str:
        """What value `at` is called where it is read on its own."""
        return self.text(at)[0]

    def text(self, at: int) -> tuple[str, int]:
        """(name or short formula of value `at`, how strongly it binds)."""
        known = self.texts.get(at)
        if known is None:
            known = (self.names[at], ATOM) if at in self.names else self.formula(at)
            if len(known[0]) > INLINE and at not in self.names:
                self.names[at] = self._numbered(f"{self.owner[at]}.", first="1")
                known = (self.names[at], ATOM)
            self.texts[at] = known
        return known

    def formula(self, at: int) -> tuple[str, int]:
        """How value `at` is computed from others, and how strongly that text binds."""
        op = self.ops[at]
        if op.kind == "sum":
            return self._sum(op)
        if op.kind == "prod":
            diag = next((self.ops[a].name for a in op.args if self._is_diag(a)), "")
            if diag:
                return term_of(diag), ATOM
            return " * ".join(self._inside(a, PRODUCT) for a in op.args), PRODUCT
        if op.kind == "slice":
            return f"{self._inside(op.args[0], ATOM)}[{op.lo}:{op.hi}]", ATOM
        if op.kind in ("copy", "expand"):
            return self.text(op.args[0])
        args = [self.text(a)[0] for a in op.args]
        simple: Mapping[str, str] = {
            "shift": f"{op.name}[t{op.shift:+d}]",
            "param": term_of(op.name) if ":" in op.name else op.name,
            "const": number(op.value),
            "random": f"mask({number(op.value)})",
            "block": term_of(op.name) if ":" in op.name else op.name,
        }
        return simple.get(op.kind) or f"{op.kind}({', '.join(args)})", ATOM

    def _is_diag(self, at: int) -> bool:
        op = self.ops[at]
        return op.kind == "param" and ":" in op.name and term_of(op.name).startswith("diag(")

    def _inside(self, at: int, around: int) -> str:
        text, strength = self.text(at)
        return f"({text})" if strength < around else text

    def _sum(self, op: Op) -> tuple[str, int]:
        terms = [scaled(self._inside(a, PRODUCT), c) for a, c in zip(op.args, op.coefs, strict=True)]
        if op.value:
            first = op.value > 0 and terms[0].startswith("-")
            terms.insert(0 if first else len(terms), number(op.value))
        return add_up(terms), SUM if len(terms) > 1 else PRODUCT


def number(value: float) -> str:
    """1.0 -> 1; 1/3 -> 0.333333."""
    return f"{value:.6g}"


def scaled(text: str, coef: float) -> str:
    """coef * text, without a factor of 1."""
    if coef == 1.0:
        return text
    return f"-{text}" if coef == -1.0 else f"{number(coef)} * {text}"


def add_up(terms: Sequence[str]) -> str:
    """a, -b -> a - b."""
    out = terms[0]
    for term in terms[1:]:
        out += f" - {term[1:]}" if term.startswith("-") else f" + {term}"
    return out
