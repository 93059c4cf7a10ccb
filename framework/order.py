"""In which order steps of a plan run where some loops start together, and how long values live. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from framework.component import Component
from framework.steps import Linear, Loop, Map, Step
from framework.together import Together

if TYPE_CHECKING:
    from framework.plan import Plan

Order = tuple[int | Together, ...]


class Makes(Protocol):
    """What executes a loop: whether it makes the masks of its component itself."""

    own_masks: bool
    c: Component


def order(plan: Plan) -> Order:
    """The steps of a plan in order, with loops that start together as one."""
    home = {k: x for x in plan.together for k in x.steps}
    if plan.overlap is not None:
        stage = stages(plan)
        at = [(stage[k], isinstance(step, Loop), k) for k, step in enumerate(plan.steps)]
        return tuple(k for _, _, k in sorted(at))
    if not home:
        return tuple(range(len(plan.steps)))
    needs = list(_needs(plan))
    done: set[int] = set()
    out: list[int | Together] = []

    def add(k: int) -> None:
        if k in done:
            return
        x = home.get(k)
        if x is None:
            done.add(k)
            out.append(k)
            return
        for earlier in sorted(_before(x.steps, needs, done)):
            add(earlier)  # what is before it in the plan is there by now
        done.update(x.steps)
        out.append(x)

    for k in range(len(plan.steps)):
        add(k)
    return tuple(out)


def stages(plan: Plan) -> list[int]:
    """For each step its stage: 1 is all that reads no loop, and the loops that read only this; 2 what reads
    those, and the loops behind it; and so on.
    """
    out: list[int] = []
    for needs in _needs(plan):
        out.append(max((out[n] + isinstance(plan.steps[n], Loop) for n in needs), default=1))
    return out


def _before(steps: Sequence[int], needs: Sequence[Sequence[int]], done: set[int]) -> set[int]:
    """Steps that `steps` need, and those need, which are not done."""
    found: set[int] = set()
    todo = [n for k in steps for n in needs[k]]
    while todo:
        k = todo.pop()
        if k not in found and k not in done:
            found.add(k)
            todo += needs[k]
    return found


def _needs(plan: Plan) -> Iterator[list[int]]:
    """For each step those whose values it takes."""
    made: dict[int, int] = {}
    for k, step in enumerate(plan.steps):
        if isinstance(step, Linear):
            made.update(dict.fromkeys(step.columns, k))
        elif isinstance(step, Map):
            made[step.op] = k
        else:
            made.update((at, k) for at, _ in plan.components[step.component].outputs)
    for step in plan.steps:
        before = [step.pre] if isinstance(step, Loop) and step.pre >= 0 else []
        yield before + [made[at] for at in step_reads(plan, step) if at in made]


def step_reads(plan: Plan, step: Step) -> Sequence[int]:
    """Ops whose values a step takes (a loop's hoisted sums apart)."""
    if isinstance(step, Linear):
        return [a.source for a in step.addends if a.source >= 0]
    if isinstance(step, Loop):
        return plan.components[step.component].ext
    op = plan.ops[step.op]
    return [plan.roots[op.name]] if op.kind == "shift" else op.args


def steps_of(order: Order) -> list[int]:
    """All steps, one by one."""
    return [k for item in order for k in (item.steps if isinstance(item, Together) else (item,))]


def last_uses(plan: Plan, order: Order) -> list[list[int]]:
    """For every step the ops whose values no later one in `order` reads: they can be let go."""
    last: dict[int, int] = {}
    for k in steps_of(order):
        for a in step_reads(plan, plan.steps[k]):
            last[a] = k
    keep = {plan.roots[n] for n in (*plan.graph.outputs.values(), *plan.history)}
    out: list[list[int]] = [[] for _ in plan.steps]
    for a, k in last.items():
        if a not in keep:
            out[k].append(a)
    return out


def unread_maps(plan: Plan, loops: Sequence[Makes]) -> frozenset[int]:
    """Hoisted ops that nobody reads, because the loops' runners make their masks themselves."""
    read = {plan.roots[n] for n in (*plan.graph.outputs.values(), *plan.history)}
    unread: set[int] = set()
    for step in reversed(plan.steps):
        if isinstance(step, Map) and step.op not in read:
            unread.add(step.op)
        elif isinstance(step, Loop) and loops[step.component].own_masks:
            c, own = plan.components[step.component], loops[step.component].c.masks
            read.update(a for i, a in enumerate(c.ext) if i not in own)
        else:
            read.update(step_reads(plan, step))
    return frozenset(unread)
