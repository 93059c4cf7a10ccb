"""Source of the persistent kernel that computes a loop."""

from __future__ import annotations

from kernels.codegen import names_of, needed
from kernels.persistent_cell import LEAVES, Cell, Saved
from kernels.persistent_emit import Emitter, free_names
from kernels.persistent_exchange import Place
from kernels.persistent_layout import Layout
from kernels.persistent_source import Kernel, Step


def forward_text(cell: Cell, layout: Layout, saved: Saved, masked: bool) -> Kernel:
    """All steps forward; `saved` is left for a backward. masked: there are resets or lengths."""
    ops = cell.ops
    names = free_names(names_of(ops, cell.roots))
    e = Emitter(cell, ops, layout, names)
    step = Step(cell, e, masked, False)
    wanted = [*cell.stored, *saved.columns, *saved.extra]
    e.kept = set(wanted)
    leaves = [at for at, op in enumerate(ops) if op.kind in LEAVES]
    order = needed(ops, wanted, leaves)
    par = step.outside(order)
    reads = [at for at in order if ops[at].kind == "shift"]
    if masked:
        for d in sorted({abs(ops[at].shift) for at in reads}):
            step.keep(d)
    rings: dict[int, int] = {}
    for at in reads:
        op = ops[at]
        root, distance = cell.roots[op.name], abs(op.shift)
        if e.near(op):
            rings[root] = max(rings.get(root, 0), distance)
            e.text[at] = f"back_{names[root]}_{distance}"
        else:
            load = f"tl.load({step.node(root, op.shift)}, mask={e.mask(op.size)}, other=0.0)"
            e.body.append(f"{names[at]} = {load}.to(COMPUTE)  # {op.name}[t{op.shift:+d}]")
            e.text[at] = names[at]
        step.within(at)
    edge = "o_lane" if cell.forward else "tl.cast(T - 1, tl.int64) * B + o_lane"
    for root, depth in rings.items():
        for k in range(1, depth + 1):
            pointers = step.node(root, -k if cell.forward else k, edge)
            load = f"tl.load({pointers}, mask={e.mask(ops[root].size)}, other=0.0)"
            e.before.append(f"back_{names[root]}_{k} = {load}.to(COMPUTE)")
    stores = [(at, step.place(at)) for at in cell.stored]
    stores += [(at, Place(e.argument("p_pre"), "o_row", cell.width, n)) for at, n in saved.columns.items()]
    stores += [(at, Place(e.argument(f"p_extra{at}"), "o_row", ops[at].size)) for at in saved.extra]

    def ready(at: int) -> Place | None:
        op = ops[at]
        return step.place(cell.roots[op.name], op.shift) if op.kind == "shift" else step.outer(at)

    step.emit(step.exchange(ready, stores), order, stores)
    e.body += [e.store_row(saved, column) for column in range(len(saved.rows))]
    if not all(e.near(ops[at]) for at in reads):
        e.body.append("tl.debug_barrier()  # these rows are read again, some steps later")
    for root, depth in rings.items():
        for k in range(depth, 0, -1):
            value = f"back_{names[root]}_{k - 1}" if k > 1 else e.block(root)
            e.body.append(f"back_{names[root]}_{k} = {value}")
    return step.kernel("forward_kernel", "All steps forward.", par=par)
