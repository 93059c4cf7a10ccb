"""Products whose matrices are spread over many programs: the source comes from memory, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kernels.codegen import Op

if TYPE_CHECKING:
    from kernels.persistent_memory import ThroughMemory

WASTE = (
    1.15  # units that are multiplied for each of the fewest that could be: large blocks are fewer barriers
)
STAGES = 3  # blocks of a matrix from L2 and of its source on their way at the same time
PACKED = 8  # products of one source whose matrices are multiplied as one, at most


class Form(NamedTuple):
    """Of a product: `rows` of the matrix, `splits` parts of the reduction at once, each of `chunk` units."""

    rows: int
    splits: int
    chunk: int

    def blocks(self, size: int) -> int:
        """Blocks of a source of `size` units."""
        return -(-size // (self.splits * self.chunk))


class _Task(NamedTuple):
    """Add to the sum `name` the product of block k of matrices (several: packed) with that of `source`."""

    name: str
    ops: tuple[Op, ...]
    source: int
    form: Form
    k: int


class Products:
    """Writes the products of one kernel; `memory` knows where values are."""

    def __init__(self, memory: ThroughMemory):
        self.memory, self.e = memory, memory.e
        self.packs: dict[int, list[int]] = {}  # product -> all of its pack
        self.values: dict[int, str] = {}  # of packed products
        self.slabs = 0

    def pack(self, part: Sequence[int]) -> None:
        """Products of one source, of one size, whose matrices lie below each other are made as one."""
        groups: dict[tuple[int, int, int], list[int]] = {}
        for at in part:
            op = self.e.ops[at]
            if op.kind == "full" and op.size > 1 and self.e.ops[op.args[0]].size > 1:
                tensor = self.e.cell.weights[op.name].tensor
                groups.setdefault((op.args[0], tensor, op.size), []).append(at)
        for group in groups.values():
            group.sort(key=lambda at: self.e.cell.weights[self.e.ops[at].name].lo)
            while group:
                most = PACKED if len(group) >= PACKED else 4 if len(group) >= 3 else len(group)
                pack = [group.pop(0)]
                while group and len(pack) < most and self._next(pack[-1]) == self._lo(group[0]):
                    pack.append(group.pop(0))
                self.packs |= dict.fromkeys(pack, pack)

    def _lo(self, at: int) -> int:
        return self.e.cell.weights[self.e.ops[at].name].lo

    def _next(self, at: int) -> int:
        return self._lo(at) + self.e.ops[at].size

    def add(self, name: str, products: Sequence[int], start: str | None) -> None:
        """Statements that make `name` the sum of the block `start` and of products (ops)."""
        e = self.e
        packed = [at for at in products if at in self.packs]
        for at in packed:
            if at not in self.values:
                self._multiply_packs(e.ops[at].args[0], self.memory.level[at])
        texts = [*([start] if start else []), *(self.values[at] for at in packed)]
        big: list[Op] = []
        for at in products:
            op = e.ops[at]
            if at in self.packs:
                continue
            if e.ops[op.args[0]].size == 1 or op.size == 1:
                texts.append(self._thin(op))
            else:
                big.append(op)
        if big:
            texts.append(self._multiply(f"part_{name}", big))
        e.body.append(f"{name} = {' + '.join(texts)}")

    def _form(self, rows: int) -> Form:
        """Tensor cores take 64 rows at once; with fewer, warps share the reduction."""
        layout = self.e.layout
        if rows >= layout.whole or layout.splits == 1:
            return Form(rows, 1, layout.chunk)
        # Of the same size: with larger ones the loop of 1024 units took 128 instructions more, and spilled.
        return Form(rows, layout.splits, max(16, layout.chunk // layout.splits))

    def _thin(self, op: Op) -> str:
        """A product with a single row or column."""
        e, source, turned = self.e, op.args[0], op.kind.endswith("_t")
        w, n = e.cell.weights[op.name], e.ops[source].size
        pointer, base = e.argument(f"p_w{w.tensor}"), w.lo * w.cols
        if n == 1:
            unit = e.units(op.size) if op.size > 1 else "0"
            place = f"{pointer} + {base} + {unit}"  # one column, or one row turned: packed either way
            mask = "" if e.exact(op.size) else f", mask={unit} < {op.size}, other=0.0"
            slab = self._resident(f"tl.load({place}{mask})", e.layout.units(op.size), f"[units, 1] {op.name}")
            return f"{slab}.to(COMPUTE) * {e.block(source)}"
        form = Form(1, 1, self._fitting(n, self.e.layout.chunk))
        total = []
        for k in range(form.blocks(n)):
            x = self._source(f"x_{e.names[source]}_{form.chunk}_{k}", source, form, k)
            index = f"(tl.arange(0, {form.chunk})[:, None] + {k * form.chunk})"
            load = f"tl.load({pointer} + {base} + {index}, mask={index} < {n}, other=0.0)"
            slab = self._resident(load, form.chunk, f"[units, 1] {op.name}{' turned' if turned else ''}")
            total.append(f"tl.sum({slab}.to(COMPUTE) * {x}.to(COMPUTE), axis=0, keep_dims=True)")
        return " + ".join(total)

    def _fitting(self, size: int, most: int) -> int:
        """Units of a block: no larger than the source."""
        return min(most, max(16, 1 << (size - 1).bit_length()))

    def _fit(self, form: Form, size: int) -> Form:
        """The form for a source of `size` units: large blocks that multiply few units that are not there."""
        chunks = [n for n in (128, 64, 32, 16) if n <= self._fitting(-(-size // form.splits), form.chunk)]
        fits = [Form(form.rows, form.splits, n) for n in chunks]
        units = [fit.blocks(size) * fit.splits * fit.chunk for fit in fits]
        return next(fit for fit, n in zip(fits, units, strict=True) if n <= WASTE * min(units))

    def _zeros(self, name: str, form: Form) -> None:
        shape = f"[{form.rows}, BB]" if form.splits == 1 else f"[{form.splits}, {form.rows}, BB]"
        self.e.body.append(f"{name} = tl.zeros({shape}, COMPUTE)")

    def _multiply(self, name: str, products: Sequence[Op]) -> str:
        """The sum of products as one chain; the name of the block."""
        e, form = self.e, self._form(self.e.layout.units(products[0].size))
        self._zeros(name, form)
        tasks = []
        for op in products:
            n = e.ops[op.args[0]].size
            fit = self._fit(form, n)
            tasks += [_Task(name, (op,), op.args[0], fit, k) for k in range(fit.blocks(n))]
        self._run(tasks)
        return name if form.splits == 1 else f"spread(tl.sum({name}, axis=0))"

    def _multiply_packs(self, source: int, level: int) -> None:
        """All products of a source in packs, whose rows are units with the gates of each below each other."""
        e, tasks, after = self.e, list[_Task](), list[str]()
        packs = {tuple(p) for at, p in self.packs.items() if e.ops[at].args[0] == source}
        for pack in sorted(p for p in packs if self.memory.level[p[0]] == level):
            ops = tuple(e.ops[at] for at in pack)
            block, gates = e.layout.units(ops[0].size), 1 << (len(pack) - 1).bit_length()
            n, name = e.ops[source].size, f"part_{e.names[pack[0]]}"
            form = self._fit(self._form(block * gates), n)
            self._zeros(name, form)
            tasks += [_Task(name, ops, source, form, k) for k in range(form.blocks(n))]
            if form.splits > 1:
                after.append(f"{name} = tl.sum({name}, axis=0)")
            if gates > 1:
                names = ", ".join(f"{name}_{i}" for i in range(gates))
                after.append(f"{names} = gates_{gates}({name}, {block}, BB)")
            for i, at in enumerate(pack):
                self.values[at] = f"{name}_{i}" if gates > 1 else name
        tasks.sort(key=lambda task: task.k)
        self._run(tasks)
        e.body += after

    def _run(self, tasks: Sequence[_Task]) -> None:
        """Products block by block: first those whose matrices are on the chip, as many sources under way as
        registers hold; the others in a loop that loads them some turns ahead.
        """
        groups: dict[tuple[int, int, int], list[_Task]] = {}
        for task in tasks:
            groups.setdefault((task.source, task.form.splits, task.form.chunk), []).append(task)
        here: list[_Task] = []
        streamed: list[tuple[list[_Task], int, int]] = []
        for group in groups.values():
            count = 1 + max(task.k for task in group)
            for k in range(count):
                block = [task for task in group if task.k == k]
                numbers = sum(t.form.rows * t.form.splits * t.form.chunk for t in block)
                if self.memory.numbers + numbers > self.e.layout.resident:
                    streamed.append((block, k, count))
                    break
                self.memory.numbers += numbers
                here += block
        self._run_resident(here)
        for block, first, count in streamed:
            self._run_streamed(block, first, count)

    def _run_resident(self, tasks: Sequence[_Task]) -> None:
        e, layout = self.e, self.e.layout
        while tasks:
            loaded: dict[tuple[int, int, int, int], str] = {}
            numbers = taken = 0
            for task in tasks:
                key = (task.source, task.form.splits, task.form.chunk, task.k)
                if key not in loaded:
                    numbers += task.form.splits * task.form.chunk * layout.lanes
                    if loaded and numbers > layout.loaded * 32 * layout.warps:
                        break
                    self.memory.under_way = max(self.memory.under_way, numbers)
                    name = f"x_{e.names[task.source]}_{'_'.join(map(str, key[1:]))}"
                    loaded[key] = self._source(name, task.source, task.form, task.k)
                taken += 1
            for task in tasks[:taken]:
                x = loaded[task.source, task.form.splits, task.form.chunk, task.k]
                slab = f"w_{self.slabs}"
                self.slabs += 1
                e.once.append(f"{slab} = {self._slab(task.ops, task.form, task.k)}  # {_remark(task.ops)}")
                self._dot(task.name, slab, x)
            tasks = tasks[taken:]

    def _run_streamed(self, block: Sequence[_Task], first: int, count: int) -> None:
        """Blocks from `first` on: matrices come from L2 in every step."""
        e, task = self.e, block[0]
        form = task.form
        numbers = sum(t.form.rows for t in block) * form.splits * form.chunk
        numbers += form.splits * form.chunk * e.layout.lanes
        staged = min(STAGES, count - first) * numbers
        self.memory.under_way = max(self.memory.under_way, staged)
        start = len(e.body)
        x = self._source(f"x_{e.names[task.source]}", task.source, task.form, "i_block")
        for task in block:
            e.body.append(f"w_next = {self._slab(task.ops, task.form, 'i_block')}  # {_remark(task.ops)}")
            self._dot(task.name, "w_next", x)
        inside = [f"    {line}" for line in e.body[start:]]
        e.body[start:] = [f"for i_block in tl.range({first}, {count}, num_stages={STAGES}):", *inside]

    def _dot(self, name: str, slab: str, x: str) -> None:
        self.e.body.append(
            f"{name} = tl.dot({slab}, {x}, {name}, input_precision=PRECISION, out_dtype=COMPUTE)"
        )

    def _source(self, name: str, at: int, form: Form, k: int | str) -> str:
        """Block k of all units of a value, as it is multiplied; called `name`."""
        e, n, place, deep = self.e, self.e.ops[at].size, self.memory.place(at), form.splits > 1
        index, whole = self._index(form, k, n, column=True)
        mask = "m_lane" if not deep else "m_lane[None, :, :]"
        inside = "" if whole else f"({index} < {n})"
        both = mask if whole else f"{inside} & {mask}"
        row = f"({place.row})[None, :, :]" if deep else place.row
        pointers = place._replace(row=row).at(index)
        load = f'tl.load({pointers}, mask={both}, other=0.0, cache_modifier=".cg")'
        value = self.memory.cut(at, load, index, inside, deep)
        e.body.append(f"{name} = ({value}).to({e.argument('p_w0')}.dtype.element_ty)")
        return name

    def _index(self, form: Form, k: int | str, size: int, column: bool) -> tuple[str, bool]:
        """Offsets of block k of a source: as a column of it [.., units, 1], or of a matrix [.., 1, units];
        whether all of them are there.
        """
        total = form.splits * form.chunk
        one = "[:, None]" if column else "[None, :]"
        if form.splits == 1:
            text = f"tl.arange(0, {form.chunk}){one}"
        else:
            one = "[None, :, None]" if column else "[None, None, :]"
            parts = f"tl.arange(0, {form.splits})[:, None, None] * {form.chunk}"
            text = f"{parts} + tl.arange(0, {form.chunk}){one}"
        if isinstance(k, str):
            return f"({text} + {k} * {total})", size % total == 0
        return f"({text}{f' + {k * total}' if k else ''})", (k + 1) * total <= size

    def _slab(self, ops: Sequence[Op], form: Form, k: int | str) -> str:
        """Block k of a matrix (or of several that are packed) for the units of this program."""
        e, op = self.e, ops[0]
        w, turned, n = e.cell.weights[op.name], op.kind.endswith("_t"), e.ops[op.args[0]].size
        block, gates = e.layout.units(op.size), form.rows // e.layout.units(op.size)
        index, whole = self._index(form, k, n, column=False)
        rows = f"tl.arange(0, {form.rows})" + ("[:, None]" if form.splits == 1 else "[None, :, None]")
        unit = f"(i_part * {block} + {rows}{f' // {gates}' if gates > 1 else ''})"
        masks = [] if e.exact(op.size) else [f"({unit} < {op.size})"]
        if not whole:
            masks.append(f"({index} < {n})")
        if gates > len(ops):
            masks.append(f"({rows} % {gates} < {len(ops)})")
        own = f"{rows} % {gates} * {op.size} + {unit}" if gates > 1 else unit
        row, column = (index, own) if turned else (own, index)
        return e.matrix(w, row, column, masks)

    def _resident(self, load: str, numbers: int, remark: str) -> str:
        """A vector of a matrix: on the chip from the start while there is room, else loaded for its use."""
        name = f"w_{self.slabs}"
        self.slabs += 1
        if self.memory.numbers + numbers <= self.e.layout.resident:
            self.memory.numbers += numbers
            self.e.once.append(f"{name} = {load}  # {remark}")
        else:
            self.e.body.append(f"{name} = {load}  # {remark}")
        return name


def _remark(ops: Sequence[Op]) -> str:
    turned = " turned" if ops[0].kind.endswith("_t") else ""
    return f"{ops[0].name}{turned}" if len(ops) == 1 else f"{len(ops)} gates: {ops[0].name} ..."
