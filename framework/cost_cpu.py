"""What a loop and the products outside of it take on a CPU, by the constants of the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import log

from framework.component import Component
from framework.cost_constants import CpuConstants, Rate
from framework.cost_parts import Cost
from framework.cost_statements import statements
from framework.memory import kept_by_loop
from framework.vanilla import Vanilla

ITEM = 4  # bytes of a number: constants are measured in float32
BLOCK = 64  # steps that a backward prepares at once, at most
# From this size on the allocator asks the system for memory at every call (glibc, M_MMAP_THRESHOLD).
MAPPED = 32 << 20
# How much longer parts take in a loop than alone, one over and over, as the constants are measured: what they
# read is in another cache, or was written a moment ago. Least squares of relative errors over the 319 rows in
# float32 of scripts/bench/results/rows.jsonl at commit d0f9cf5 (two threads). Fitted on half of the cells (of
# nn.LSTM's routine: of the sizes) they leave a median error of 11 and 13 % on the other half; without them it
# was 26 %. The constants count torch's products; those of machine code and of oneDNN's LSTM are faster.
INSIDE: Mapping[str, Mapping[str, float]] = {
    "torch": {"products": 1.28, "pointwise": 3.2, "dispatch": 1.26},
    "compiled": {"products": 0.86, "pointwise": 3.3},
    "lstm": {"products": 0.59, "pointwise": 1.38, "dispatch": 0.75},
}
CALL = 2.2  # the same of calling a network: between calls, others have the caches
ROW_WISE = ("layer_norm", "softmax", "sum", "rstd")
CHEAP = ("mul", "add", "sub", "addcmul", "copy", "zero", "neg", "relu", "threshold", "abs", "maximum",
         "minimum", "square", "hardtanh", "to", "cat", "masked_fill")  # fmt: skip


def rate(table: Sequence[Rate], rows: int, weights: int) -> float:
    """FLOP per microsecond of a product, between those measured; beyond them that of the nearest."""
    sizes = sorted({r.weights for r in table})
    at = [_between([(r.rows, r.flops) for r in table if r.weights == size], rows) for size in sizes]
    return _between(list(zip(sizes, at, strict=True)), weights)


def _between(points: Iterable[tuple[int, float]], x: int) -> float:
    """The power law through the neighbours of x."""
    points = sorted(points)
    if x <= points[0][0]:
        return points[0][1]
    for (a, fa), (b, fb) in pairwise(points):
        if x <= b:
            part = log(x / a) / log(b / a)
            return fa ** (1 - part) * fb**part
    return points[-1][1]


def product(k: CpuConstants, rows: int, n: int, inner: int, plain: bool = False) -> float:
    """Microseconds of [rows, inner] by [inner, n], without calling it."""
    return 2.0 * rows * n * inner / rate(k.plain if plain else k.products, rows, n * inner)


def pointwise(k: CpuConstants, function: str) -> float:
    """Microseconds of a number of the result of a function."""
    if function == "tanh":
        return k.tanh
    if function in ROW_WISE:
        return k.rows
    return k.cheap if function in CHEAP else k.sigmoid


class Cpu:
    """Times of a call over [steps, lanes] on a CPU; each method gives a time step's part."""

    def __init__(self, k: CpuConstants, steps: int, lanes: int):
        self.k, self.steps, self.lanes = k, steps, lanes

    def calling(self, count: float, train: bool, work: float) -> Cost:
        """What calling a network takes beside `work`, with `count` loops and products of their inputs."""
        return Cost().add("dispatch", CALL * count * self.k.call[train] / self.steps)

    def product(self, n: int, inner: int, gradients: int) -> Cost:
        """A hoisted product with a matrix [n, inner], and `gradients` (of weights, of the source)."""
        us = product(self.k, self.steps * self.lanes, n, inner) + self.k.dispatch
        return Cost().add("products", (1 + gradients) * us / self.steps)

    def passes(self, units: int, count: float) -> Cost:
        """`count` pointwise passes over a sequence."""
        k = self.k
        us = self.lanes * units * max(k.cheap, 3 * ITEM / k.copy)
        return Cost().add("memory", count * us).add("dispatch", count * k.dispatch / self.steps)

    def sequence(self, units: int) -> Cost:
        """Making a sequence: a large one is new memory at every call."""
        size = units * self.steps * self.lanes * ITEM
        return Cost().add("memory", size / self.k.fresh / self.steps if size >= MAPPED else 0.0)

    def loop(self, c: Component, runner: str, train: bool, given: frozenset[int] | None = None) -> Cost:
        """A loop by a runner of CPUs; given: see `statements`. Raises KeyError for others."""
        if runner == "torch-fused":
            assert not isinstance(c.vanilla, str), c.vanilla
            way = "lstm" if c.vanilla.kind == "lstm" else "torch"
            return self.fused(c.vanilla, train).scaled(INSIDE[way])
        way = {"torch": self.by_torch, "compiled": self.compiled}[runner]
        out = way(c, False, train, given)
        if train:
            out = out.plus(way(c, True, True, given)).plus(self.weights(c))
        out = out.scaled(INSIDE[runner])
        return out.plus(self.sequence(kept_by_loop(c))) if train else out

    def by_torch(self, c: Component, backward: bool, train: bool, given: frozenset[int] | None) -> Cost:
        """One direction of the torch runner. train: the forward keeps what a backward reads."""
        k, out, made = self.k, Cost(), statements(c, backward, train, given)
        out.add("dispatch", (len(made.step) + len(made.block) / BLOCK) * k.dispatch + made.views * k.view)
        for s in made.step:
            if s.inner:
                out.add("products", product(k, self.lanes, s.units, s.inner))
            else:
                out.add("pointwise", self.lanes * s.units * pointwise(k, s.function))
        for s in made.block:
            out.add("pointwise", self.lanes * s.units * max(pointwise(k, s.function), 3 * ITEM / k.copy))
        return out

    def compiled(self, c: Component, backward: bool, train: bool, given: frozenset[int] | None) -> Cost:
        """One direction of the compiled runner: the same without calls, and every function vectorised."""
        k, out, made = self.k, Cost(), statements(c, backward, train, given)
        for s in (*made.step, *made.block):
            if s.inner:
                out.add("products", product(k, self.lanes, s.units, s.inner))
            else:
                us = k.cheap if pointwise(k, s.function) == k.cheap else k.sigmoid
                out.add("pointwise", self.lanes * s.units * us)
        return out

    def weights(self, c: Component) -> Cost:
        """Gradients of the loop's matrices, each one product over the whole chunk."""
        rows = self.steps * self.lanes
        us = sum(product(self.k, rows, n, inner) + self.k.dispatch for n, inner in matrices(c))
        return Cost().add("products", us / self.steps)

    def fused(self, v: Vanilla, train: bool) -> Cost:
        """Torch's own LSTM, GRU or RNN, without the product of its input.

        The LSTM (oneDNN) has one routine for all steps. The others are a loop of ops, recorded by autograd,
        which multiplies out and adds up the gradient of the weights at every step.
        """
        k, rows = self.k, len(v.gates) * v.size
        own = {"lstm": k.fused, "gru": k.gru}.get(v.kind, k.rnn)
        out = Cost().add("dispatch", own[train])
        if v.kind == "lstm":
            ways = 3 if train else 1  # forward, of h, of the weights
            out.add("products", ways * product(k, self.lanes, rows, v.size))
            return out.add("pointwise", (1 + train) * self.lanes * 5 * v.size * k.sigmoid)
        functions = (0.0 if v.kind == "rnn_relu" else k.tanh) + 2 * len(v.gates) * k.sigmoid
        out.add("pointwise", (1 + train) * self.lanes * v.size * functions)
        return out.plus(self.recorded(rows, v.size, train))

    def recorded(self, n: int, inner: int, train: bool) -> Cost:
        """A product of each step that autograd records; its weights' gradient is added to that of others."""
        us = product(self.k, self.lanes, n, inner, plain=True)
        out = Cost().add("products", (3 if train else 1) * us)
        return out.add("weights", n * inner * 3 * ITEM / self.k.copy if train else 0.0)

    def eager(self, c: Component, inputs: int, train: bool = True) -> Cost:
        """The same cell written as a loop over torch's ops with autograd, with the products of an input of
        `inputs` units step by step.
        """
        k = self.k
        tanhs = sum(op.size for op in c.cell if op.kind == "tanh")
        silent = ("pre", "ext", "param", "const", "shift", "copy", "full")
        ops = [(op.size, max(1, len(op.args) - 1)) for op in c.cell if op.kind not in silent]
        shapes = [*matrices(c), *((n, inputs) for n, _ in matrices(c)[:1])]
        out = Cost().add("dispatch", (sum(n for _, n in ops) + 2 * len(shapes) + 1) * k.recorded[train])
        units = sum(size * n for size, n in ops)
        out.add("pointwise", self.lanes * (k.tanh * tanhs + (1 + train) * k.sigmoid * units))
        for n, inner in shapes:
            out = out.plus(self.recorded(n, inner, train))
        return out.scaled(INSIDE["torch"])


def matrices(c: Component) -> list[tuple[int, int]]:
    """[n, inner] of the products of a loop; of block-diagonal weights what is not zero."""
    out = [(run.hi - run.lo, c.cell[run.source].size) for run in c.runs]
    return out + [(op.size, c.cell[op.args[0]].size // op.blocks) for op in c.cell if op.kind == "block"]
