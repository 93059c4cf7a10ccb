"""Generated Python that computes values of a loop again, many steps at once: its node sequences are known.

Nothing waits for another step then: each product is one over a whole block of steps. What it leaves is what
the forward loop would have left for the backward, in the same places.
"""

from __future__ import annotations

from dataclasses import replace

from framework.runners.source import Source
from framework.runners.source_forward import ForwardEmitter

LEAVES = ("pre", "ext", "param", "const")


class RebuildEmitter(ForwardEmitter):
    """The cell of a component over blocks of steps, as far as its saved values need it."""

    mode = "block"

    def emit(self) -> Source:
        """The whole source; `K` is the steps of a block."""
        c = self.c
        self._places()
        for name, s in self.source.buffers.items():
            if s.mode == "temp":
                self.source.buffers[name] = replace(s, mode="block")
        self.place.update({i: replace(p, mode="block") for i, p in self.place.items() if p.mode == "temp"})
        known = {c.roots[n] for n in c.states} | {at for _, at in c.outputs if c.cell[at].kind != "shift"}
        needed = self._needed(known)
        run_of = self._runs()
        sums = {c.cell[t.op].args[0]: t for t in c.targets if t.op in needed}
        for source, runs in run_of.items():  # a product that no needed sum takes in is left out
            run_of[source] = [
                (k, r) for k, r in runs if any(r.lo <= t.lo and t.hi <= r.hi for t in sums.values())
            ]
        body = self._statements(sorted(needed), known, run_of)
        if not body:
            return self.finish([])
        return self.finish(
            ["for t0 in range(0, T, K):", "    t1 = min(T, t0 + K)", *(f"    {x}" for x in body)]
        )

    def _needed(self, known: set[int]) -> set[int]:
        """Ops with statements: the saved ones, and what they are computed from, down to what is known."""
        needed: set[int] = set()
        todo = [i for i in self.saved if i not in known]
        while todo:
            i = todo.pop()
            op = self.ops[i]
            if i in known or i in needed or op.kind in LEAVES:
                continue
            if op.kind != "full":
                needed.add(i)
            todo.extend(op.args)
        return needed
