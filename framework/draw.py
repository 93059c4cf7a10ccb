"""A plan as a picture, in the language of graphviz: loops as boxes, hoisted work in a colour of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from framework.errors import ConfigError
from framework.expr import Expr
from framework.plan_names import join_terms
from framework.plan_text import loop_facts, product_cost
from framework.steps import Linear, Map

if TYPE_CHECKING:
    from framework.component import Component
    from framework.plan import Plan

Colour = tuple[str, str]  # fill, border
INPUT = ("#eceff1", "#546e7a")
HOISTED = ("#dceaf7", "#2f6da8")
PRODUCT = ("#b3d1ee", "#2f6da8")
LOOP = ("#fde3cb", "#c4610b")
LOOP_PRODUCT = ("#f7b774", "#c4610b")
OUTPUT = "#2e7d32"
CLUSTER = ("#fff8f1", "#e0a468")
GREY = "#78909c"
SECONDS = 120  # dot is given up after; for thousands of nodes it needs far longer than planning them
# What stands under a node's name, where the outermost operation has no name of its own.
FORMS = {
    "add": "sum", "sub": "sum", "mul": "product", "div": "quotient", "neg": "minus", "ref": "copy",
    "num": "number",
}  # fmt: skip


def dot_text(plan: Plan) -> str:
    """The graph in graphviz's language: live nodes, a box for each matrix product, a frame for each loop."""
    return _Picture(plan).text()


def render(text: str, path: Path, form: str) -> None:
    """Draw `text` into `path`; `form`: svg or png. Raises ConfigError when that cannot be done."""
    place = f"--{form}"
    if shutil.which("dot") is None:
        raise ConfigError(
            place,
            "the program 'dot' of graphviz is not installed",
            "Install it: apt-get install graphviz (brew install graphviz on a Mac).",
        )
    try:
        done = subprocess.run(["dot", f"-T{form}"], input=text.encode(), capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise ConfigError(place, f"dot is not done after {SECONDS} s", "Draw a smaller graph.") from None
    if done.returncode:
        raise ConfigError(place, f"dot failed: {' '.join(done.stderr.decode().split())}")
    try:
        path.write_bytes(done.stdout)
    except OSError as error:
        raise ConfigError(place, f"cannot write {path}: {error.strerror}", "Give another file.") from error


@dataclass(frozen=True, slots=True)
class _Product:
    """A box: a matrix product of one source for some nodes. `loop`: its component, -1 when hoisted."""

    id: str
    title: str
    size: str
    nodes: tuple[str, ...]
    loop: int


@dataclass(slots=True)
class _Picture:
    """Lives only during dot_text."""

    plan: Plan
    products: list[_Product] = field(default_factory=list)
    of_weight: dict[str, _Product] = field(default_factory=dict)
    edges: dict[tuple[str, str, int], None] = field(default_factory=dict)  # from, to, shift
    home: dict[str, int] = field(default_factory=dict)  # node or product in a loop -> its component
    lines: list[str] = field(default_factory=list)

    def text(self) -> str:
        plan = self.plan
        self.home = {n: k for k, c in enumerate(plan.components) for n in c.nodes}
        self._hoisted_products()
        for k, c in enumerate(plan.components):
            self._loop_products(k, c)
        live = [n for n in plan.graph.nodes if n in plan.roots]
        for name in live:
            self._reads(plan.graph.nodes[name].expr, name)
        for name, source in plan.graph.inputs.items():
            what = f"input, {source.size}" if source.vocab is None else f"input, indices of {source.vocab}"
            self._box("  ", name, name, what, INPUT, "filled")
        for p in self.products:
            if p.loop < 0:
                self._box("  ", p.id, p.title, p.size, PRODUCT, "filled")
        for name in live:
            if name not in self.home:
                self._node("  ", name, name, HOISTED)
        for k, c in enumerate(plan.components):
            self._loop(k, c)
        for start, end, shift in self.edges:
            self._edge(start, end, shift)
        self._stack()
        return "\n".join([*_HEAD, *self._legend(), *self.lines, "}"]) + "\n"

    # Products -----------------------------------------------------------------------------------------

    def _hoisted_products(self) -> None:
        plan = self.plan
        for step in plan.steps:
            if isinstance(step, Linear):
                for a in step.addends:
                    if a.kind in ("full", "gather"):
                        pack = plan.packs[a.pack]
                        self._product([m[0] for m in pack.members], product_cost(pack), -1)
            elif isinstance(step, Map) and plan.ops[step.op].kind == "block":
                op = plan.ops[step.op]
                cols = plan.ops[op.args[0]].size
                self._product([op.name], f"[T*B, {cols}] in {op.blocks} blocks", -1)

    def _loop_products(self, k: int, c: Component) -> None:
        for run in c.runs:
            cols = c.cell[run.source].size
            self._product([w[0] for w in run.weights], f"[B, {cols}] x [{cols}, {run.hi - run.lo}]", k)
        for op in c.cell:
            if op.kind == "block":
                self._product([op.name], f"[B, {c.cell[op.args[0]].size}] in {op.blocks} blocks", k)
            elif op.kind == "gather":
                vocab = self.plan.graph.weights[op.name].shape[1]
                self._product([op.name], f"rows of [{vocab}, {op.size}]", k)

    def _product(self, weights: Sequence[str], size: str, loop: int) -> None:
        nodes = tuple(dict.fromkeys(w.split(":", 1)[0] for w in weights))
        p = _Product(f"product {len(self.products)}", join_terms(weights), size, nodes, loop)
        self.products.append(p)
        self.of_weight.update(dict.fromkeys(weights, p))
        if loop >= 0:
            self.home[p.id] = loop

    # Edges --------------------------------------------------------------------------------------------

    def _reads(self, e: Expr, end: str) -> None:
        """Edges into `end` from all that `e` reads; a matrix product stands between as its box."""
        todo = [(e, end)]
        while todo:
            x, to = todo.pop()
            product = self.of_weight.get(x.weights[0]) if x.weights else None
            if x.op == "ref":
                self.edges[(x.name, to, x.shift)] = None
            elif product is not None and x.op in ("full", "block"):
                self.edges[(product.id, to, 0)] = None
                todo += [(a, product.id) for a in reversed(x.args)]
            else:
                todo += [(a, to) for a in reversed(x.args)]

    def _edge(self, start: str, end: str, shift: int) -> None:
        style = []
        inside = self.home.get(start, -1) == self.home.get(end, -2)
        if shift:
            # An arrow against the flow would turn the picture of its loop round.
            back = " constraint=false" if inside else ""
            style.append(f'style=dashed label="t{shift:+d}"{back}')
        if inside:
            style.append(f'color="{LOOP[1]}"')
        elif start.startswith("product "):
            style.append(f'color="{HOISTED[1]}"')
        self.lines.append(f"  {_id(start)} -> {_id(end)}" + (f" [{' '.join(style)}]" if style else ""))

    def _stack(self) -> None:
        """Unseen arrows that put what is hoisted for a loop below the loop's products, not beside them."""
        for start, end in dict.fromkeys((start, self.home.get(end, -1)) for start, end, _ in self.edges):
            if end >= 0 and start not in self.home:
                for p in self.products:
                    if p.loop == end:
                        self.lines.append(f"  {_id(start)} -> {_id(p.id)} [style=invis]")

    # Boxes --------------------------------------------------------------------------------------------

    def _box(self, indent: str, at: str, title: str, below: str, colour: Colour, style: str) -> None:
        label = f'<B>{escape(title)}</B><BR/><FONT POINT-SIZE="9" COLOR="#455a64">{escape(below)}</FONT>'
        more = f'style="{style}" fillcolor="{colour[0]}" color="{colour[1]}"'
        if at in self.plan.graph.outputs.values():
            more = f'style="{style}" peripheries=2 fillcolor="{colour[0]}" color="{OUTPUT}"'
        self.lines.append(f"{indent}{_id(at)} [{more} label=<{label}>]")

    def _node(self, indent: str, name: str, title: str, colour: Colour) -> None:
        """A node of the graph: its name, the outermost operation of its formula and its size."""
        node = self.plan.graph.nodes[name]
        form = FORMS.get(node.expr.op, node.expr.op)
        self._box(indent, name, title, f"{form}, {node.size}", colour, "rounded,filled")

    def _loop(self, k: int, c: Component) -> None:
        """The frame of a loop, with one inside for each cell when it runs through several."""
        facts = f'<B>loop {escape(c.name)}</B><BR ALIGN="LEFT"/>{escape(loop_facts(c))}<BR ALIGN="LEFT"/>'
        heads = {n: n.split("/")[0] if "/" in n else "" for n in c.nodes}
        apart = len(set(heads.values())) > 1
        inner: dict[str, list[str]] = {}
        for n in c.nodes:
            inner.setdefault(heads[n] if apart else "", []).append(n)
        products = {p.id: p for p in self.products if p.loop == k}
        for p in products.values():
            over = {heads.get(n, "") for n in p.nodes}
            inner.setdefault(over.pop() if apart and len(over) == 1 else "", []).append(p.id)
        self._open("  ", f"loop {k}", facts, CLUSTER)
        for head, members in inner.items():
            indent = "      " if head else "    "
            if head:
                title = f'{escape(head)}<BR ALIGN="LEFT"/>'
                self._open("    ", f"loop {k} {head}", title, ("none", CLUSTER[1]))
            for at in members:
                if at in products:
                    p = products[at]
                    self._box(indent, at, p.title, p.size, LOOP_PRODUCT, "filled")
                else:
                    self._node(indent, at, at.removeprefix(f"{head or c.name}/"), LOOP)
            if head:
                self.lines.append("    }")
        self.lines.append("  }")

    def _open(self, indent: str, at: str, title: str, colour: Colour) -> None:
        self.lines.append(f"{indent}subgraph {_id('cluster ' + at)} {{")
        style = "rounded" if colour[0] == "none" else "rounded,filled"
        self.lines.append(
            f'{indent}  graph [label=<{title}> labeljust=l labelloc=b style="{style}" '
            f'fillcolor="{colour[0]}" color="{colour[1]}" fontcolor="{LOOP[1]}" margin=10]'
        )


    def _legend(self) -> list[str]:
        """What colours and lines mean, as one table."""
        rows: list[tuple[str, str, str]] = [(*INPUT, "input")]
        if any(p.loop < 0 for p in self.products):
            rows.append((*PRODUCT, "matrix product for all steps at once (hoisted)"))
        if any(n not in self.home for n in self.plan.roots if n in self.plan.graph.nodes):
            rows.append((*HOISTED, "other work for all steps at once"))
        if any(p.loop >= 0 for p in self.products):
            rows.append((*LOOP_PRODUCT, "matrix product in a loop, step by step"))
        if self.home:
            rows.append((*LOOP, "other work in a loop"))
        rows.append(("#ffffff", OUTPUT, "output (double border)"))
        cells = [
            f'<TR><TD BGCOLOR="{fill}" COLOR="{border}" BORDER="1" WIDTH="22"></TD>'
            f'<TD ALIGN="LEFT">{text}</TD></TR>'
            for fill, border, text in rows
        ]
        if any(shift for _, _, shift in self.edges):
            dashes = f'<FONT COLOR="{LOOP[1]}">- - -</FONT>'
            text = "an earlier (t-1) or a later (t+1) step"
            cells.append(f'<TR><TD>{dashes}</TD><TD ALIGN="LEFT">{text}</TD></TR>')
        table = f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="3" CELLPADDING="1">{"".join(cells)}</TABLE>'
        return [f'  "the legend" [style=rounded color="#b0bec5" fontsize=9 label=<{table}>]']


_HEAD = (
    "digraph plan {",
    '  graph [rankdir=BT fontname="Helvetica" fontsize=10 ranksep=0.4 nodesep=0.25]',
    '  node [shape=box fontname="Helvetica" fontsize=11 height=0.3 margin="0.10,0.05" penwidth=1.2]',
    f'  edge [fontname="Helvetica" fontsize=9 arrowsize=0.6 color="{GREY}" fontcolor="{LOOP[1]}"]',
)


def _id(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
