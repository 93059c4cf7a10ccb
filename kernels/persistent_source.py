"""Source of the persistent kernels: all steps of a loop in one launch, weights and state on the chip.

A kernel is written for one loop as a whole, because what it holds (how many matrices, states, exchanges of
which sizes) is what makes one cell differ from another. Statements come from `persistent_emit.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kernels.codegen import names_of, needed
from kernels.persistent_cell import LEAVES, Cell, Derivative, Saved, given_to
from kernels.persistent_emit import NEAR, Emitter, free_names
from kernels.persistent_layout import Layout

SUMS = 4  # over steps and lanes that stay in registers: each takes two for every unit that a thread has
HEADER = """\
import triton
import triton.language as tl

from kernels.activations import relu, sigmoid, tanh  # noqa: F401
from kernels.random import drop_mask, random_bits, renewal_mask, zoneout_mask  # noqa: F401
from kernels.rows import add_exactly, normalize, row_sum, rstd, softmax  # noqa: F401
"""


@dataclass(frozen=True)
class Kernel:
    """`text`: source of a function `name` with tensors `arguments`, then strides `s_*`, T, B and constants.

    Tensors by the first part of their name: p_pre, p_d_pre; p_ext<number>, p_d_ext<number>; p_par<i> and
    p_d_par<i>: the i-th of `par`, `d_par`; p_w<number>; p_keep<distance>; p_init<state>; and with the place
    of an op in the list: p_node, p_extra (saved), p_grad (of an output), p_edge and p_lost and p_far (of a
    read), p_factor (of a weight gradient).
    """

    name: str
    text: str
    arguments: tuple[str, ...]
    par: tuple[str, ...] = ()
    d_par: tuple[str, ...] = ()
    factors: tuple[int, ...] = ()
    draws: bool = False


class _Step:
    """What forward and backward have in common; lives while one kernel is written."""

    def __init__(self, cell: Cell, e: Emitter, masked: bool):
        self.cell, self.e, self.masked = cell, e, masked
        self.ops, self.names = e.ops, e.names

    def outside(self, order: Iterable[int]) -> tuple[str, ...]:
        """Have hoisted values and vector weights loaded; the names of the weights."""
        e, par = self.e, []
        for at in order:
            op = self.ops[at]
            if op.kind == "pre":
                p = e.argument("p_pre")
                e.fetch(at, e.row(p, self.cell.width, op.size, "{row}", self.cell.columns[at]), op.size)
            elif op.kind in ("ext", "grad"):
                name, unit = f"{op.kind}{op.lo}", e.units(op.size)
                p = e.argument(f"p_{name}")
                e.fetch(at, f"{p} + {{row}} * s_{name} + {unit} * s_unit_{name}", op.size)
            elif op.kind == "param":
                p, unit = e.argument(f"p_par{len(par)}"), e.units(op.size)
                par.append(op.name)
                mask = "" if e.exact(op.size) else f", mask={unit} < {op.size}, other=0.0"
                shape = f"[{e.layout.units(op.size)}, 1]"
                line = f"{self.names[at]} = tl.load({p} + {unit}{mask}).to(COMPUTE)  # {shape} {op.name}"
                e.before.append(line)
                e.text[at] = self.names[at]
                e.vector.add(at)
        return tuple(par)

    def keep(self, distance: int) -> str:
        """Whether a read of that distance stays in its sequence, [1, lanes]."""
        p = self.e.argument(f"p_keep{distance}")
        name = f"in_keep{distance}"
        if all(known != name for known, _ in self.e.ahead):
            self.e.ahead.append((name, f"tl.load({p} + {{row}}, mask=m_lane, other=0)"))
            self.e.takes.append(f"keep_{distance} = {name} != 0")
        return f"keep_{distance}"

    def initial(self, node: str) -> str:
        """The value of a node before its first step, [units, 1]."""
        number, size = list(self.cell.states).index(node), self.ops[self.cell.roots[node]].size
        p, unit, name = self.e.argument(f"p_init{number}"), self.e.units(size), f"init_{number}"
        mask = "" if self.e.exact(size) else f", mask={unit} < {size}, other=0.0"
        line = f"{name} = tl.load({p} + {unit}{mask}).to(COMPUTE)  # {node}"
        if line not in self.e.before:
            self.e.before.append(line)
        return name

    def node(self, at: int, shift: int, row: str = "o_row") -> str:
        """Pointers to stored op `at`, `shift` steps from those of `row`."""
        p = self.e.argument(f"p_node{at}")
        away = self.cell.front + shift
        row = f"{row} + {away} * B" if away else row
        return self.e.row(p, self.ops[at].size, self.ops[at].size, row)

    def within(self, at: int) -> None:
        """Put the initial value in place of a read (it has a text) that has left its sequence."""
        if self.masked:
            op, name = self.ops[at], self.names[at]
            kept = f"tl.where({self.keep(abs(op.shift))}, {self.e.text[at]}, {self.initial(op.name)})"
            self.e.body.append(f"{name} = {kept}  # {op.name}[t{op.shift:+d}]")
            self.e.text[at] = name

    def kernel(self, name: str, doc: str, backward: bool) -> tuple[str, tuple[str, ...], bool]:
        """The whole function, its tensors, and whether it takes a seed."""
        e, ahead = self.e, self.e.ahead
        forward = self.cell.forward is not backward
        strides = [a[2:] for a in e.arguments if a.startswith(("p_ext", "p_grad"))]
        loop = [
            "t = s" if forward else "t = T - 1 - s",
            "o_row = tl.cast(t, tl.int64) * B + o_lane  # [1, BB]",
        ]
        loop += e.takes
        if ahead:
            after = "tl.minimum(s + 1, T - 1)" if forward else "tl.maximum(T - 2 - s, 0)"
            step = [f"o_next = tl.cast({after}, tl.int64) * B + o_lane"]
            step += [f"{name} = {load.format(row='o_next')}" for name, load in ahead]
            loop += step  # on their way while this step is computed
        loop += e.body
        first_row = "o_lane" if forward else "tl.cast(T - 1, tl.int64) * B + o_lane"
        lines = [
            f'"""{doc}"""',
            "o_lane = tl.program_id(0).to(tl.int64) * BB + tl.arange(0, BB)[None, :]  # [1, BB]",
            "m_lane = o_lane < B",
            *e.ranges(),
            *e.before,
            *([f"o_row = {first_row}"] if ahead else []),
            *(f"{name} = {load.format(row='o_row')}" for name, load in ahead),
            "for s in tl.range(0, T, num_stages=1):",
            *(f"    {line}" for line in loop),
            *e.after,
        ]
        constants = [f"{c}: tl.constexpr" for c in ("BB", "COMPUTE", "PRECISION")]
        fixed = [*(f"s_{name}" for name in strides), *(f"s_unit_{name}: tl.constexpr" for name in strides)]
        arguments = ", ".join([*e.arguments, *fixed, "T", "B", *["seed"] * e.draws, *constants])
        loose = ", ".join(f'"{x}"' for x in ("T", "B", *["seed"] * e.draws))
        head = f"@triton.jit(do_not_specialize=[{loose}])\ndef {name}(\n{wrapped(arguments)}\n):\n"
        return head + "".join(f"    {line}\n" for line in lines), tuple(e.arguments), e.draws


def forward_text(cell: Cell, layout: Layout, saved: Saved, masked: bool) -> Kernel:
    """All steps forward; `saved` is left for a backward."""
    ops = cell.ops
    names = free_names(names_of(ops, cell.roots))
    e = Emitter(cell, ops, layout, names)
    step = _Step(cell, e, masked)
    wanted = [*cell.stored, *saved.columns, *saved.extra]
    e.kept = set(wanted)
    leaves = [at for at, op in enumerate(ops) if op.kind in LEAVES]
    order = needed(ops, wanted, leaves)
    par = step.outside(order)
    if masked:
        for d in sorted({abs(ops[at].shift) for at in order if ops[at].kind == "shift"}):
            step.keep(d)
    rings: dict[int, int] = {}
    for at in order:
        op = ops[at]
        if op.kind == "shift":
            root, distance = cell.roots[op.name], abs(op.shift)
            if distance <= NEAR:
                rings[root] = max(rings.get(root, 0), distance)
                e.text[at] = f"back_{names[root]}_{distance}"
            else:
                load = f"tl.load({step.node(root, op.shift)}, mask={e.mask(op.size)}, other=0.0)"
                e.body.append(f"{names[at]} = {load}.to(COMPUTE)  # {op.name}[t{op.shift:+d}]")
                e.text[at] = names[at]
            step.within(at)
    for root, depth in rings.items():
        edge = "o_lane" if cell.forward else "tl.cast(T - 1, tl.int64) * B + o_lane"
        for k in range(1, depth + 1):
            pointers = step.node(root, -k if cell.forward else k, edge)
            load = f"tl.load({pointers}, mask={e.mask(ops[root].size)}, other=0.0)"
            e.before.append(f"back_{names[root]}_{k} = {load}.to(COMPUTE)")
    e.emit(order)
    for at in cell.stored:
        e.body.append(e.store(step.node(at, 0), at, ops[at].size))
    for at, column in saved.columns.items():
        pre = e.argument("p_pre")
        e.body.append(e.store(e.row(pre, cell.width, ops[at].size, column=column), at, ops[at].size))
    for at in saved.extra:
        pointer = e.argument(f"p_extra{at}")
        e.body.append(e.store(e.row(pointer, ops[at].size, ops[at].size), at, ops[at].size))
    if any(ops[at].kind == "shift" and abs(ops[at].shift) > NEAR for at in order):
        e.body.append("tl.debug_barrier()  # these rows are read again, some steps later")
    for root, depth in rings.items():
        for k in range(depth, 0, -1):
            value = f"back_{names[root]}_{k - 1}" if k > 1 else e.block(root)
            e.body.append(f"back_{names[root]}_{k} = {value}")
    text, arguments, draws = step.kernel("forward_kernel", "All steps forward.", False)
    return Kernel("forward_kernel", text, arguments, par, draws=draws)


def backward_text(cell: Cell, d: Derivative, layout: Layout, saved: Saved, masked: bool) -> Kernel:
    """All steps of the derivative, last one first. Raises Unkept."""
    return _Backward(cell, d, layout, saved, masked).run()


class _Backward:
    """Lives while one backward kernel is written."""

    def __init__(self, cell: Cell, d: Derivative, layout: Layout, saved: Saved, masked: bool):
        self.cell, self.d, self.ops, self.saved, self.masked = cell, d, d.ops, saved, masked
        self.names = free_names(adjoint_names(names_of(d.ops, cell.roots), cell, d))
        self.e = Emitter(cell, d.ops, layout, self.names)
        self.step = _Step(cell, self.e, masked)
        self.many = len(d.params) + masked * len(d.shifts) > SUMS

    def run(self) -> Kernel:
        e, step, ops = self.e, self.step, self.ops
        order = given_to(self.cell, self.d, self.saved)
        e.kept = set(self.d.outputs)
        columns, extra = self.saved.columns, set(self.saved.extra)
        stored = set(self.cell.stored)
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
        for at in order:
            if ops[at].kind == "shift":
                step.within(at)
        far = self._arrived(order)
        e.emit(order)
        self._store_adjoints()
        factors = self._factors()
        self._send(far)
        if self.many:
            e.body.append("tl.debug_barrier()  # sums are read again in the next step")
        text, arguments, draws = step.kernel(
            "backward_kernel", "All steps of the derivative, last one first.", True
        )
        return Kernel("backward_kernel", text, arguments, par, tuple(self.d.params), factors, draws)

    def _arrived(self, order: Sequence[int]) -> set[int]:
        """Give adjoints that other steps have sent a text; reads whose adjoints go through memory."""
        e, far = self.e, set[int]()
        for at in self.d.shifts:
            if abs(self.ops[at].shift) > NEAR:
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

    def _store_adjoints(self) -> None:
        e, cell, ops = self.e, self.cell, self.ops
        for start, g in self.d.pre.items():
            size = ops[start].size
            row = e.row(e.argument("p_d_pre"), cell.width, size, column=cell.columns[start])
            e.body.append(e.store(row, g, size))
        for number, g in self.d.ext.items():
            row = e.row(e.argument(f"p_d_ext{number}"), ops[g].size, ops[g].size)
            e.body.append(e.store(row, g, ops[g].size))
        for i, g in enumerate(self.d.params.values()):
            size = ops[g].size
            self._total(f"par{i}", f"tl.where(m_lane, {e.block(g)}, 0.0)", size)

    def _total(self, name: str, value: str, size: int) -> None:
        """Sum `value` over lanes and steps, and store it as a row [units] of this tile of lanes.

        Few sums stay in registers; many are kept where they are stored, with what rounding took from them in
        a second row.
        """
        e = self.e
        pointer = e.argument(f"p_d_{name}" if name.startswith("par") else f"p_{name}")
        unit, block = e.units(size), e.layout.units(size)
        mask = "" if e.exact(size) else f", mask={unit} < {size}"
        places = [f"{pointer} + tl.program_id(0) * {2 * size} + {k * size} + {unit}" for k in (0, 1)]
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

    def _factors(self) -> tuple[int, ...]:
        """Adjoints that weight gradients need and that are no hoisted sums' adjoints."""
        e, there = self.e, set(self.d.pre.values())
        found = dict.fromkeys(g for kind, _, g, _ in self.d.products if kind == "block" or g not in there)
        for g in found:
            size = self.ops[g].size
            e.body.append(e.store(e.row(e.argument(f"p_factor{g}"), size, size), g, size))
        return tuple(found)

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


def adjoint_names(names: Mapping[int, str], cell: Cell, d: Derivative) -> dict[int, str]:
    """d_pre0, d_ext0 and so on for results that have no name but a number yet."""
    place = {("ext", op.lo): at for at, op in enumerate(cell.ops) if op.kind == "ext"}
    place |= {("param", op.name): at for at, op in enumerate(cell.ops) if op.kind == "param"}
    of = [*d.pre.items(), *((place["ext", i], g) for i, g in d.ext.items())]
    of += [*((place["param", n], g) for n, g in d.params.items()), *d.shifts.items()]
    out, taken = dict(names), set(names.values())
    for at, g in of:
        wanted = f"d_{names[at]}"
        if out[g] == f"v{g}" and wanted not in taken:
            taken.add(wanted)
            out[g] = wanted
    return out


def wrapped(text: str) -> str:
    """Arguments on lines of readable length."""
    return textwrap.indent(textwrap.fill(text, 106, break_long_words=False, break_on_hyphens=False), "    ")


def module_text(kernels: Sequence[Kernel]) -> str:
    """A whole module."""
    return "\n\n".join([HEADER, *(k.text for k in kernels)])
