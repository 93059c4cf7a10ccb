"""A step of `compiled_nests` that computes values of a loop again where all sequences of its nodes are known.

No step waits for another then: the function runs over slabs of steps, every product over all rows of one, and
leaves what the forward would have left for the backward, in the same places.
"""

from __future__ import annotations

from framework.runners.compiled_nests import Step
from framework.runners.compiled_steps import Forward
from framework.runners.source_rebuild import LEAVES

SLAB = 128  # rows: enough to read a panel of weights seldom, few enough for their gates to stay in a cache


def slab_steps(lanes: int) -> int:
    """Steps of a slab."""
    return max(1, SLAB // lanes)


class Rebuild(Forward):
    """The part of a step forward on which saved values depend, down to the nodes, which are in memory."""

    rings = False

    def step(self) -> Step:
        """The step; fills `source`."""
        c, step = self.c, super().step()
        known = {c.roots[n] for n in c.states} | {at for _, at in c.outputs if c.cell[at].kind != "shift"}
        needed = self._needed(known)
        products = [p for p in step.products if p.gives & needed]
        sources = {i for p in products for i in p.needs}
        step.ids = [i for i in step.ids if i in needed or (i in sources and self.ops[i].kind == "const")]
        step.products = products
        for i in known:
            step.memory[i] = self.place[i]
            step.stores.pop(i, None)
        return step

    def _needed(self, known: set[int]) -> set[int]:
        """Ops to compute: the saved ones, and what they are computed from."""
        needed: set[int] = set()
        todo = [i for i in self.saved if i not in known]
        while todo:
            i = todo.pop()
            if i in known or i in needed or self.ops[i].kind in LEAVES:
                continue
            needed.add(i)
            todo.extend(self.ops[i].args)
        return needed
