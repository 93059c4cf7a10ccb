"""The plan as text: what each step is, what stays in a loop and why, which runner, what it costs.

How to read it: docs/planner.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from framework.component import phases_of
from framework.memory import flops, kept
from framework.plan_names import Values, add_up, join_names, join_terms, node_of, number, scaled, term_of
from framework.products import gradient_text, product_text, products_text
from framework.reasons import cycle_text, node_groups
from framework.steps import Addend, Linear, Loop, Map, Pack
from framework.together import group_text

if TYPE_CHECKING:
    from framework.component import Component
    from framework.plan import Plan

Row = tuple[str, str, str]  # kind ("" goes on with the row above), what, cost
Column = tuple[int, int, str]  # first and last unit of a hoisted buffer, and what they are called
WIDTH = 62  # of the middle column; a longer text pushes its cost to the right


def plan_text(plan: Plan) -> str:
    """One line a step, then the totals for one time step of one lane."""
    rows = list(_Rows(plan).rows())
    width = min(WIDTH, max((len(what) for _, what, cost in rows if cost), default=0))
    out, n = [], 0
    for kind, what, cost in rows:
        n += bool(kind)
        mark = f"{n:2d}" if kind else "  "
        out.append(f"{mark} {kind:7s} {what:{width}s}  {cost}".rstrip())
    return "\n".join([*out, *_totals(plan)])


def _totals(plan: Plan) -> Iterator[str]:
    if plan.wave is not None:
        yield f"   overlap = {plan.overlap} parts; at the same time, each in another part: {plan.wave.how}"
    for group in plan.groups if plan.wave is None else ():
        yield f"   {group_text(plan, group)}"
    if plan.machine.device != "cpu" or plan.asked != "auto":
        yield f"   {products_text(plan.machine, plan.products)}"
    if plan.parallel == "none":
        yield "   parallel = none: every node is computed step by step, nothing is hoisted"
    hoisted = sum(flops(plan, s) for s in plan.steps if not isinstance(s, Loop))
    loops = sum(flops(plan, s) for s in plan.steps if isinstance(s, Loop))
    numbers = kept(plan)
    dtype = plan.machine.dtype.replace("tf32", "fp32")
    yield (
        f"   per step and lane: {_si(hoisted)}FLOP hoisted, {_si(loops)}FLOP in loops; "
        f"{numbers:,} numbers kept for the backward ({_si(plan.machine.itemsize * numbers)}B in {dtype})"
    )
    if plan.memory == "recompute":
        yield "   memory = recompute: loops keep the sequences of their nodes, and compute all else again"
    if plan.chunk is not None:
        yield f"   chunk = {plan.chunk}: so many steps run at once, and again for the backward"
    weights = sum(prod(p.shape) for p in plan.packs.values())
    yield f"   weights: {weights:,} in {len(plan.packs)} tensors"
    dropped = [n for n in plan.graph.nodes if n not in plan.roots]
    if dropped:
        yield f"   dropped, no output needs them: {join_names(dropped)}"


def _si(x: float) -> str:
    """1500 -> '1.5 K'; the unit follows."""
    for unit in ("", "K", "M", "G"):
        if x < 999.5:
            return f"{x:.3g} {unit}"
        x /= 1000
    return f"{x:.3g} T"


def loop_facts(c: Component) -> str:
    """`forward, dense, 1 phase, delay 1`."""
    if not c.delay:  # only where nothing is hoisted
        return "no recurrence"
    facts = ["forward" if c.direction > 0 else "backward", c.kind]
    facts.append(f"{c.phases} phase{'s' * (c.phases != 1)}")
    facts.append(f"delay {c.delay}")
    if c.factor > 1:
        facts.append(f"factor {c.factor}")
    return ", ".join(facts)


def product_cost(pack: Pack) -> str:
    """The shapes of a hoisted product with `pack`."""
    rows, cols = pack.shape
    return f"rows of [{rows}, {cols}]" if pack.kind == "gather" else f"[T*B, {cols}] x [{cols}, {rows}]"


class _Rows:
    """Lives only during plan_text."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.values = Values(plan)
        self.groups = node_groups(plan.graph)
        self.nodes = frozenset(plan.roots.values())

    def rows(self) -> Iterator[Row]:
        """All steps in order."""
        loop_of = {s.pre: s.component for s in self.plan.steps if isinstance(s, Loop) and s.pre >= 0}
        for i, step in enumerate(self.plan.steps):
            if isinstance(step, Linear):
                c = self.plan.components[loop_of[i]] if i in loop_of else None
                yield from self._linear(step, self._starts(step, c) if c else self._sums(step))
            elif isinstance(step, Map):
                yield from self._map(step)
            else:
                yield from self._loop(step.component)

    def _map(self, step: Map) -> Iterator[Row]:
        """One line for an op and those that only it reads."""
        values, ops = self.values, self.plan.ops
        op = ops[step.op]
        if op.kind in ("input", "index") or step.op in values.inlined:
            return
        name, formula = values.name(step.op), values.formula(step.op)[0]
        if op.kind == "shift":
            far, way = abs(op.shift), "later" if op.shift > 0 else "earlier"
            yield "map", f"{name} <- {op.name}, {far} step{'s' * (far > 1)} {way}", f"[T*B, {op.size}]"
            return
        count, todo = 0, [step.op]
        while todo:
            count += 1
            todo += [a for a in set(ops[todo.pop()].args) if a in values.inlined]
        node = values.owner[step.op]
        what = f"{name} <- {formula}" if name != formula else f"{formula}   for {node}" if node else formula
        yield "map", what, f"[T*B, {op.size}]" + (f" in {count} passes" if count > 1 else "")

    # Hoisted sums of products ---------------------------------------------------------------------------

    def _linear(self, step: Linear, columns: Sequence[Column]) -> Iterator[Row]:
        """A line for each product, with all else that starts or joins the same columns."""
        products = [a for a in step.addends if a.kind in ("full", "gather")]
        home: dict[int, int] = {}  # start of a column -> the first product in it
        firsts: list[list[int]] = [[] for _ in products]  # and back
        for k, a in enumerate(products):
            for lo, *_ in _within(columns, a.lo, a.hi):
                if home.setdefault(lo, k) == k:
                    firsts[k].append(lo)
        more: list[list[str]] = [[] for _ in products]
        alone: list[tuple[str, list[Column]]] = []
        for text, where in self._others(step, columns):
            starts = {column[0] for column in where}
            for k in dict.fromkeys(home[lo] for lo in starts if lo in home):
                if all(lo in starts for lo in firsts[k]):
                    more[k].append(text)
                    starts.difference_update(firsts[k])
            if starts:
                alone.append((text, [column for column in where if column[0] in starts]))
        written: set[int] = set()
        for a, extra in zip(products, more, strict=True):
            pack = self.plan.packs[a.pack]
            text = add_up([scaled(join_terms([m[0] for m in pack.members]), a.coef), *extra])
            kind = "gemm" if a.kind == "full" else "gather"
            who, gradients = self._who(step, a)
            cost = product_cost(pack) + (f"  {who}" if who else "")
            yield kind, self._into(_within(columns, a.lo, a.hi), text, written), cost
            if gradients:
                yield "", f"  {gradients}", ""
        for text, where in alone:
            yield "add", self._into(where, text, written), f"[T*B, {sum(hi - lo for lo, hi, _ in where)}]"

    def _who(self, step: Linear, a: Addend) -> tuple[str, str]:
        """Who does a product, and who its gradients; nothing on a CPU, where torch does them all."""
        plan = self.plan
        machine, by = plan.machine, plan.products.by
        if machine.device == "cpu" and by == "torch":
            return "", ""
        if a.kind == "gather":
            return f"by {'torch' if by == 'torch' else 'triton'}", ""
        return product_text(machine, by, a.hi - a.lo, plan.packs[a.pack].shape[1], step.width, a.lo)

    def _into(self, columns: Sequence[Column], text: str, written: set[int]) -> str:
        """`names <- text`, or `names += text` where something stands in one of the columns already."""
        sign = "+=" if any(column[0] in written for column in columns) else "<-"
        written.update(column[0] for column in columns)
        return f"{join_names([name for _, _, name in columns])} {sign} {text}"

    def _sums(self, step: Linear) -> list[Column]:
        """The values in a buffer."""
        return sorted((lo, hi, self.values.name(op)) for op, (lo, hi) in step.columns.items())

    def _starts(self, step: Linear, c: Component) -> list[Column]:
        """The nodes of a loop whose sums start from this buffer: those whose weights stand in its columns."""
        nodes: dict[int, str] = {}
        for run in c.runs:
            nodes.update((run.lo + lo, node_of(name)) for name, lo, _ in run.weights)
        for a in step.addends:
            if a.kind == "value":
                nodes.setdefault(a.lo, self.values.owner[a.source])
            else:
                nodes.update((a.lo + lo, node_of(name)) for name, lo, _ in self.plan.packs[a.pack].members)
        return [(t.lo, t.hi, nodes.get(t.lo, c.name)) for t in c.targets]

    def _others(self, step: Linear, columns: Sequence[Column]) -> Iterator[tuple[str, list[Column]]]:
        """(text, columns it is added to) of biases, values and numbers."""
        found: dict[str, list[Column]] = {}
        for a in step.addends:
            if a.kind == "value":
                text = scaled(self.values.text(a.source)[0], a.coef)
                found.setdefault(text, []).extend(_within(columns, a.lo, a.hi))
            elif a.kind == "bias":
                for name, lo, hi in self.plan.packs[a.pack].members:
                    text = scaled(name.split(":", 1)[1], a.coef)
                    found.setdefault(text, []).extend(_within(columns, a.lo + lo, a.lo + hi))
        for lo, hi, const in step.const:
            found.setdefault(number(const), []).extend(_within(columns, lo, hi))
        yield from found.items()

    # Loops ----------------------------------------------------------------------------------------------

    def _loop(self, k: int) -> Iterator[Row]:
        """What the loop is and why; on lines of its own what stays in it."""
        plan = self.plan
        c, choice = plan.components[k], plan.choices[k]
        yield (
            "loop",
            f"{c.name}  {loop_facts(c)}",
            f"runner {choice.runner}{f' ({choice.how})' if choice.how else ''}",
        )
        for note in choice.notes:
            yield "", f"  not {note}", ""
        states = [n for n in c.nodes if n in c.states]
        carried = f"; carries {join_names(states)}" if states else ""
        parts = [self.values.name(at) for at, _ in c.outputs if at not in self.nodes]
        also = f"; also gives {join_names(parts)}" if parts else ""
        yield "", f"  nodes {join_names(c.nodes)}{carried}{also}", ""
        if c.delay:
            yield "", f"  why: {cycle_text(plan.graph, c, self.groups[c.nodes[0]])}", ""
        for run in c.runs:
            names = [w[0] for w in run.weights]
            phase = f"phase {run.phase}: " if c.phases > 1 else ""
            cols = c.cell[run.source].size
            what = f"  in loop: {phase}{join_terms(names)} -> {join_names([node_of(w) for w in names])}"
            yield "", what, f"[B, {cols}] x [{cols}, {run.hi - run.lo}]"
            if c.delay:
                who = gradient_text(plan.machine, plan.products.by, run.hi - run.lo, cols, c.width, run.lo)
                if who != "by torch":
                    yield "", f"    gradient of the weights, after the loop: {who}", ""
        for (phase, term, cost), nodes in self._singles(c).items():
            mark = f"phase {phase}: " if phase and c.phases > 1 else ""
            yield "", f"  in loop: {mark}{term} -> {join_names(nodes)}", cost

    def _singles(self, c: Component) -> dict[tuple[int, str, str], list[str]]:
        """(phase, term, cost) -> nodes: what has weights or looks at whole rows, but is no dense product."""
        found: dict[tuple[int, str, str], list[str]] = {}
        phase, node = phases_of(c.cell), _nodes_of(c)
        for i, op in enumerate(c.cell):
            key: tuple[int, str, str] | None = None
            if op.kind == "block":
                key = (phase[i], term_of(op.name), f"[B, {c.cell[op.args[0]].size}] in {op.blocks} blocks")
            elif op.kind == "gather":
                vocab = self.plan.graph.weights[op.name].shape[1]
                key = (phase[i], term_of(op.name), f"rows of [{vocab}, {op.size}]")
            elif op.kind == "softmax":
                key = (phase[i], "softmax", "")
            elif op.kind == "prod" and any(c.cell[a].kind == "normalize" for a in op.args):
                gain = next((c.cell[a].name for a in op.args if c.cell[a].name.endswith(".gain")), "")
                if gain:
                    key = (phase[i], term_of(gain).removesuffix(".gain"), "")
            elif op.kind == "param" and not term_of(op.name).startswith("norm("):
                key = (0, term_of(op.name), "")
            if key:
                found.setdefault(key, []).append(node_of(op.name) if op.name else node[i])
        return found


def _within(columns: Sequence[Column], lo: int, hi: int) -> Sequence[Column]:
    """The columns in lo:hi of a buffer; `columns` are sorted."""
    return columns[bisect_left(columns, (lo,)) : bisect_left(columns, (hi,))]


def _nodes_of(c: Component) -> list[str]:
    """The node that each op of a cell works for."""
    nodes = [""] * len(c.cell)
    for name, at in c.roots.items():
        nodes[at] = name
    for i in reversed(range(len(c.cell))):
        for a in c.cell[i].args:
            nodes[a] = nodes[a] or nodes[i]
    return nodes
