"""The source of a plan as plain torch; see plain.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from framework.component import Component
from framework.component import Run as Product
from framework.errors import ConfigError
from framework.plain_values import Values, total
from framework.plan import Plan
from framework.steps import Addend, Linear, Loop

HEAD = "linear = torch.nn.functional.linear\n"
SCAN = "from torch._higher_order_ops.scan import scan\n"
EAGER = "from framework.plain import eager_scan as scan\n"
VIEWS = ("input", "index", "copy", "expand", "stop", "slice", "shift")


class Writer:
    """Source of a plan. whole: for sequences [T, B, size]; else for one step [B, size]. eager: loops of
    sequences are loops of Python, as one writes them without a planner.

    Raises ConfigError where one step is asked for of a network that reads later ones.
    """

    def __init__(self, plan: Plan, whole: bool, eager: bool = False):
        self.plan, self.whole, self.eager = plan, whole, eager
        self.packs: dict[str, None] = {}  # those that are read, in order
        self.pack_of = {name: p.name for p in plan.packs.values() for name, _, _ in p.members}
        self.states = {name: f"h{i}" for i, name in enumerate(plan.history)}
        self.v = Values(plan.ops, "v", "lead", self.weight)
        self.lines = self.v.lines

    def weight(self, name: str) -> str:
        """The tensor of a weight that stands alone in its pack."""
        return self.pack(self.pack_of[name])

    def pack(self, name: str) -> str:
        """The tensor of a pack."""
        self.packs[name] = None
        return name

    def text(self) -> str:
        """The whole source."""
        plan, v = self.plan, self.v
        for i, name in enumerate(plan.graph.inputs):
            v.bind(plan.roots[name], f"x{i}")
        for k, step in enumerate(plan.steps):
            if isinstance(step, Linear):
                self.linear(k, step)
            elif isinstance(step, Loop):
                self.loop(k, step)
            else:
                self.map(step.op)
        outputs = [f"{shown!r}: {v.wide(plan.roots[n])}" for shown, n in plan.graph.outputs.items()]
        after = [f"{name!r}: {self.after(name)}" for name in plan.history]
        starts = [f"x{i} = x[{name!r}]" for i, name in enumerate(plan.graph.inputs)]
        starts += [f"{h} = h[{name!r}]" for name, h in self.states.items()]
        starts += [f"{name} = w[{name!r}]" for name in self.packs]
        starts.append(f"lead = x0.shape[:{2 if self.whole else 1}]")
        body = [*starts, *self.lines, f"return {{{', '.join(outputs)}}}, {{{', '.join(after)}}}"]
        scan = (EAGER if self.eager else SCAN) if any("scan(" in line for line in self.lines) else ""
        return f"{scan}{HEAD}\ndef run(w, x, h, like):\n" + "".join(f"    {line}\n" for line in body)

    def after(self, name: str) -> str:
        """The last values of a node or input."""
        h, depth, now = self.states[name], self.plan.history[name], self.v.wide(self.plan.roots[name])
        if self.whole:
            return f"torch.cat([{h}, {now}])[-{depth}:]"
        new = f"{now}.unsqueeze(0)"
        if depth > 1:
            return f"torch.cat([{h}[1:], {new}])"
        return f"{new}.clone()" if self.shared(self.plan.roots[name]) else new

    def shared(self, at: int) -> bool:
        """Whether a value may lie in the memory of an input or output, which its owner may overwrite."""
        ops, outputs = self.plan.ops, [self.plan.roots[n] for n in self.plan.graph.outputs.values()]
        return at in outputs or any(ops[i].kind in VIEWS for i in (at, *outputs))

    # Outside of loops -----------------------------------------------------------------------------------

    def map(self, at: int) -> None:
        """A hoisted op other than a sum of products."""
        op = self.plan.ops[at]
        if op.kind in ("input", "index", "random"):
            return
        if op.kind != "shift":
            self.v.apply(at)
        elif not self.whole:
            self.v.put(at, self.read(at))
        elif op.shift < 0:
            h, depth = self.states[op.name], self.plan.history[op.name]
            now = self.v.wide(self.plan.roots[op.name])
            self.v.put(at, f"torch.cat([{h}[{depth + op.shift}:], {now}])[: lead[0]]")
        else:
            now, first = self.v.wide(self.plan.roots[op.name]), self.initial(op.name)
            self.v.put(at, f"torch.cat([{now}, {first}.expand({op.shift}, *{now}.shape[1:])])[{op.shift} :]")

    def read(self, at: int) -> str:
        """A node or input at an earlier step, from the state. Raises ConfigError for a later one."""
        op = self.plan.ops[at]
        if op.shift > 0:
            self.refuse(at)
        return f"{self.states[op.name]}[{self.plan.history[op.name] + op.shift}]"

    def refuse(self, at: int) -> None:
        """Raises ConfigError for an op that reads a later step."""
        op, reader = self.plan.ops[at], self.plan.owner[at] or "a node"
        raise ConfigError(
            "step", f"'{reader}' reads '{op.name}[t+{op.shift}]', which is not there yet in a stream",
            "Run whole sequences, or read earlier steps only.",
        )  # fmt: skip

    def initial(self, name: str) -> str:
        """What a node or input holds outside of the sequence."""
        if name in self.plan.graph.inputs:
            return f"{self.v.names[self.plan.roots[name]]}.new_full((), {self.outside(name)})"
        node = self.plan.graph.nodes[name]
        if node.init == "learned":
            return self.weight(f"{name}:init")
        return f"like.new_full(({node.size},), {float(node.init)!r})"

    def outside(self, name: str) -> int:
        """Of an input: no word, or zeros."""
        return 0 if self.plan.graph.inputs[name].vocab is None else -1

    def linear(self, k: int, step: Linear) -> None:
        """A buffer of sums: pieces of columns, each the sum of what is added there."""
        parts = self.addends(k, step)
        cuts = sorted({0, step.width, *(x for _, lo, hi, _ in parts for x in (lo, hi)),
                       *(x for lo, hi, _ in step.const for x in (lo, hi))})  # fmt: skip
        pieces = []
        for lo, hi in pairwise(cuts):
            here = [(name, a, b, flat) for name, a, b, flat in parts if a <= lo and hi <= b]
            terms = [n if (a, b) == (lo, hi) else f"{n}[..., {lo - a} : {hi - a}]" for n, a, b, _ in here]
            terms += [repr(value) for a, b, value in step.const if a <= lo and hi <= b]
            text = " + ".join(terms) if here else f"like.new_full(({hi - lo},), {'+'.join(terms) or 0.0})"
            wide = not all(flat for *_, flat in here)
            pieces.append(f"({text})" if wide else f"({text}).expand(*lead, {hi - lo})")
        joined = pieces[0] if len(pieces) == 1 else f"torch.cat([{', '.join(pieces)}], -1)"
        self.lines.append(f"p{k} = {joined}")
        for at, (lo, hi) in step.columns.items():
            self.v.put(at, f"p{k}" if (lo, hi) == (0, step.width) else f"p{k}[..., {lo}:{hi}]")

    def addends(self, k: int, step: Linear) -> list[tuple[str, int, int, bool]]:
        """(name, first and last column, whether it is flat) of what is added up; statements that make it."""
        biases = [a for a in step.addends if a.kind == "bias"]
        out: list[tuple[str, int, int, bool]] = []

        def put(a: Addend, text: str, flat: bool) -> None:
            name = f"a{k}_{len(out)}"
            self.lines.append(f"{name} = {text}{'' if a.coef == 1.0 else f' * {a.coef!r}'}")
            out.append((name, a.lo, a.hi, flat))

        for a in step.addends:
            if a.kind == "full":
                same = [b for b in biases if (b.lo, b.hi, b.coef, a.coef) == (a.lo, a.hi, 1.0, 1.0)][:1]
                bias = "".join(f", {self.pack(b.pack)}" for b in same)
                biases = [b for b in biases if b not in same]
                put(a, f"linear({self.v.wide(a.source)}, {self.pack(a.pack)}{bias})", False)
            elif a.kind == "gather":
                put(a, f"gather({self.v.get(a.source)}, {self.pack(a.pack)})", False)
            elif a.kind == "value":
                name, flat = self.v.tensor(a.source), a.source in self.v.flat
                narrow = self.plan.ops[a.source].size != a.hi - a.lo
                text = f"{name}.expand(*{name}.shape[:-1], {a.hi - a.lo})" if narrow else name
                put(a, f"({text})", flat)
        for b in biases:
            put(b, self.pack(b.pack), True)
        return out

    # Loops ----------------------------------------------------------------------------------------------

    def loop(self, k: int, step: Loop) -> None:
        """A loop: one step of it in place, or a scan."""
        c = self.plan.components[step.component]
        if self.whole:
            self.scan(k, step, c)
            return
        if c.direction < 0:
            self.refuse(next(i for i in sorted(c.members) if self.plan.ops[i].kind == "shift"))
        cell = Values(c.cell, f"c{k}_", "lead", self.weight)
        for i, op in enumerate(c.cell):
            if op.kind == "ext":
                cell.take(i, self.v, c.ext[op.lo])
            elif op.kind == "shift":
                cell.put(i, f"{self.states[op.name]}[{self.plan.history[op.name] + op.shift}]")
        self.cell(cell, c, f"p{step.pre}")
        self.lines += cell.lines
        for at, local in c.outputs:
            self.v.take(at, cell, local)

    def scan(self, k: int, step: Loop, c: Component) -> None:
        """A loop over all steps: values carried are the last ones of its nodes, the newest first."""
        fed = [f"p{step.pre}"] * bool(c.targets) + [self.v.wide(a) for a in c.ext]
        cell = Values(c.cell, f"c{k}_", f"lead{k}", self.weight)
        fed = fed or ["like.new_zeros(*lead, 1)"]  # a scan needs something to go over
        names = [f"e{k}_{i}" for i in range(len(fed))]
        carried = {node: [f"s{k}_{n}_{j}" for j in range(d)] for n, (node, d) in enumerate(c.states.items())}
        for i, op in enumerate(c.cell):
            if op.kind == "ext":
                cell.bind(i, names[bool(c.targets) + op.lo])
            elif op.kind == "shift":
                cell.bind(i, carried[op.name][abs(op.shift) - 1])
        self.cell(cell, c, names[0])
        # What torch's scan takes in, carries and gives may share no memory.
        own = "" if self.eager else ".clone()"
        starts, new = [], []
        for node, held in carried.items():
            h, depth = self.states.get(node, ""), self.plan.history.get(node, 0)
            for j in range(len(held)):
                if c.direction > 0:
                    starts.append(f"{h}[{depth - 1 - j}]{own}")
                else:
                    size = self.plan.graph.nodes[node].size
                    starts.append(f"{self.initial(node)}.expand(lead[1], {size}){own}")
            new += [f"{x}{own}" for x in (cell.wide(c.roots[node]), *held[:-1])]
        outs = [f"{cell.wide(local)}{own}" for _, local in c.outputs]
        flat = [name for held in carried.values() for name in held]
        self.lines += [
            f"def body{k}(carry, given):",
            *(f"    {line}" for line in (
                f"{_tuple(flat)} = carry", f"{_tuple(names)} = given", f"lead{k} = {names[0]}.shape[:1]",
                *cell.lines, f"return {_tuple(new)}, {_tuple(outs)}",
            )),
            f"_, y{k} = scan(body{k}, {_tuple(starts)}, {_tuple(fed)}, reverse={c.direction < 0})",
        ]  # fmt: skip
        for n, (at, _) in enumerate(c.outputs):
            self.v.bind(at, f"y{k}[{n}]")

    def cell(self, cell: Values, c: Component, pre: str) -> None:
        """The statements of a cell, whose `ext` and `shift` are bound. pre: its hoisted buffer."""
        fulls: dict[int, list[int]] = {}  # sum -> its products
        for t in c.targets:
            fulls[t.op] = [a for a in c.cell[t.op].args if c.cell[a].kind == "full"]
        run_of = {name: (n, run) for n, run in enumerate(c.runs) for name, _, _ in run.weights}
        place = {t.op: t for t in c.targets}
        product: dict[str, str] = {}  # weight -> its part of a product
        begun: set[str] = set()  # weights whose part holds the hoisted columns, too
        for i, op in enumerate(c.cell):
            if op.kind in ("ext", "shift", "pre", "full", "const", "param"):
                continue
            if i not in place:
                cell.apply(i)
                continue
            terms = []
            for a in fulls[i]:
                number, run = run_of[c.cell[a].name]
                if c.cell[a].name not in product:
                    alone = all(len(fulls[t]) == 1 for t in place if self._in(c, t, run))
                    self.product(cell, c, number, run, pre if alone else "", product)
                    begun |= {name for name, _, _ in run.weights} if alone else set()
                terms.append(product[c.cell[a].name])
            if not any(c.cell[a].name in begun for a in fulls[i]):
                t = place[i]
                terms.insert(0, pre if (t.lo, t.hi) == (0, c.width) else f"{pre}[..., {t.lo} : {t.hi}]")
            rest = [(a, x) for a, x in zip(op.args, op.coefs, strict=True)
                    if c.cell[a].kind not in ("pre", "full")]  # fmt: skip
            names = [*terms, *(cell.get(a) for a, _ in rest)]
            coefs = (*[1.0] * len(terms), *(x for _, x in rest))
            cell.put(i, total(names, op._replace(coefs=coefs)))

    def _in(self, c: Component, target: int, run: Product) -> bool:
        """Whether a product of a sum is part of a run."""
        own = {name for name, _, _ in run.weights}
        return any(c.cell[a].kind == "full" and c.cell[a].name in own for a in c.cell[target].args)

    def product(
        self, cell: Values, c: Component, number: int, run: Product, pre: str, product: dict[str, str]
    ) -> None:
        """One product over adjacent targets; on top of their hoisted columns where `pre` is given."""
        pack = next(p for p in self.plan.packs.values() if p.members == run.weights)
        source, weight, name = cell.wide(run.source), self.pack(pack.name), f"{cell.prefix}m{number}"
        if pre:
            columns = pre if (run.lo, run.hi) == (0, c.width) else f"{pre}[..., {run.lo} : {run.hi}]"
            cell.lines.append(f"{name} = torch.addmm({columns}, {source}, {weight}.t())")
        else:
            cell.lines.append(f"{name} = linear({source}, {weight})")
        parts = [f"{name}_{i}" for i in range(len(run.weights))] if len(run.weights) > 1 else [name]
        if len(parts) > 1:
            sizes = [hi - lo for _, lo, hi in run.weights]
            cell.lines.append(f"{', '.join(parts)} = torch.split({name}, {sizes}, -1)")
        product.update((w, part) for (w, _, _), part in zip(run.weights, parts, strict=True))


def _tuple(names: Sequence[str]) -> str:
    return f"({', '.join(names)}{',' * bool(names)})"
