"""The peak of memory of a forward and backward, from the plan: large tensors are made and let go in turn.

Counted are the bytes of all tensors that live at once: weights and their gradients, inputs, what is kept,
outputs, gradients and what steps need while they run. Rows of one step are left out, and what a library's
routine makes for itself.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from framework.cell import Op
from framework.errors import ConfigError
from framework.order import steps_of
from framework.peak_loops import Loops
from framework.runners.rebuild import RebuildLoop
from framework.steps import Linear, Loop, Map

if TYPE_CHECKING:
    from framework.network import Network

ALIAS = ("copy", "stop", "slice", "expand", "input", "index")
BY_OUTPUT = ("sigmoid", "tanh", "relu", "exp", "sqrt", "reciprocal", "softmax")


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


class _Walk(Loops):
    """The steps of a plan forward and back; lives only during `peak_bytes`."""

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
        coefs = op.coefs or (1.0,) * len(args)
        for a, coef in zip(args, coefs, strict=True):
            if a not in self.needs:
                continue
            if op.kind in ("copy", "sum", "concat", "stop") and coef == 1.0:
                if op.kind != "stop":
                    self.alias(a, g)
            else:
                self.give(a, self.row(self.plan.ops[a].size))
        self.heap.drop([g])
