"""Generated Python for the backward loop of one component; see `source.py` for the names."""

from __future__ import annotations

from collections.abc import Sequence

from framework.cell import Op
from framework.runners.emit import Place, total
from framework.runners.source import Source
from framework.runners.source_backward_places import BackwardPlaces


class BackwardEmitter(BackwardPlaces):
    """Block by block of steps: what the loop needs prepared, the loop, what only depends on it."""

    def emit(self) -> Source:
        """The whole source."""
        d = self.d
        for i, op in enumerate(self.c.cell):
            if op.kind == "ext":
                self.place[i] = Place(f"E{op.lo}", "chunk")
            elif op.kind == "param":
                self.place[i] = Place(self.weights[op.name], "param")
            elif i in d.saved:
                self.place[i] = self.cell_places[i]
        in_g = self._gradient_columns()
        self._take_in_products(in_g)
        self._carries(in_g)
        self._places(in_g)
        before, step, after = self._section(d.before), self._loop_lines(), self._section(d.after)
        lines: list[str] = []
        if before or step or after:
            forward = self.c.direction > 0
            span = "range(t1 - 1, t0 - 1, -1)" if forward else "range(t0, t1)"
            starts = "range((T - 1) // K * K, -1, -K)" if forward else "range(0, T, K)"
            lines = [f"for t0 in {starts}:", "    t1 = min(T, t0 + K)", *(f"    {x}" for x in before)]
            if step:
                lines += [f"    for t in {span}:", *(f"        {x}" for x in step)]
            lines += [f"    {x}" for x in after]
        self.source.direct = self.direct
        return self.finish(lines)

    def _joined_line(self, g: int) -> str:
        """One product [B, 1, size] * [B, n, size] for n gradients."""
        _, x, n, size = self.joined[g]
        lo = self.place[g].lo
        factor = next(f for f in self.ops[g].args if f in self.before)
        out, prepared = f"G_{lo}_{n}x{size}_", f"{self.place[factor].base}_{n}x{size}_"
        shape = f".unflatten(2, ({n}, {size})).unbind(0)"
        self.views[out] = f"G[:, :, {lo}:{lo + n * size}]{shape}"
        self.views[prepared] = f"{self.place[factor].base}{shape}"
        one = f"{self.ref(self.place[x], 'step')}.unsqueeze(1)"
        if self.place[x].mode == "temp" and self.place[x].hi < 0:
            one = self._fixed(self.place[x].base, "_row", ".unsqueeze(1)")
        step = f"t{self.gfront:+d}" if self.gfront else "t"
        return f"torch.mul({one}, {prepared}[t - t0], out={out}[{step}])"

    # Statements ---------------------------------------------------------------------------------------

    def _section(self, ids: Sequence[int]) -> list[str]:
        """Ops outside the loop, for a block of steps at once."""
        lines: list[str] = []
        for i in ids:
            if i not in self.virtual:
                lines += self._compute(i, "block") if self.ops[i].kind != "grad" else []
                lines += self._copy_lines(i, "block")
        return lines

    def _copy_lines(self, i: int, mode: str) -> list[str]:
        """Further columns of G that hold the same gradient. At once: a product of this step may read them."""
        places = [self._columns(lo, hi) for g, lo, hi in self.copies if g == i]
        return [f"{self.ref(p, mode)}.copy_({self.operand(i, mode)})" for p in places]

    def _compute(self, i: int, mode: str) -> list[str]:
        op = self.ops[i]
        if op.kind == "slice":
            if self.place[i] == self._sliced(i):
                return []
            source = self.operand(op.args[0], mode)
            return [f"{self.ref(self.place[i], mode)}.copy_({source}[..., {op.lo}:{op.hi}])"]
        return self.statement(i, mode)

    def _loop_lines(self) -> list[str]:
        lines: list[str] = []
        joined: set[int] = set()
        for i in self.d.loop:
            op = self.ops[i]
            if i in self.virtual:
                continue
            if op.kind == "grad":
                pass
            elif op.kind == "back":
                lines += self._sum_into(self.ref(self.place[i], "step"), [(i, 1.0)], 0.0, ())
            elif i in self.joined:
                first = self.joined[i][0]
                if first not in joined:
                    joined.add(first)
                    lines.append(self._joined_line(first))
            elif op.kind == "sum":
                terms = list(zip(op.args, op.coefs, strict=True))
                out = self.ref(self.place[i], "step")
                lines += self._sum_into(out, terms, op.value, self.run_terms.get(i, ()))
            else:
                lines += self._compute(i, "step")
            lines += self._copy_lines(i, "step")
        return lines + self._sends()

    def _sum_into(
        self, out: str, terms: Sequence[tuple[int, float]], const: float, runs: Sequence[int]
    ) -> list[str]:
        """A sum whose terms may be reads of carried adjoints, or products of G with recurrent weights."""
        products = [(k, 0) for k in runs]
        width = max(self.ops[a].size for a, _ in terms)
        rest: list[tuple[tuple[str, ...], float]] = []
        bases: list[int] = []
        for a, coef in self.widest_first(terms):
            op = self.ops[a]
            if op.kind == "back" and (a in self.virtual or len(terms) == 1):
                products += [(k, op.shift) for k in self.direct[op.lo]]
                if self.carried[op.lo]:
                    rest.append((self._received(op), coef))
            elif op.kind == "full_t" and a in self.virtual:
                continue  # in `runs`
            else:
                factors = self.factors(a, "step")
                if len(factors) == 1 and coef == 1.0 and op.size == width:
                    bases.append(len(rest))
                rest.append((factors, coef))
        lines: list[str] = []
        started = False
        if products and bases:
            (base,), _ = rest.pop(bases[0])
            k, offset = products.pop(0)
            lines.append(f"base{k}({base}, {self._g(k, offset)}, {out})")
            started = True
        elif products and not rest:
            k, offset = products.pop(0)
            lines.append(f"mm{k}({self._g(k, offset)}, {out})")
            started = True
        size = max((self.ops[a].size for a, _ in terms), default=1)
        if rest and not started and not all(self.is_whole(a, size) for a, _ in terms):
            lines.append(f"{out}.zero_()")
            started = True
        lines += total(out, rest, const, started)
        lines += [f"back{k}({out}, {self._g(k, offset)})" for k, offset in products]
        return lines

    def _g(self, k: int, offset: int) -> str:
        run = self.c.runs[k]
        return self.ref(self._columns(run.lo, run.hi), "step", offset)

    def _carry_place(self, shift: int) -> Place:
        if self.masked:
            return Place(f"C{shift}", "chunk", self.gfront)
        return Place(f"C{shift}", "ring", slots=abs(self.ops[shift].shift))

    def _received(self, op: Op) -> tuple[str, ...]:
        """A carried adjoint as factors of a term: with masks, times whether the read crossed no reset."""
        place = self._carry_place(op.lo)
        if self.masked:
            keep = Place(f"L{abs(op.shift)}", "chunk", self.gfront)
            return self.ref(place, "step", op.shift), self.ref(keep, "step", op.shift)
        return (self.ref(place, "step"),)

    def _sends(self) -> list[str]:
        """End of a step: what earlier steps will receive."""
        lines: list[str] = []
        for shift, terms in self.carried.items():
            if not terms:
                continue
            out = self.ref(self._carry_place(shift), "step")
            (g, _), *more = terms
            if not more and g in self.virtual and g == self.d.shifts[shift]:
                op = self.ops[g]
                if op.kind == "sum":
                    inner = list(zip(op.args, op.coefs, strict=True))
                    lines += self._sum_into(out, inner, op.value, self.run_terms.get(g, ()))
                else:
                    lines += self.statement(g, "step", out=out)
            else:
                whole = all(self.is_whole(a, self.ops[shift].size) for a, _ in terms)
                lines += [] if whole else [f"{out}.zero_()"]
                lines += total(out, [(self.factors(a, "step"), x) for a, x in terms], 0.0, not whole)
        return lines
