"""What loops hold while they run forward and back; see peak.py."""

from __future__ import annotations

from math import prod

import torch

from framework.peak_tensors import Tensors
from framework.runners.compiled_loop import CompiledLoop
from framework.runners.compiled_rebuild import slab_steps
from framework.runners.loop import Chunk, LoopRunner
from framework.runners.products import copies_weights
from framework.runners.rebuild import RebuildLoop
from framework.runners.torch_gradients import block_of
from framework.runners.torch_loop import ROWS, TorchLoop
from framework.steps import Linear, Loop, block_steps


class Loops(Tensors):
    """The loops of a plan, whichever runner has them."""

    def loop(self, k: int, step: Loop) -> None:
        """The forward of a loop: what it keeps, and what it shows to others."""
        heap, c = self.heap, self.plan.components[step.component]
        loop = self.net.loops[step.component]
        chunk = Chunk(self.steps, self.lanes, {})
        inner = _inner(loop)
        self.keep(k, [a for i, a in enumerate(c.ext) if not (loop.own_masks and i in loop.c.masks)])
        shown: dict[int, int] = {}
        mine: list[int] = []
        for kept in inner.keeps(chunk).values():
            if isinstance(loop, RebuildLoop) and kept.op is None:
                continue
            key = heap.new(prod(kept.shape) * (max(self.item, 4) if kept.wide else self.item))
            mine.append(key)
            if kept.op is not None:
                shown[kept.op] = key
        if isinstance(loop, RebuildLoop):
            heap.spike(self.block(c.width, step.component) + self.weights(step.component))
        else:
            heap.spike(self.weights(step.component) + self.row(self.packed_units(step.component)))
            if step.pre >= 0:
                mine.append(self.sums.pop(step.pre))
        for op, at in c.outputs:
            source = at if c.cell[at].kind != "shift" else c.roots[c.cell[at].name]
            self.at[op] = heap.hold(shown[source]) if source in shown else heap.new(self.row(c.cell[at].size))
            self.needs.add(op)
        self.saved.setdefault(k, []).extend(mine)

    def block(self, units: int, component: int) -> int:
        """Bytes of `units` over one block of steps."""
        reach = max(self.plan.components[component].states.values())
        return units * block_steps(self.steps, self.lanes, reach) * self.lanes * self.item

    def weights(self, component: int) -> int:
        """Bytes of the copies of its weights that a loop makes for its products."""
        c, loop = self.plan.components[component], self.net.loops[component]
        inner = _inner(loop)
        if isinstance(inner, CompiledLoop):
            return inner.packed(self.net.like.dtype)
        shapes = [(run.hi - run.lo, c.cell[run.source].size) for run in c.runs]
        return sum(n * m * self.item for n, m in shapes if copies_weights(self.net.like, self.lanes, n, m))

    def packed_units(self, component: int) -> int:
        """Units of what machine code reads as columns of a wider buffer: it packs them first."""
        if not isinstance(_inner(self.net.loops[component]), CompiledLoop):
            return 0
        wide = {
            op for s in self.plan.steps if isinstance(s, Linear) and len(s.columns) > 1 for op in s.columns
        }
        return sum(self.plan.ops[a].size for a in self.plan.components[component].ext if a in wide)

    def gradients(self, component: int) -> int:
        """Bytes of the gradients of its own weights."""
        c = self.plan.components[component]
        names = [
            self.net.run_packs[component],
            [self.net._pack_of[n] for n in self.net.loops[component].singles],
        ]
        return (
            self.item
            * sum(prod(self.plan.packs[n].shape) for n in dict.fromkeys([*names[0], *names[1]]))
            * (c.delay > 0)
        )

    def loop_back(self, k: int, step: Loop) -> None:
        """The backward of a loop: gradients of its weights, of its hoisted buffer and of what it reads."""
        heap, c = self.heap, self.plan.components[step.component]
        loop = self.net.loops[step.component]
        dy = [(op, at) for op, at in c.outputs if op in self.grads]
        if not dy:
            return
        given = frozenset(at for _, at in dy)
        if isinstance(loop, RebuildLoop):
            self.rebuilt_back(k, step, loop, given)
        else:
            assert isinstance(loop, LoopRunner)
            whole, moment, exts = self.buffers(loop, self.steps, given)
            key = heap.new(whole)
            copied = self.weights(step.component)
            products = self.columns(step.component, self.steps) + self.gradients(step.component)
            if isinstance(loop, CompiledLoop):  # what machine code copies is gone when it ends
                copied += self.row(self.packed_units(step.component))
                heap.spike(moment + max(copied, products))
            else:
                heap.spike(moment + copied + products)
            heap.drop([key])
            heap.new(self.gradients(step.component))
            if step.pre >= 0:
                self.sums[step.pre] = heap.new(self.pre_gradient(loop, c.width))
            for a, size in exts:
                if a in self.needs:
                    self.give(a, size)
        heap.drop([self.grads.pop(op) for op, _ in dy])

    def pre_gradient(self, loop: LoopRunner, width: int) -> int:
        """Bytes of the gradient of a hoisted buffer, with boundary steps where a loop has some in it."""
        reach = max(loop.c.states.values(), default=0) if isinstance(loop, TorchLoop) else 0
        return width * (self.steps + reach) * self.lanes * self.item

    def columns(self, component: int, steps: int) -> int:
        """Bytes of the largest copy of gradient columns for a product of a weight's gradient."""
        c = self.plan.components[component]
        parts = [run for run in c.runs if run.hi - run.lo < c.width]
        sizes = [run.hi - run.lo for run in parts if self.copies(run.hi - run.lo, c.cell[run.source].size)]
        return max(sizes, default=0) * steps * self.lanes * self.item

    def buffers(
        self, loop: LoopRunner, steps: int, given: frozenset[int]
    ) -> tuple[int, int, list[tuple[int, int]]]:
        """Of a backward over `steps`: bytes of sequences, of blocks; and (op, bytes) of gradients outside."""
        c, chunk = loop.c, Chunk(steps, self.lanes, {})
        exts: list[tuple[int, int]] = []
        if isinstance(loop, TorchLoop):
            source = loop.source("backward", False, given)[0]
            d = loop.backward_cell(given)
            n = block_of(source, chunk, self.item)
            rows = {"chunk": steps, "block": n, "temp": 1, "ring": 0}
            whole = moment = 0
            for s in source.buffers.values():
                extra = s.front + s.back if s.mode == "chunk" else 0
                extra += s.slots if s.mode == "ring" else 0
                size = (rows[s.mode] + extra) * s.size * self.lanes * self.item
                whole, moment = (whole + size, moment) if s.mode == "chunk" else (whole, moment + size)
            for i, g in enumerate(d.ext):
                if g is not None:
                    exts.append((c.ext[i], d.ops[g].size * steps * self.lanes * self.item))
            return whole, moment, exts
        size = steps * self.lanes * self.item
        exts = [(c.ext[op.lo], op.size * size) for op in c.cell if op.kind == "ext" and op.lo not in c.masks]
        return c.width * size + sum(n for _, n in exts), 0, exts

    def rebuilt_back(self, k: int, step: Loop, loop: RebuildLoop, given: frozenset[int]) -> None:
        """Blocks: gradients of what the loop reads grow; all else is of one block."""
        heap, c, component = self.heap, loop.c, step.component
        n = block_steps(self.steps, self.lanes, max(c.states.values()))
        many = n < self.steps
        states = frozenset(c.roots[node] for node in c.states)
        given = given | states if many else given
        inner = loop.inner
        linear = self.plan.steps[step.pre] if step.pre >= 0 else None
        full = []
        made: list[tuple[int, int]] = []  # gradients that grow while blocks run
        if isinstance(linear, Linear):
            full = [a for a in linear.addends if a.kind == "full"]
            read = [a.source for a in linear.addends if a.source in self.needs]
            made += [(op, self.row(self.plan.ops[op].size)) for op in read]
        grads = self.gradients(component)
        grads += sum(prod(self.plan.packs[a.pack].shape) * self.item for a in
                     (linear.addends if isinstance(linear, Linear) else ()) if a.pack)  # fmt: skip
        sums = heap.new(grads if many else 0)  # one block brings what stays
        whole, moment, exts = self.buffers(inner, n, given)
        made += [(op, size // n * self.steps) for op, size in exts if op in self.needs]
        keys = [heap.new(size) for _, size in made]
        part = self.block(c.width, component)
        extra = sum(
            kept.shape[-1] for kept in inner.keeps(Chunk(n, self.lanes, {})).values() if kept.op is None
        )
        part += self.block(extra, component)
        part += self.block(sum(op.size for op in c.masks.values()), component)
        copies = self.block(sum(c.cell[at].size for at in states), component) if many else 0
        copied = self.weights(component) + self.block(self.packed_units(component), component)
        first = part + self.rebuilding(inner, n) + copied
        products = grads + self.columns(component, n)
        compiled = isinstance(inner, CompiledLoop)  # what it copies is gone when its code ends
        second = part + copies + whole + moment + (max(copied, products) if compiled else copied + products)
        third = copies + self.block(c.width, component) + grads
        third += self.block(max((self.plan.ops[a.source].size for a in full), default=0), component)
        heap.spike(max(first, second, third))
        heap.drop([sums])
        heap.new(grads)
        for (op, _), key in zip(made, keys, strict=True):
            self.take(op, key)

    def rebuilding(self, loop: LoopRunner, steps: int) -> int:
        """Bytes that live for a moment while the gates of a block of steps are computed again."""
        c = loop.c
        if not isinstance(loop, TorchLoop):
            return 0
        buffers = loop.source("rebuild", False)[0].buffers.values()
        units = sum(s.size for s in buffers if s.mode == "block")
        if isinstance(loop, CompiledLoop):
            return units * slab_steps(self.lanes) * torch.get_num_threads() * self.lanes * self.item
        rows = min(max(self.lanes, ROWS), steps * self.lanes)
        product = max((run.hi - run.lo for run in c.runs if self.copies(run.hi - run.lo, 1 << 20)), default=0)
        return (units + product) * rows * self.item


def _inner(loop: LoopRunner | RebuildLoop) -> LoopRunner:
    """The runner of a loop, or of its blocks."""
    return loop.inner if isinstance(loop, RebuildLoop) else loop
