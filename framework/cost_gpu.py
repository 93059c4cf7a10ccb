"""What a loop and the products outside of it take on a GPU, by the constants of its chip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.component import Component
from framework.cost_constants import GpuConstants
from framework.cost_cpu import matrices
from framework.cost_parts import Cost
from framework.cost_statements import statements
from framework.derivative import derive
from framework.machine import Machine
from framework.memory import kept_by_loop
from framework.persistent import backward_code, forward_code
from framework.persistent_fit import bytes_of, layout_of
from framework.vanilla import Vanilla

if TYPE_CHECKING:
    from kernels.persistent_layout import Layout
    from kernels.persistent_source import Kernel

AHEAD = 4  # steps whose inputs the elementwise kernels have under way
PART = 64  # steps of a part of the scan
CYCLES = 12  # of an op that waits for the one before, function units included: an assumption


class Gpu:
    """Times of a call over [steps, lanes] on a GPU; each method gives a time step's part."""

    def __init__(self, k: GpuConstants, machine: Machine, steps: int, lanes: int, like: Gpu | None = None):
        self.k, self.machine, self.steps, self.lanes = k, machine, steps, lanes
        # What kernels of a loop are like takes long to find; `like` has found some of it.
        self.layouts: dict[tuple[str, bool], Layout] = like.layouts if like else {}
        self.codes: dict[tuple[str, Layout, bool], Kernel] = like.codes if like else {}
        self.item = machine.itemsize
        self.units = machine.units or k.units
        self.flops = k.flops[machine.dtype] * k.reached

    def calling(self, count: float, train: bool, work: float) -> Cost:
        """What calling a network takes on the host longer than the device has `work`, with `count` loops and
        products of their inputs.
        """
        host = count * (2 if train else 1) * self.k.call / self.steps
        return Cost().add("dispatch", max(0.0, host - work))

    def product(self, n: int, inner: int, gradients: int) -> Cost:
        """A hoisted product with a matrix [n, inner], and `gradients` (of weights, of the source)."""
        rows = self.steps * self.lanes
        moved = self.item * (rows * (n + inner) + n * inner)
        us = max(2.0 * rows * n * inner / self.flops, moved / self.k.dram) + self.k.launch
        return Cost().add("products", (1 + gradients) * us / self.steps)

    def passes(self, units: int, count: float) -> Cost:
        """`count` pointwise passes over a sequence."""
        us = 3 * self.lanes * units * self.item / self.k.dram + self.k.launch / self.steps
        return Cost().add("memory", count * us)

    def sequence(self, units: int) -> Cost:
        """Making a sequence: torch keeps its memory."""
        return Cost()

    def loop(self, c: Component, runner: str, train: bool, given: frozenset[int] | None = None) -> Cost:
        """A loop by a runner; given: see `statements`. Raises KeyError for an unknown one."""
        if runner == "torch-fused":
            assert not isinstance(c.vanilla, str), c.vanilla
            out = self.vendor(c.vanilla, False)
            out = out.plus(self.vendor(c.vanilla, True)) if train else out
        elif runner == "torch":
            out = self.by_torch(c, False, given)
            out = out.plus(self.by_torch(c, True, given)) if train else out
        else:
            way = {
                "persistent": self.persistent, "streamed": self.streamed, "elementwise": self.elementwise,
                "scan": self.scan,
            }[runner]  # fmt: skip
            out = way(c, False).plus(way(c, True)) if train else way(c, False)
        for n, inner in matrices(c) if train and runner != "torch-fused" else ():
            out = out.plus(self.product(n, inner, 0))
        return out

    def rows(self, c: Component, backward: bool) -> float:
        """Bytes that a step reads and writes of sequences: hoisted sums, what is kept, gradients."""
        units = c.width + len(c.ext) + kept_by_loop(c)
        return self.lanes * self.item * units * (2 if backward else 1)

    def persistent(self, c: Component, backward: bool) -> Cost:
        """Weights on the chip."""
        return self.exchanging(c, backward, False)

    def streamed(self, c: Component, backward: bool) -> Cost:
        """Weights that do not fit come from L2, or from memory where L2 cannot hold them either."""
        return self.exchanging(c, backward, True)

    def exchanging(self, c: Component, backward: bool, streamed: bool) -> Cost:
        """Many programs that wait for each other at every phase, or one that needs nobody.

        All tiles of lanes that do not fit side by side follow one another.
        """
        k, where = self.k, self.machine
        layout, code = self.kernel(c, backward, streamed)
        many = layout.programs > 1
        shapes = matrices(c)
        total = sum(n * inner for n, inner in shapes)
        mine = max(code.numbers, total / layout.programs) if many else total
        barriers = code.text.count("wait(p_bar")
        lanes = min(self.lanes, layout.lanes)
        tiles = -(-self.lanes // layout.lanes)
        together = min(tiles, layout.groups if many else self.units)
        out = Cost()
        if many:  # what each program reads: all units of every source
            width = sum(n if backward else inner for n, inner in shapes)
            read = width * lanes * self.item
            out.add("barrier", barriers * k.trips * k.l2_latency)
            out.add("sources", barriers * k.l2_latency)
            out.add("sources", max(read / k.l2_unit, layout.programs * together * read / k.l2))
        away = max(0.0, total - layout.programs * layout.resident) * self.item if streamed else 0.0
        if away:
            near = max(away / layout.programs / k.l2_unit, together * away / k.l2)
            out.add("weights", near if away <= k.l2_size else max(near, away / k.dram))
        # float32 is multiplied in three parts on tensor cores.
        flops = k.flops["tf32"] * k.reached / 3 if where.dtype == "fp32" else self.flops
        arithmetic = 2.0 * layout.lanes * total / layout.programs / (flops / self.units)
        out.add("products", max(mine * bytes_of(where) / k.shared_unit, arithmetic))
        out.add("pointwise", k.pointwise * max(1, barriers))
        out = out.times(-(-tiles // together))
        return out.add("memory", max(0.0, self.rows(c, backward) / k.dram - out.us))

    def kernel(self, c: Component, backward: bool, streamed: bool) -> tuple[Layout, Kernel]:
        """How a loop is spread for these lanes, and its kernel."""
        whole = self.layouts.get((c.name, streamed))
        if whole is None:
            whole = self.layouts[c.name, streamed] = layout_of(c, self.machine, streamed)
        layout = whole.at(self.lanes)
        code = self.codes.get((c.name, layout, backward))
        if code is None:
            code = backward_code(c, layout, False) if backward else forward_code(c, layout, True, False)
            self.codes[c.name, layout, backward] = code
        return layout, code

    def elementwise(self, c: Component, backward: bool) -> Cost:
        """Every unit of every lane on its own: memory, or waiting for it and for one op after the other."""
        k = self.k
        ops = len(derive(c).loop) if backward else sum(op.kind not in ("pre", "ext") for op in c.cell)
        out = Cost().add("sources", k.dram_latency / AHEAD)
        out.add("pointwise", ops * CYCLES / k.clock)
        return out.add("memory", max(0.0, self.rows(c, backward) / k.dram - out.us))

    def scan(self, c: Component, backward: bool) -> Cost:
        """Three launches; what a step takes from outside is read twice."""
        k = self.k
        out = Cost().add("memory", 2 * self.rows(c, backward) / k.dram)
        out.add("launch", 3 * k.launch / self.steps)
        return out.add("sources", k.l2_latency / PART)

    def by_torch(self, c: Component, backward: bool, given: frozenset[int] | None) -> Cost:
        """One launch for every op: the host or the device is behind, the other waits for it."""
        k, made, out = self.k, statements(c, backward, True, given), Cost()
        for s in made.step:
            moved = self.lanes * s.units * 3 * self.item
            out.add("launch", k.launch)
            if s.inner:
                weights = s.units * s.inner * self.item
                of = k.l2 if weights <= k.l2_size else k.dram
                arithmetic = 2.0 * self.lanes * s.units * s.inner / self.flops
                out.add("products" if arithmetic > weights / of else "weights", max(arithmetic, weights / of))
            else:
                out.add("memory", moved / k.l2)
        for s in made.block:
            out.add("memory", 3 * self.lanes * s.units * self.item / k.dram)
        host = len(made.step) * k.dispatch + made.views * k.view
        return out.add("dispatch", max(0.0, host - out.us))

    def vendor(self, v: Vanilla, backward: bool) -> Cost:
        """cuDNN or MIOpen, without the product of the input: kept on the chip for few shapes in float16, for
        others two launches for each step, without the host.
        """
        k, n = self.k, len(v.gates) * v.size
        weights, kept = n * v.size * self.item, self.vendor_keeps(v, backward)
        arithmetic = 2.0 * self.lanes * n * v.size / self.flops
        out = Cost().add("barrier" if kept else "launch", k.vendor[backward] if kept else 2 * k.launch)
        if not kept:
            of = k.l2 if weights <= k.l2_size else k.dram
            out.add("weights", max(0.0, weights / of - arithmetic))
        return out.add("products", arithmetic * (2 if backward else 1))

    def vendor_keeps(self, v: Vanilla, backward: bool) -> bool:
        """Whether torch asks cuDNN for its persistent algorithm (aten/src/ATen/native/cudnn/RNN.cpp)."""
        if v.size <= (128 if backward else 192):
            return True
        fits = v.size <= 1024 and v.size % 128 == 0 and self.lanes % 8 == 0 and self.lanes <= 128
        return self.machine.dtype == "fp16" and v.kind != "gru" and fits
