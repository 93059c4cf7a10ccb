"""Source of the persistent kernel that computes the derivative of a loop."""

from __future__ import annotations

from collections.abc import Sequence

from kernels.codegen import adjoint_names, names_of
from kernels.persistent_cell import Cell, Derivative, Saved, given_to
from kernels.persistent_emit import Emitter, free_names
from kernels.persistent_exchange import Place
from kernels.persistent_layout import Layout
from kernels.persistent_source import Kernel, Step

SUMS = 4  # over steps and lanes that stay in registers: each takes two for every unit that a thread has


def backward_text(cell: Cell, d: Derivative, layout: Layout, saved: Saved, masked: bool) -> Kernel:
    """All steps of the derivative, last one first. Raises Unkept."""
    return _Backward(cell, d, layout, saved, masked).run()


class _Backward:
    """Lives while one backward kernel is written."""

    def __init__(self, cell: Cell, d: Derivative, layout: Layout, saved: Saved, masked: bool):
        self.cell, self.d, self.ops, self.saved, self.masked = cell, d, d.ops, saved, masked
        self.names = free_names(adjoint_names(names_of(d.ops, cell.roots), cell.ops, d))
        self.e = Emitter(cell, d.ops, layout, self.names)
        self.step = Step(cell, self.e, masked, True)
        self.sums: dict[str, tuple[int, int]] = {}  # name -> size, number among those of that size
        self.counts: dict[int, int] = {}  # size -> how many
        first: dict[int, str] = {}  # biases that are added to one sum have one gradient
        for i, g in enumerate(d.params.values()):
            known = first.setdefault(g, f"d_par{i}")
            self.sums[f"d_par{i}"] = self.sums.get(known) or self._numbered(d.ops[g].size)
        self.summed = {name: g for g, name in first.items()}
        if masked:
            self.sums |= {f"lost{at}": self._numbered(d.ops[at].size) for at in d.shifts}
        self.many = sum(self.counts.values()) > SUMS

    def _numbered(self, size: int) -> tuple[int, int]:
        """The next place for a sum of `size` units."""
        self.counts[size] = self.counts.get(size, 0) + 1
        return size, self.counts[size] - 1

    def run(self) -> Kernel:
        e, step, ops = self.e, self.step, self.ops
        order = given_to(self.cell, self.d, self.saved)
        e.kept = set(self.d.outputs)
        columns, extra = self.saved.columns, set(self.saved.extra)
        stored = set(self.cell.stored)
        there = stored | extra | set(columns)
        par = step.outside([at for at in order if at not in columns and at not in stored])
        if self.masked and (self.d.shifts or any(ops[at].kind == "shift" for at in order)):
            for distance in self.cell.distances:
                step.keep(distance)
        for at in order:
            op = ops[at]
            if at in columns:
                pre = e.argument("p_pre")
                e.fetch(at, e.row(pre, self.cell.width, op.size, "{row}", columns[at]), op.size)
            elif at in stored:
                e.fetch(at, step.node(at, 0, "{row}"), op.size)
            elif at in extra:
                e.fetch(at, e.row(e.argument(f"p_extra{at}"), op.size, op.size, "{row}"), op.size)
            elif op.kind == "shift":
                e.fetch(at, step.node(self.cell.roots[op.name], op.shift, "{row}"), op.size)
            elif self.saved.known(op):
                e.text[at] = e.row_name("rstd", op.args[0])
        e.fetch_rows(self.saved, (ops[at] for at in order if at not in there))
        for at in order:
            if ops[at].kind == "shift":
                step.within(at)
        far = self._arrived(order)
        factors, stores = self._stores()
        step.emit(step.exchange(self._ready, stores), order, stores)
        for name, g in self.summed.items():
            self._total(name, f"tl.where(m_lane, {e.block(g)}, 0.0)", ops[g].size)
        self._send(far)
        if self.many:
            e.before.append("tl.debug_barrier()  # zeros are there before the first step reads them")
            e.body.append("tl.debug_barrier()  # sums are read again in the next step")
        doc = "All steps of the derivative, last one first."
        sums = tuple((name, size, number) for name, (size, number) in self.sums.items())
        given = {"par": par, "d_par": tuple(self.d.params), "factors": factors, "sums": sums}
        return step.kernel("backward_kernel", doc, **given)

    def _ready(self, at: int) -> Place | None:
        """Where a value is in memory that the forward has left, or that comes from outside."""
        op = self.ops[at]
        if at in self.saved.columns:
            return Place(self.e.argument("p_pre"), "o_row", self.cell.width, self.saved.columns[at])
        if op.kind == "shift":
            return self.step.place(self.cell.roots[op.name], op.shift)
        if at in self.cell.stored:
            return self.step.place(at)
        if at in self.saved.extra:
            return Place(self.e.argument(f"p_extra{at}"), "o_row", op.size)
        return self.step.outer(at)

    def _arrived(self, order: Sequence[int]) -> set[int]:
        """Give adjoints that other steps have sent a text; reads whose adjoints go through memory."""
        e, far = self.e, set[int]()
        for at in self.d.shifts:
            if not e.near(self.ops[at]):
                far.add(at)
        for at in order:
            op = self.ops[at]
            if op.kind != "back":
                continue
            if op.lo not in far:
                e.text[at] = f"back_{op.lo}_{abs(op.shift)}"
                continue
            pointer = e.argument(f"p_far{op.lo}")
            there = f"(t + {op.shift} >= 0) & (t + {op.shift} < T)"
            e.body.append(f"m_far = o_lane < tl.where({there}, B, 0)  # else nothing was sent")
            pointers = e.row(pointer, op.size, op.size, f"o_row + {op.shift} * B")
            mask = f"{e.mask(op.size)} & m_far"
            e.body.append(f"{self.names[at]} = tl.load({pointers}, mask={mask}, other=0.0)")
            e.text[at] = self.names[at]
        return far

    def _stores(self) -> tuple[tuple[int, ...], list[tuple[int, Place]]]:
        """What is stored at every step, and which of it are factors of weight gradients alone."""
        e, cell, ops = self.e, self.cell, self.ops
        out = [
            (g, Place(e.argument("p_d_pre"), "o_row", cell.width, cell.columns[start]))
            for start, g in self.d.pre.items()
        ]
        for number, g in self.d.ext.items():
            out.append((g, Place(e.argument(f"p_d_ext{number}"), "o_row", ops[g].size)))
        there = set(self.d.pre.values())
        found = dict.fromkeys(g for kind, _, g, _ in self.d.products if kind == "block" or g not in there)
        out += [(g, Place(e.argument(f"p_factor{g}"), "o_row", ops[g].size)) for g in found]
        return tuple(found), out

    def _total(self, name: str, value: str, size: int) -> None:
        """Sum `value` over lanes and steps, and store it as a row [units] of this tile of lanes.

        Few sums stay in registers; many are kept where they are stored, with what rounding took from them in
        a second row. All sums of one size are one tensor: addresses of their own would take the registers.
        """
        e = self.e
        pointer, rows = e.argument(f"p_sums{size}"), 2 * self.counts[size]
        row = 2 * self.sums[name][1]
        unit, block = e.units(size), e.layout.units(size)
        first = size == 1 and e.layout.programs > 1  # all have it
        own = f"{unit} < tl.where(i_part == 0, 1, 0)" if first else f"{unit} < {size}"
        mask = "" if e.exact(size) and not first else f", mask={own}"
        places = [f"{pointer} + i_tile * {rows * size} + {(row + k) * size} + {unit}" for k in (0, 1)]
        kinds = [f"{kind}_{name}" for kind in ("sum", "rest")]
        zeros = [f"{kind} = tl.zeros([{block}, 1], COMPUTE)" for kind in kinds]
        stores = [f"tl.store({p}, {kind}{mask})" for p, kind in zip(places, kinds, strict=True)]
        added = f"add_exactly({', '.join(kinds)}, tl.sum({value}, axis=1, keep_dims=True))"
        e.before += zeros
        if self.many:
            e.before += stores
            e.body += [f"{kind} = tl.load({p}{mask})" for p, kind in zip(places, kinds, strict=True)]
        e.body.append(f"{', '.join(kinds)} = {added}")
        (e.body if self.many else e.after).extend(stores)

    def _send(self, far: set[int]) -> None:
        """Adjoints of reads on their way to the steps that were read."""
        e = self.e
        sent: dict[int, str] = {}
        for at, g in self.d.shifts.items():
            op, value = self.ops[at], e.block(g)
            sent[at] = f"o_sent_{at}"
            if self.masked:
                e.body.append(f"o_sent_{at} = tl.where(keep_{abs(op.shift)}, {value}, 0.0)")
                self._total(f"lost{at}", f"tl.where(m_lane, {value} - o_sent_{at}, 0.0)", op.size)
            else:
                e.body.append(f"o_sent_{at} = {value}")
        for at, value in sent.items():
            op = self.ops[at]
            if at in far:
                row = e.row(e.argument(f"p_far{at}"), op.size, op.size)
                e.body.append(e.store_text(row, value, op.size))
                continue
            block, names = e.layout.units(op.size), f"back_{at}"
            for k in range(abs(op.shift), 0, -1):
                e.before.append(f"{names}_{k} = tl.zeros([{block}, BB], COMPUTE)")
                e.body.append(f"{names}_{k} = {f'{names}_{k - 1}' if k > 1 else value}")
                row = e.row(e.argument(f"p_edge{at}_{k}"), op.size, op.size, "o_lane")
                e.after.append(e.store_text(row, f"{names}_{k}", op.size))
        if far:
            e.body.append("tl.debug_barrier()  # these rows are read again, some steps later")
