"""Generated Python for the forward loop of one component; see `source.py` for the names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from framework.cell import Op
from framework.component import Component, Run
from framework.ops import TABLE
from framework.runners.emit import Place, pointwise
from framework.runners.source import Emitter, Source, pads


class ForwardEmitter(Emitter):
    """The loop of a component. saved: cell ops that the backward will read."""

    mode = "step"  # of its statements: for one step, or for a block of them at once

    def __init__(self, c: Component, saved: frozenset[int], weights: Mapping[str, str], masked: bool):
        super().__init__(c.cell)
        self.c, self.weights, self.masked = c, weights, masked
        self.front, self.back = pads(c)
        views = set(saved)  # what a saved view shows is saved with it
        for i in range(len(c.cell) - 1, -1, -1):
            if i in views and c.cell[i].kind in ("stop", "slice"):
                views.add(c.cell[i].args[0])
        self.saved = frozenset(views)

    def weight(self, name: str) -> str:
        """The variable that holds weight `name`."""
        return self.weights[name]

    def emit(self) -> Source:
        """The whole source."""
        c = self.c
        self._places()
        ids = [i for i, op in enumerate(c.cell) if op.kind not in ("pre", "ext", "param", "const", "full")]
        body = self._statements(ids, set(), self._runs())
        span = "range(T)" if c.direction > 0 else "range(T - 1, -1, -1)"
        return self.finish([f"for t in {span}:", *(f"    {line}" for line in body or ["pass"])])

    def _runs(self) -> dict[int, list[tuple[int, Run]]]:
        """Runs of weights and their numbers, by the value that they multiply."""
        run_of: dict[int, list[tuple[int, Run]]] = {run.source: [] for run in self.c.runs}
        for k, run in enumerate(self.c.runs):
            run_of[run.source].append((k, run))
        return run_of

    def _statements(
        self, ids: Sequence[int], known: set[int], run_of: Mapping[int, list[tuple[int, Run]]]
    ) -> list[str]:
        """What computes the ops `ids`, in an order that they allow; those in `known` are there."""
        body = self._products(None, run_of)
        for i in known:
            body += self._products(i, run_of)
        done = set(known)
        pending = [i for i in ids if i not in self.virtual]
        depends = {i: self._needs(i) for i in pending}
        while pending:
            ready = [i for i in pending if depends[i] <= done]
            assert ready, "the cell has a loop without delay"
            # Sums that the products have completed come first: what follows them can be done together.
            i = next((j for j in ready if not self._emit_op(j, [j])), ready[0])
            group = self._side_by_side(i, ready)
            body += self._emit_op(i, group)
            for j in group:
                pending.remove(j)
                done.add(j)
                body += self._products(j, run_of)
        return body

    def _needs(self, i: int) -> set[int]:
        """Ops with statements that must come before op i."""
        out: set[int] = set()
        todo = list(self.ops[i].args)
        while todo:
            a = todo.pop()
            op = self.ops[a]
            if op.kind in ("pre", "ext", "param", "const"):
                continue
            if op.kind == "full" or a in self.virtual:
                todo.extend(op.args)
            else:
                out.add(a)
        return out

    def _products(self, source: int | None, run_of: Mapping[int, list[tuple[int, Run]]]) -> list[str]:
        """Matrix products whose source has just become ready (None: values from other steps)."""
        lines = []
        for at, runs in run_of.items():
            early = self.ops[at].kind in ("ext", "param", "const") or (
                self.ops[at].kind == "shift" and not self.masked
            )
            if (source is None) != early or (source is not None and at != source):
                continue
            for k, run in runs:
                out = self.ref(Place("P", "chunk", 0, run.lo, run.hi), self.mode)
                rows = self.wide(at, self.mode, out) if self.is_flat(at) else self.operand(at, self.mode)
                flat = ".flatten(0, 1)" if self.mode == "block" else ""
                lines.append(f"add{k}({out}{flat}, {rows}{flat})")
        return lines

    def _places(self) -> None:
        c, cell = self.c, self.c.cell
        roots = {c.roots[n] for n in c.states} | {local for _, local in c.outputs}
        readers: dict[int, int] = {}
        for op in cell:
            for a in op.args:
                readers[a] = readers.get(a, 0) + 1
        ids = range(len(cell))
        self.fuse_products(ids, self.readers(ids), {*self.saved, *roots})
        sums = {t.op for t in c.targets}
        for i, op in enumerate(cell):
            if i in self.virtual or op.kind in ("full", "const"):
                continue
            if op.kind == "pre":
                self.place[i] = Place("P", "chunk", 0, op.lo, op.hi)
            elif op.kind == "ext":
                self.place[i] = Place(f"E{op.lo}", "chunk")
            elif op.kind == "param":
                self.place[i] = Place(self.weights[op.name], "param")
            elif op.kind == "shift":
                self.place[i] = self._shift_place(i, op)
            elif i in roots:
                self.place[i] = self.buffer(f"V{i}", "chunk", op.size, front=self.front, back=self.back)
            elif i in sums:
                self.place[i] = self.place[op.args[0]]
            elif op.kind == "stop":
                self.place[i] = self.place[op.args[0]]
            elif op.kind == "slice" and cell[op.args[0]].kind != "const" and op.args[0] in self.place:
                self.place[i] = self._sliced(op)
            elif op.kind in TABLE and TABLE[op.kind].inplace and self._free(op.args[0], readers):
                self.place[i] = self.place[op.args[0]]
            elif i in self.saved:
                self.place[i] = self.buffer(f"S{i}", "chunk", op.size)
            else:
                self.place[i] = self.buffer(f"M{i}", "temp", op.size)

    def _sliced(self, op: Op) -> Place:
        return self.place[op.args[0]].columns(op.lo, op.hi)

    def _free(self, at: int, readers: Mapping[int, int]) -> bool:
        """Whether a target's columns may be overwritten by the function of it."""
        sums = {t.op for t in self.c.targets}
        if at not in sums or at in self.saved or readers[at] != 1:
            return False
        return self.place[at].base == "P"

    def _shift_place(self, i: int, op: Op) -> Place:
        root = self.c.roots[op.name]
        if self.masked:
            return self.buffer(f"R{i}", "chunk", op.size)
        self.buffer(f"V{root}", "chunk", op.size, front=self.front, back=self.back)
        return Place(f"V{root}", "chunk", self.front + op.shift)

    def _emit_op(self, i: int, group: Sequence[int]) -> list[str]:
        op = self.ops[i]
        if op.kind == "shift":
            if not self.masked:
                return []
            root = self.c.roots[op.name]
            source = self.ref(Place(f"V{root}", "chunk", self.front + op.shift), self.mode)
            keep = self.ref(Place(f"K{abs(op.shift)}", "chunk"), self.mode)
            out = self.ref(self.place[i], self.mode)
            return [f"torch.where({keep}, {source}, U{root}, out={out})"]
        if op.kind in ("slice", "stop"):
            if self.place[i] == (self._sliced(op) if op.kind == "slice" else self.place[op.args[0]]):
                return []
            return [f"{self.ref(self.place[i], 'step')}.copy_({self._moved(op)})"]
        if len(group) > 1:
            p = self.place[i]
            lo = min(self.place[j].lo for j in group)
            hi = max(self.place[j].hi for j in group)
            out = self.ref(Place(p.base, p.mode, p.offset, lo, hi), self.mode)
            return pointwise(op, out, [out], True)
        skip: list[int] = []
        if i in {t.op for t in self.c.targets}:
            start = op.args[0]
            skip = [a for a in op.args if self.ops[a].kind == "full"] + [start]
            if self.place[i] != self.place[start]:
                lines = [f"{self.ref(self.place[i], self.mode)}.copy_({self.operand(start, self.mode)})"]
                return lines + self.statement(i, self.mode, skip)
        return self.statement(i, self.mode, skip)

    def _moved(self, op: Op) -> str:
        source = self.operand(op.args[0], self.mode)
        return f"{source}[..., {op.lo}:{op.hi}]" if op.kind == "slice" else source

    def _side_by_side(self, i: int, ready: Sequence[int]) -> list[int]:
        """Ops like i, ready too, whose columns touch: one call does them all."""
        op = self.ops[i]

        def joins(j: int) -> bool:
            other = self.ops[j]
            return (
                other.kind == op.kind
                and len(other.args) == 1
                and j in self.place
                and self.place[j] == self.place.get(other.args[0])
                and self.place[j].base == "P"
            )

        if op.kind not in TABLE or not TABLE[op.kind].inplace or not joins(i):
            return [i]
        group = {i}
        lo, hi = self.place[i].lo, self.place[i].hi
        grown = True
        while grown:
            grown = False
            for j in ready:
                if j not in group and joins(j) and (self.place[j].hi == lo or self.place[j].lo == hi):
                    group.add(j)
                    lo, hi = min(lo, self.place[j].lo), max(hi, self.place[j].hi)
                    grown = True
        return [j for j in ready if j in group]
