"""The plan as text: for every step what it is, what was hoisted, what stays in the loop, which runner, what cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from framework.memory import flops, kept
from framework.steps import Addend, Linear, Loop, Map

if TYPE_CHECKING:
    from framework.component import Component
    from framework.plan import Plan


def plan_text(plan: Plan) -> str:
    """One line a step, then the totals for one time step of one lane."""
    rows: list[tuple[str, str, str]] = []
    for step in plan.steps:
        rows += _step(plan, step)
    width = min(58, max((len(what) for _, what, _ in rows), default=0))
    out, n = [], 0
    for kind, what, cost in rows:
        n += bool(kind)
        number = f"{n:2d}" if kind else "  "
        out.append(f"{number} {kind:7s} {what:{width}s}  {cost}".rstrip())
    for group in plan.groups:
        names = [plan.components[_component(plan, k)].name for k in group]
        out.append(f"   at the same time: loops {', '.join(names)}")
    hoisted = sum(flops(plan, s) for s in plan.steps if not isinstance(s, Loop))
    loops = sum(flops(plan, s) for s in plan.steps if isinstance(s, Loop))
    numbers = kept(plan)
    weights = sum(_count(p.shape) for p in plan.packs.values())
    out.append(
        f"   per step and lane: {_si(hoisted)}FLOP hoisted, {_si(loops)}FLOP in loops; "
        f"{numbers} numbers kept for the backward ({_si(4 * numbers)}B in fp32)"
    )
    out.append(f"   weights: {weights} in {len(plan.packs)} tensors")
    dropped = [n for n in plan.graph.nodes if n not in plan.roots]
    if dropped:
        out.append(f"   dropped, no output needs them: {', '.join(dropped)}")
    return "\n".join(out)


def _component(plan: Plan, k: int) -> int:
    step = plan.steps[k]
    assert isinstance(step, Loop)
    return step.component


def _count(shape: Sequence[int]) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


def _si(x: float) -> str:
    """1500 -> '1.5 K'; the unit follows."""
    for unit in ("", "K", "M", "G"):
        if x < 1000:
            return f"{x:.3g} {unit}"
        x /= 1000
    return f"{x:.3g} T"


def _step(plan: Plan, step: Linear | Map | Loop) -> Iterable[tuple[str, str, str]]:
    if isinstance(step, Linear):
        yield from _linear(plan, step)
    elif isinstance(step, Loop):
        yield from _loop(plan, plan.components[step.component])
    else:
        op = plan.ops[step.op]
        if op.kind in ("input", "index"):
            return
        yield "map", f"{_value(plan, step.op)} <- {_formula(plan, step.op)}", f"[T*B, {op.size}]"


def _linear(plan: Plan, step: Linear) -> Iterable[tuple[str, str, str]]:
    """A line for each product; the first one names what else is added."""
    products = [a for a in step.addends if a.kind in ("full", "gather")]
    others = [a for a in step.addends if a.kind not in ("full", "gather")]
    extra = [] if not any(a.kind == "bias" for a in others) else ["bias"]
    extra += [_value(plan, a.source) for a in others if a.kind == "value"]
    extra += ["a number"] if step.const else []
    if not products:
        if others:
            yield "add", f"{step.loop or 'sum'} <- {' + '.join(extra)}", f"[T*B, {step.width}]"
        return
    for i, a in enumerate(products):
        nodes, term = _pack_names(plan, a)
        more = "".join(f" + {x}" for x in extra) if i == 0 else ""
        rows, cols = plan.packs[a.pack].shape
        if a.kind == "full":
            yield "gemm", f"{nodes} <- {term}{more}", f"[T*B, {cols}] x [{cols}, {rows}]"
        else:
            yield "gather", f"{nodes} <- {term}{more}", f"rows of [{rows}, {cols}]"


def _pack_names(plan: Plan, a: Addend) -> tuple[str, str]:
    members = [name.split(":", 1) for name, _, _ in plan.packs[a.pack].members]
    terms = list(dict.fromkeys(term.split("#")[0] for _, term in members))
    return join_names([node for node, _ in members]), " | ".join(terms)


def join_names(names: Sequence[str]) -> str:
    """l1/i, l1/f, l2/i -> l1/{i,f} l2/i."""
    heads: dict[str, list[str]] = {}
    for n in dict.fromkeys(names):
        head, _, tail = n.rpartition("/")
        heads.setdefault(head, []).append(tail)
    out = []
    for head, tails in heads.items():
        inner = tails[0] if len(tails) == 1 else "{" + ",".join(tails) + "}"
        out.append(f"{head}/{inner}" if head else inner)
    return " ".join(out)


def _value(plan: Plan, at: int) -> str:
    """A name for an op: its node, a shifted node, a weight, or the node it was written for."""
    op = plan.ops[at]
    for name, root in plan.roots.items():
        if root == at:
            return name
    if op.kind == "shift":
        return f"{op.name}[t{op.shift:+d}]"
    if op.kind == "param":
        return op.name.split(":", 1)[1]
    if op.kind == "const":
        return f"{op.value:g}"
    return f"{plan.owner[at] or 'loop'}.{at}"


def _formula(plan: Plan, at: int) -> str:
    op = plan.ops[at]
    args = [_value(plan, a) for a in op.args]
    if op.kind == "sum":
        parts = [x if c == 1.0 else f"{c:g} * {x}" for x, c in zip(args, op.coefs, strict=True)]
        return " + ".join([*parts, *([f"{op.value:g}"] if op.value else [])])
    if op.kind == "prod":
        return " * ".join(args)
    if op.kind == "shift":
        return f"{op.name} at {'an earlier' if op.shift < 0 else 'a later'} step"
    if op.kind == "random":
        return f"random mask, p = {op.value:g}"
    if op.kind == "slice":
        return f"{args[0]}[{op.lo}:{op.hi}]"
    if op.kind == "block":
        return op.name.split(":", 1)[1]
    return f"{op.kind}({', '.join(args)})"


def _loop(plan: Plan, c: Component) -> Iterable[tuple[str, str, str]]:
    """What the loop is, and on lines of its own what stays in it."""
    phases = f"{c.phases} phase" + ("" if c.phases == 1 else "s")
    timing = f"delay {c.delay}" + (f", factor {c.factor}" if c.factor > 1 else "") if c.delay else "no recurrence"
    direction = "forward" if c.direction > 0 else "backward"
    choice = plan.choices[plan.components.index(c)]
    yield "loop", f"{c.name}  {direction}, {c.kind}, {phases}, {timing}", f"runner {choice.runner}"
    for note in choice.notes:
        yield "", f"  not {note}", ""
    for run in c.runs:
        names = [name.split(":", 1) for name, _, _ in run.weights]
        terms = list(dict.fromkeys(term.split("#")[0] for _, term in names))
        rows, cols = run.hi - run.lo, c.cell[run.source].size
        target = join_names([node for node, _ in names])
        yield "", f"  in loop: {' | '.join(terms)} -> {target}", f"[B, {cols}] x [{cols}, {rows}]"
    vectors: dict[str, list[str]] = {}
    for op in c.cell:
        if op.kind in ("param", "block", "gather"):
            node, term = op.name.split(":", 1)
            vectors.setdefault(term.split("#")[0], []).append(node)
    for term, nodes in vectors.items():
        yield "", f"  in loop: {term} -> {join_names(nodes)}", ""
    row_ops = [op.kind for op in c.cell if op.kind in ("normalize", "softmax", "rowsum")]
    if row_ops:
        yield "", f"  in loop: row statistics of {', '.join(dict.fromkeys(row_ops))}", ""
