"""One call of a loop that computes again what it did not keep: its tensors, and the blocks of its work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from framework.random import mask_values
from framework.runners import hoisted
from framework.runners.loop import Chunk, Kept
from framework.runners.source import pads
from framework.steps import Linear, block_steps

if TYPE_CHECKING:
    from framework.runners.rebuild import RebuildLoop


@dataclass(frozen=True, slots=True)
class Hoisted:
    """A Linear step that has not run yet, with its tensors (see `hoisted.linear`)."""

    step: Linear
    tensors: Sequence[Tensor]


class Span(NamedTuple):
    """Steps t0:t1 of a chunk; last: nothing after it in the direction of the loop."""

    t0: int
    t1: int
    last: bool


@dataclass(slots=True)
class Parts:
    """The tensors of one call by what they are, and the work on them."""

    loop: RebuildLoop
    chunk: Chunk
    step: Linear | None
    hoisted: tuple[Tensor, ...]
    ext: tuple[Tensor, ...]
    runs: tuple[Tensor, ...]
    singles: tuple[Tensor, ...]
    boundary: tuple[Tensor, ...]
    init: tuple[Tensor, ...]
    counts: tuple[int, ...] = ()

    def _groups(self) -> tuple[tuple[Tensor, ...], ...]:
        return self.hoisted, self.ext, self.runs, self.singles, self.boundary, self.init

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, for autograd."""
        return tuple(x for group in self._groups() for x in group)

    def without_tensors(self) -> Parts:
        """What is no tensor; autograd must not find tensors in it, they would never be freed."""
        counts = tuple(len(group) for group in self._groups())
        return Parts(self.loop, self.chunk, self.step, (), (), (), (), (), (), counts)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Parts:
        """The opposite of `without_tensors`, for those that `tensors` gave."""
        groups, at = [], 0
        for n in self.counts:
            groups.append(tuple(tensors[at : at + n]))
            at += n
        return Parts(self.loop, self.chunk, self.step, *groups)

    def then(self) -> Parts:
        """The same with the weights that the forward had, should they have changed since."""
        chunk = self.chunk
        if chunk.copies is None:
            return self
        given = zip(self.hoisted, self.sequences(), strict=True)
        return replace(
            self,
            hoisted=tuple(x if has else chunk.then(x) for x, has in given),
            runs=tuple(map(chunk.then, self.runs)),
            singles=tuple(map(chunk.then, self.singles)),
        )

    # Blocks ---------------------------------------------------------------------------------------------

    def spans(self) -> list[Span]:
        """The blocks in the order of the loop."""
        c, steps = self.loop.c, self.chunk.steps
        n = block_steps(steps, self.chunk.lanes, max(c.states.values()))
        found = [(at, min(steps, at + n)) for at in range(0, steps, n)]
        if c.direction < 0:
            found = [(steps - b, steps - a) for a, b in found]
        return [Span(a, b, (a, b) == found[-1]) for a, b in found]

    def part(self, s: Span) -> Chunk:
        """The chunk of one block."""
        masks = {d: m[s.t0 : s.t1] for d, m in self.chunk.masks.items()}
        return replace(self.chunk, steps=s.t1 - s.t0, masks=masks, clock=None, first=self.chunk.first + s.t0)

    def sequences(self) -> list[bool]:
        """Which of the hoisted tensors have steps."""
        out: list[bool] = []
        for a in self.step.addends if self.step else ():
            out += [True] * (a.kind != "bias") + [False] * (a.kind != "value")
        return out

    def hoisted_of(self, s: Span) -> list[Tensor]:
        """The hoisted tensors of one block."""
        given = zip(self.hoisted, self.sequences(), strict=True)
        return [x[s.t0 : s.t1] if has else x for x, has in given]

    def block(self, s: Span, stored: Mapping[Any, Tensor], kept: Mapping[Any, Kept]) -> list[Tensor]:
        """The tensors that the runner of a block takes; the hoisted buffer is made."""
        c, chunk = self.loop.c, self.chunk
        n = s.t1 - s.t0
        out: list[Tensor] = []
        if self.step is not None:
            if self.hoisted:
                out.append(hoisted.buffer_of(self.step, self.hoisted_of(s), n, chunk.lanes, self.loop.by))
            else:
                out.append(hoisted.constants(self.step, self.boundary[0], n, chunk.lanes))
        given = iter(self.ext)
        for i in range(len(c.ext)):
            if i in c.masks:
                first = chunk.first + s.t0
                out.append(mask_values(c.masks[i], chunk.seed, n, chunk.lanes, self.boundary[0], first))
            else:
                out.append(next(given)[s.t0 : s.t1])
        out += [*self.runs, *self.singles]
        front = pads(c)[0]
        whole = {kept[name].op: x for name, x in stored.items()}
        for node, distance in c.states.items():
            start = front + s.t0 - distance if c.direction > 0 else s.t1
            out.append(whole[c.roots[node]][start : start + distance])
        return [*out, *self.init]

    def cut(self, s: Span, stored: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        """The stored sequences of one block, with the steps around it that its runner reads."""
        reach = max(self.loop.c.states.values())
        return {name: x[s.t0 : s.t1 + reach] for name, x in stored.items()}

    # Forward --------------------------------------------------------------------------------------------

    def forward(self) -> tuple[tuple[Tensor, ...], dict[Any, Tensor]]:
        """Outputs [T, B, size] and the stored sequences."""
        loop, c, chunk = self.loop, self.loop.c, self.chunk
        inner, (front, _) = loop.inner, pads(c)
        kept = {name: k for name, k in inner.keeps(chunk).items() if k.op is not None}
        stored = {name: self.boundary[0].new_empty(k.shape) for name, k in kept.items()}
        shown = {k.op: name for name, k in kept.items()}
        places = {op: (name, front) for op, name in shown.items()}  # of outputs: sequence, first step
        if not chunk.masks:
            shifts = [(at, c.cell[at]) for _, at in c.outputs if c.cell[at].kind == "shift"]
            places |= {at: (shown[c.roots[op.name]], front + op.shift) for at, op in shifts}
        for (node, distance), edge in zip(c.states.items(), self.boundary, strict=True):
            start = front - distance if c.direction > 0 else chunk.steps
            stored[shown[c.roots[node]]][start : start + distance] = edge
        others: dict[int, Tensor] = {}
        for s in self.spans():
            out = inner.run_into(self.part(s), len(c.ext), self.block(s, stored, kept), self.cut(s, stored))
            for (_, at), y in zip(c.outputs, out, strict=False):
                if at not in places:
                    if at not in others:
                        others[at] = y.new_empty((chunk.steps, *y.shape[1:]))
                    others[at][s.t0 : s.t1] = y
        values: list[Tensor] = []
        for _, at in c.outputs:
            name, first = places.get(at, ("", 0))
            values.append((stored[name][first : first + chunk.steps] if name else others[at]).detach())
        return tuple(values), stored

    # Backward -------------------------------------------------------------------------------------------

    def backward(
        self, stored: dict[Any, Tensor], dy: Sequence[Tensor | None], wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        """A gradient for each of `tensors()`.

        What is computed again is what it was in the forward; derivatives are those of the weights of now.
        """
        loop, c, chunk, then = self.loop, self.loop.c, self.chunk, self.then()
        inner, spans = loop.inner, self.spans()
        kept = {name: k for name, k in inner.keeps(chunk).items() if k.op is not None}
        wants = _cut(wanted, self.counts_of())
        sums = Sums(chunk.steps)
        names = list(c.states)
        edges: dict[
            str, Tensor
        ] = {}  # state -> what the block after this one sends back, [distance, B, size]
        for k, s in reversed(list(enumerate(spans))):
            part, tensors = self.part(s), then.block(s, stored, kept)
            mine = self.cut(s, stored)
            left = inner.rebuild(part, len(c.ext), tensors, mine)
            weights = [*self.runs, *self.singles]
            at_weights = (self.step is not None) + len(c.ext)
            tensors[at_weights : at_weights + len(weights)] = weights
            grads = self._given(s, dy, edges, len(spans) > 1)
            between = [k > 0 or want for want in wants[4]]
            ask = [True] * (len(tensors) - 2 * len(names)) + between + list(wants[5])
            found = list(inner.gradients_of(part, len(c.ext), tensors, left, grads, ask))
            del left, grads
            if self.step is not None:
                g, tensors[0] = found.pop(0), self.boundary[0]
                if self.hoisted and g is not None:
                    back = hoisted.gradients_of(self.step, self.hoisted_of(s), g, wants[0], loop.by)
                    for i, (x, has) in enumerate(zip(back, self.sequences(), strict=True)):
                        sums.add(("hoisted", i), x, s if has else None)
                    del back
                del g
            at = iter(found)
            n = 0
            for i in range(len(c.ext)):
                x = next(at)
                if i not in c.masks:
                    sums.add(("ext", n), x if wants[1][n] else None, s)
                    n += 1
            for kind, group in (("runs", self.runs), ("singles", self.singles)):
                for i in range(len(group)):
                    sums.add((kind, i), next(at), None)
            edges = {node: x for node in names if (x := next(at)) is not None}
            for i in range(len(names)):
                sums.add(("init", i), next(at), None)
            del found, at, tensors  # before the next block makes its own
        for i, node in enumerate(names):
            sums.add(("boundary", i), edges.get(node), None)
        groups = ("hoisted", "ext", "runs", "singles", "boundary", "init")
        return [
            sums.of((kind, i)) for kind, n in zip(groups, self.counts_of(), strict=True) for i in range(n)
        ]

    def counts_of(self) -> list[int]:
        """How many tensors each group has."""
        return [len(group) for group in self._groups()]

    def _given(
        self, s: Span, dy: Sequence[Tensor | None], edges: Mapping[str, Tensor], many: bool
    ) -> list[Tensor | None]:
        """Gradients of the inner runner's outputs in one block: from outside, and from the block after it."""
        c = self.loop.c
        node_of = {c.roots[n]: n for n in c.states}
        out: list[Tensor | None] = []
        for i, (_, at) in enumerate(self.loop.inner.c.outputs):
            outer = dy[i] if i < len(dy) else None
            g = None if outer is None else outer[s.t0 : s.t1]
            node = node_of.get(at)
            if many and node is not None:
                # The same outputs have gradients in all blocks, so that there is one derivative for all.
                size = c.cell[at].size
                like = self.boundary[0]
                g = like.new_zeros((s.t1 - s.t0, self.chunk.lanes, size)) if g is None else g.clone()
                if node in edges:
                    d = c.states[node]
                    (g[-d:] if c.direction > 0 else g[:d]).add_(edges[node])
            out.append(g)
        return out


class Sums:
    """Gradients as blocks bring them: sequences side by side in time, all else added up."""

    def __init__(self, steps: int):
        self.steps = steps
        self.found: dict[tuple[str, int], Tensor] = {}

    def add(self, key: tuple[str, int], x: Tensor | None, s: Span | None) -> None:
        """x: of the steps of s, or (s None) one of several terms."""
        if x is None:
            return
        if s is not None and s.t1 - s.t0 < self.steps:
            if key not in self.found:
                self.found[key] = x.new_zeros((self.steps, *x.shape[1:]))
            self.found[key][s.t0 : s.t1] = x
        elif key in self.found:
            self.found[key] += x
        else:
            self.found[key] = x

    def of(self, key: tuple[str, int]) -> Tensor | None:
        """What was added up, None if nothing was."""
        return self.found.get(key)


def _cut(x: Sequence[bool], counts: Sequence[int]) -> list[list[bool]]:
    out, at = [], 0
    for n in counts:
        out.append(list(x[at : at + n]))
        at += n
    return out
