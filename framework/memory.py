"""What a plan costs: numbers that are kept for the backward, and arithmetic, for one step of one lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.component import Component
from framework.derivative import derive
from framework.ops import TABLE
from framework.steps import Linear, Loop, Map

if TYPE_CHECKING:
    from framework.plan import Plan
    from framework.vanilla import Vanilla

# Numbers for each unit of an LSTM in oneDNN's workspace: 15.2 to 15.4 for 64 to 512 units (torch 2.13).
ONEDNN = 15.3


def kept_by_loop(c: Component) -> int:
    """Numbers that a loop keeps beside its hoisted buffer: node values and what its derivative reads.

    A function of a hoisted sum is written over the sum, so gates need no room of their own.
    """
    saved = derive(c).saved
    readers: dict[int, int] = {}
    for op in c.cell:
        for a in op.args:
            readers[a] = readers.get(a, 0) + 1
    sums = {t.op for t in c.targets}
    roots = {c.roots[n] for n in c.states} | {at for _, at in c.outputs}
    kept = 0
    for i, op in enumerate(c.cell):
        if op.kind in ("shift", "pre", "ext", "param", "const", "full") or (i in sums and i not in roots):
            continue
        in_place = (
            op.kind in TABLE
            and bool(TABLE[op.kind].inplace)
            and op.args[0] in sums
            and op.args[0] not in saved
            and readers[op.args[0]] == 1
        )
        if i in roots or (i in saved and not in_place):
            kept += op.size
    return kept


def kept_by_fused(v: Vanilla, on_cpu: bool) -> int:
    """Numbers that torch's own routine keeps, h included; of oneDNN as measured, elsewhere an estimate."""
    if on_cpu and v.kind == "lstm" and not v.project:
        return round((ONEDNN + 1) * v.size)
    return (len(v.gates) + 2) * v.size


def stored_by_loop(c: Component) -> int:
    """Numbers that a loop keeps when it computes all else again: its states and other outputs."""
    ids = {c.roots[n] for n in c.states} | {at for _, at in c.outputs if c.cell[at].kind != "shift"}
    return sum(c.cell[at].size for at in ids)


# Hoisted ops whose results are no numbers of their own.
VIEWS = ("input", "index", "copy", "expand", "stop", "slice")
# Runners that draw the random masks of their loops themselves.
OWN_MASKS = ("elementwise", "persistent", "streamed", "scan")


def drawn_inside(plan: Plan) -> frozenset[int]:
    """Masks, and what is made of masks, that loops draw themselves: nobody reads them as sequences."""
    read = {plan.roots[n] for n in (*plan.graph.outputs.values(), *plan.history)}
    unread: set[int] = set()
    for step in reversed(plan.steps):
        if isinstance(step, Linear):
            read.update(a.source for a in step.addends)
        elif isinstance(step, Loop):
            c = plan.components[step.component]
            own = plan.memory == "recompute" or plan.choices[step.component].runner in OWN_MASKS
            read.update(a for i, a in enumerate(c.ext) if not (own and i in c.masks))
        elif step.op in read:
            op = plan.ops[step.op]
            read.update([plan.roots[op.name]] if op.kind == "shift" else op.args)
        else:
            unread.add(step.op)
    return frozenset(unread)


def kept(plan: Plan) -> int:
    """Numbers kept for the backward for each step and lane, outputs included."""
    fused = {k for k, choice in enumerate(plan.choices) if choice.runner == "torch-fused"}
    taken = {s.pre for s in plan.steps if isinstance(s, Loop) and s.component in fused}
    total = 0
    again, nobody = plan.memory == "recompute", drawn_inside(plan)
    for i, step in enumerate(plan.steps):
        if isinstance(step, Linear):
            total += 0 if i in taken or (again and step.loop) else step.width
        elif isinstance(step, Loop):
            c = plan.components[step.component]
            if step.component in fused:
                assert not isinstance(c.vanilla, str)
                total += kept_by_fused(c.vanilla, plan.machine.device == "cpu")
            else:
                total += stored_by_loop(c) if again else kept_by_loop(c)
        elif step.op not in nobody and plan.ops[step.op].kind not in VIEWS:
            total += plan.ops[step.op].size
    return total


def flops(plan: Plan, step: Linear | Map | Loop) -> int:
    """Multiplications and additions of one forward step, for each time step and lane."""
    if isinstance(step, Linear):
        products = (a for a in step.addends if a.kind == "full")
        return sum(2 * (a.hi - a.lo) * plan.ops[a.source].size for a in products)
    if isinstance(step, Map):
        op = plan.ops[step.op]
        return 0 if op.kind in ("input", "index", "copy", "expand", "shift") else op.size
    c = plan.components[step.component]
    total = sum(2 * (run.hi - run.lo) * c.cell[run.source].size for run in c.runs)
    for op in c.cell:
        if op.kind == "block":
            total += 2 * op.size * c.cell[op.args[0]].size // op.blocks
        elif op.kind not in ("shift", "pre", "ext", "param", "const", "full", "copy"):
            total += op.size * max(1, len(op.args) - 1)
    return total
