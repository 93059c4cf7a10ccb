"""The peak of memory of a forward and backward, from the plan: large tensors are made and let go in turn.

Counted are the bytes of all tensors that live at once: weights and their gradients, inputs, what is kept,
outputs, gradients and what steps need while they run. Rows of one step are left out, and what a library's
routine makes for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from framework.cell import Op
from framework.errors import ConfigError
from framework.order import steps_of
from framework.runners.compiled_loop import CompiledLoop
from framework.runners.loop import Chunk, LoopRunner
from framework.runners.products import copies_columns, copies_weights
from framework.runners.rebuild import RebuildLoop
from framework.runners.torch_gradients import block_of
from framework.runners.torch_loop import ROWS, TorchLoop
from framework.steps import Linear, Loop, Map, block_steps

if TYPE_CHECKING:
    from framework.network import Network

ALIAS = ("copy", "stop", "slice", "expand", "input", "index")
BY_OUTPUT = ("sigmoid", "tanh", "relu", "exp", "sqrt", "reciprocal", "softmax")


class _Heap:
    """Storages with counts of who holds them."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}
        self.held: dict[int, int] = {}
        self.now = self.peak = 0

    def new(self, size: int) -> int:
        """A storage that one holds."""
        key = len(self.bytes)
        self.bytes[key], self.held[key] = size, 1
        self.now += size
        self.peak = max(self.peak, self.now)
        return key

    def hold(self, key: int) -> int:
        """One more holds it."""
        self.held[key] += 1
        return key

    def drop(self, keys: Sequence[int]) -> None:
        """One less holds each."""
        for key in keys:
            self.held[key] -= 1
            if not self.held[key]:
                self.now -= self.bytes[key]

    def spike(self, size: int) -> None:
        """Bytes that live for a moment."""
        self.peak = max(self.peak, self.now + size)


def peak_bytes(net: Network, steps: int, lanes: int) -> int:
    """Predicted bytes of `net` at the peak of a forward and backward over [steps, lanes] with a gradient for
    every output and weight, none for inputs, and without lengths or resets. Raises ConfigError for a loop by
    torch's own routine, whose buffers are not known.
    """
    if net.fused:
        cause = "torch's own LSTM, GRU and RNN do not say what they keep"
        raise ConfigError("runner", cause, "Take runner=torch, or measure.")
    if net.plan.overlap is not None:
        raise ConfigError("overlap", "peaks of overlapping parts are not predicted", "Leave overlap out.")
    chunk = net.plan.chunk
    graph, item = net.graph, net.like.element_size()
    weights = item * sum(prod(p.shape) for p in net.plan.packs.values())
    if chunk is None or chunk >= steps:
        return _Walk(net, steps, lanes).run() + weights
    one = _Walk(net, chunk, lanes, part=True).run()
    given = sum(8 if s.vocab is not None else s.size * item for s in graph.inputs.values())
    shown = item * sum(graph.nodes[n].size for n in graph.outputs.values())
    parts = -(-steps // chunk)
    carried = item * sum(d * net.plan.ops[net.plan.roots[n]].size for n, d in net.plan.history.items())
    # Outputs of parts are joined, gradients of outputs cut; those of weights are added to what is there.
    rows = (steps - chunk) * (given + shown) + steps * shown + parts * carried
    return one + lanes * rows + 2 * weights


class _Walk:
    """The steps of a plan forward and back; lives only during `peak_bytes`."""

    def __init__(self, net: Network, steps: int, lanes: int, part: bool = False):
        self.part = part  # of a call: a gradient comes from the state after it
        self.net, self.plan, self.steps, self.lanes = net, net.plan, steps, lanes
        self.item = net.like.element_size()
        self.heap = _Heap()
        self.at: dict[int, int] = {}  # op -> storage of its value
        self.needs: set[int] = set()  # ops that have a gradient
        self.saved: dict[int, list[int]] = {}  # step -> storages that its backward holds
        self.grads: dict[int, int] = {}  # op -> storage of its gradient
        self.sums: dict[int, int] = {}  # Linear step of a loop -> storage of the buffer, then of its gradient

    def row(self, units: int) -> int:
        """Bytes of a sequence of `units`."""
        return units * self.steps * self.lanes * self.item

    def run(self) -> int:
        plan, heap = self.plan, self.heap
        for name, spec in self.net.graph.inputs.items():
            size = 8 * self.steps * self.lanes if spec.vocab is not None else self.row(spec.size)
            self.at[plan.roots[name]] = heap.new(size)
        given = list(self.at.values())
        heap.held.update({key: 2 for key in given})  # the caller has inputs and gradients of outputs
        dy = [(plan.roots[n], heap.new(self.row(plan.ops[plan.roots[n]].size)))
              for n in self.net.graph.outputs.values()]  # fmt: skip
        order = steps_of(self.net.order)
        for k, step in ((k, plan.steps[k]) for k in order):
            if isinstance(step, Linear):
                self.linear(k, step)
            elif isinstance(step, Loop):
                self.loop(k, step)
            elif step.op not in self.net.unread_maps:
                self.map(k, step)
            for op in self.net.last_uses[k]:
                if op in self.at:
                    heap.drop([self.at.pop(op)])
        for name in plan.history:  # views in a state would keep the chunk alive: they are copied
            op = plan.roots[name]
            if op in self.at and name not in self.net.graph.outputs.values():
                heap.drop([self.at.pop(op)])
        for op, key in dy:
            self.grads[op] = heap.hold(key)
        for name in plan.history if self.part else ():
            if plan.roots[name] in self.needs:
                self.give(plan.roots[name], self.row(plan.ops[plan.roots[name]].size))
        for k in reversed(order):
            step = plan.steps[k]
            if isinstance(step, Linear):
                self.linear_back(k, step)
            elif isinstance(step, Loop):
                self.loop_back(k, step)
            else:
                self.map_back(k, step)
            heap.drop(self.saved.pop(k, []))
        return heap.peak

    # Hoisted --------------------------------------------------------------------------------------------

    def keep(self, k: int, ops: Sequence[int]) -> None:
        """Step k holds values until its backward has run."""
        found = [self.heap.hold(self.at[op]) for op in ops if op in self.at]
        self.saved.setdefault(k, []).extend(found)

    def linear(self, k: int, step: Linear) -> None:
        sources = [a.source for a in step.addends if a.source >= 0]
        self.keep(k, sources)
        if step.loop and isinstance(self.net.loop_after[k], RebuildLoop):
            return
        key = self.heap.new(self.row(step.width))
        if step.loop:
            self.sums[k] = key
            return
        for op in step.columns:
            self.at[op] = self.heap.hold(key)
            self.needs.add(op)
        self.heap.drop([key])

    def linear_back(self, k: int, step: Linear) -> None:
        heap = self.heap
        if step.loop and isinstance(self.net.loop_after[k], RebuildLoop):
            return
        if step.loop:
            g = self.sums.pop(k)
        else:
            found = [op for op in step.columns if op in self.grads]
            if not found:
                return
            if len(step.columns) > 1:
                g = heap.new(self.row(step.width))
                heap.drop([self.grads.pop(op) for op in found])
            else:
                g = self.grads.pop(found[0])
        for a in step.addends:
            partial = a.hi - a.lo < step.width
            if a.kind == "full":
                width, cols = a.hi - a.lo, self.plan.ops[a.source].size
                if partial and self.copies(width, cols):
                    heap.spike(self.row(width))
                if a.source in self.needs:
                    self.give(a.source, self.row(cols))
            elif a.kind == "value" and a.source in self.needs:
                self.alias(a.source, g)
            if a.pack:
                heap.new(prod(self.plan.packs[a.pack].shape) * self.item)
        heap.drop([g])

    def copies(self, n: int, k: int) -> bool:
        """Whether a product copies columns of a wider tensor first."""
        return copies_columns(self.net.like, self.steps * self.lanes, n, k)

    def give(self, op: int, size: int) -> None:
        """A gradient of its own for a value; added to another in place."""
        self.take(op, self.heap.new(size))

    def take(self, op: int, key: int) -> None:
        """A gradient for a value that is held by no one else."""
        if op not in self.grads:
            self.grads[op] = key
        elif self.heap.held[self.grads[op]] > 1:  # a sum of its own
            self.heap.spike(self.heap.bytes[key])
            self.heap.drop([self.grads[op]])
            self.grads[op] = key
        else:
            self.heap.drop([key])

    def alias(self, op: int, g: int) -> None:
        """The gradient of a value is one that is there."""
        if op in self.grads:  # not its own to add to
            old = self.grads[op]
            self.grads[op] = self.heap.new(self.heap.bytes[g])
            self.heap.drop([old])
        else:
            self.grads[op] = self.heap.hold(g)

    def map(self, k: int, step: Map) -> None:
        op = self.plan.ops[step.op]
        if op.kind in ("input", "index"):
            return
        args = [self.plan.roots[op.name]] if op.kind == "shift" else list(op.args)
        live = [a for a in args if a in self.needs]
        if live or op.kind == "block":
            self.needs.add(step.op)
        if op.kind in ALIAS and args and args[0] in self.at:
            self.at[step.op] = self.heap.hold(self.at[args[0]])
            return
        size = self.row(op.size)
        if op.kind in ("prod", "sum") and len(args) > 2:
            self.heap.spike(2 * size)
        self.at[step.op] = self.heap.new(size)
        if live:
            self.keep(k, self._read_back(step.op, op))

    def _read_back(self, at: int, op: Op) -> list[int]:
        """Values that the derivative of a hoisted op reads."""
        if op.kind in BY_OUTPUT:
            return [at]
        return [] if op.kind in ("sum", "concat", "shift") else list(op.args)

    def map_back(self, k: int, step: Map) -> None:
        op = self.plan.ops[step.op]
        if step.op not in self.grads:
            return
        g = self.grads.pop(step.op)
        args = [self.plan.roots[op.name]] if op.kind == "shift" else list(op.args)
        for a in args:
            if a not in self.needs:
                continue
            if op.kind in ("copy", "sum", "concat", "stop"):
                if op.kind != "stop":
                    self.alias(a, g)
            else:
                self.give(a, self.row(self.plan.ops[a].size))
        self.heap.drop([g])

    # Loops ----------------------------------------------------------------------------------------------

    def loop(self, k: int, step: Loop) -> None:
        heap, c = self.heap, self.plan.components[step.component]
        loop = self.net.loops[step.component]
        chunk = Chunk(self.steps, self.lanes, {})
        inner = loop.inner if isinstance(loop, RebuildLoop) else loop
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
            heap.spike(self.weights(step.component))
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
        inner = loop.inner if isinstance(loop, RebuildLoop) else loop
        if isinstance(inner, CompiledLoop):
            return inner.packed() * self.item
        shapes = [(run.hi - run.lo, c.cell[run.source].size) for run in c.runs]
        return sum(n * m * self.item for n, m in shapes if copies_weights(self.net.like, self.lanes, n, m))

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
            heap.new(self.gradients(step.component))
            key = heap.new(whole)
            heap.spike(moment + self.weights(step.component) + self.columns(step.component, self.steps))
            heap.drop([key])
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
        heap.new(grads)
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
        copied = self.weights(component)
        rows = min(max(self.lanes, ROWS), n * self.lanes)
        first = part + self.rebuilding(inner, rows) + copied
        second = part + copies + whole + moment + copied + (grads if many else 0)
        second += self.columns(component, n)
        third = copies + self.block(c.width, component) + (grads if many else 0)
        third += self.block(max((self.plan.ops[a.source].size for a in full), default=0), component)
        heap.spike(max(first, second, third))
        for (op, _), key in zip(made, keys, strict=True):
            self.take(op, key)

    def rebuilding(self, loop: LoopRunner, rows: int) -> int:
        """Bytes that live for a moment while gates are computed again."""
        c = loop.c
        if not isinstance(loop, TorchLoop):
            return 0
        buffers = loop.source("rebuild", False)[0].buffers.values()
        units = sum(s.size for s in buffers if s.mode == "block")
        product = max((run.hi - run.lo for run in c.runs if self.copies(run.hi - run.lo, 1 << 20)), default=0)
        return (units + product) * rows * self.item
