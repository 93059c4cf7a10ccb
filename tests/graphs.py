"""Random graphs for tests, in the YAML form, every one legal and bounded; and random batches for them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from framework.graph import Graph
from tests.oracle import refs

# {0} is a random argument of a size of about 1. Every pointwise function is here in a form whose value stays
# bounded and whose derivative stays away from poles, so that comparisons in float64 mean something.
BOUNDED = (
    "sigmoid({0})",
    "tanh({0})",
    "sin({0})",
    "cos({0})",
    "hard_sigmoid({0})",
    "hard_tanh({0})",
    "tanh(relu({0}))",
    "tanh(softplus({0}))",
    "tanh(silu({0}))",
    "tanh(gelu({0}))",
    "tanh(elu({0}))",
    "exp(tanh({0})) / 3",
    "log(softplus({0}) + 0.5) / 2",
    "log1p(square(tanh({0})))",
    "tanh(abs({0}))",
    "sqrt(square(sin({0})) + 0.3)",
    "square(tanh({0})) - 0.2",
    "reciprocal(1.5 + tanh({0}))",
    "0.3 * sign({0}) + tanh({0})",
    "-tanh({0})",
    "1 - sigmoid({0})",
    "tanh(norm({0}))",
    "softmax({0})",
    "minimum(tanh({0}), 0.9)",
    "stop(tanh({0})) + 0.5 * tanh({0})",
)
BOUNDED_TWO = (
    "minimum(tanh({0}), sin({1}))",
    "maximum(sigmoid({0}), tanh({1}))",
    "tanh({0}) * sigmoid({1})",
    "tanh({0}) / (1 + softplus({1}))",
    "sigmoid({0}) - hard_tanh({1})",
    "tanh(({0}) * ({1}))",
    "softmax(norm({0}) + {1})",
    "maximum(tanh({0}), -0.8) * square(cos({1}))",
)


@dataclass
class Source:
    """Something to read: its name as an expression writes it, and its size (None: an index input)."""

    name: str
    size: int | None


@dataclass
class Maker:
    """Draws one graph. `pick` is the only source of chance."""

    pick: random.Random
    nodes: dict[str, Any] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)  # what later blocks may read, at any shift
    cells: dict[str, Any] = field(default_factory=dict)
    look_ahead: bool = False
    noise: bool = False

    def chance(self, p: float) -> bool:
        return self.pick.random() < p

    def shifted(self, name: str, shift: int) -> str:
        """`name` read at t + shift."""
        return name if shift == 0 else f"{name}[t{shift:+d}]"

    def outer(self, source: Source) -> str:
        """A source of an earlier block at a random shift: delays, and look-ahead in some graphs only."""
        shifts = [0, 0, 0, -1, -2, -3] + ([1, 2] if self.look_ahead else [])
        return self.shifted(source.name, self.pick.choice(shifts))

    def term(self, size: int, reads: list[tuple[str, int | None]]) -> str:
        """One term of a node of `size` over one of `reads`: (text, its size or None for indices)."""
        text, width = self.pick.choice(reads)
        if width is None:
            return f"full({text})"
        forms = [f"full({text})"] * 4
        if width == size:
            forms += [f"diag({text})", text, f"norm({text})", f"stop({text})", f"0.5 * {text}"]
            forms += [f"block({text}, {size})"]
            if self.noise:
                forms.append(f"dropout({text}, 0.3)")
        if width > size:
            lo = self.pick.randrange(width - size + 1)
            forms += [f"{text}[{lo}:{lo + size}]", f"diag({text}[{lo}:{lo + size}])"]
        if width > 1 and self.chance(0.3):
            forms += [f"full({text}[1:])", f"full({text}[:{width - 1}])"]
        if size % 2 == 0 and width % 2 == 0:
            forms.append(f"block({text}, 2)")
        if width == 1:
            forms += [text, f"0.7 * {text}"]
        same = [r for r, w in reads if w == width or w == 1]
        other = self.pick.choice(same)
        forms += [f"full({text} * {other})", f"full(sigmoid({text}) * {other})"]
        if width == size:
            forms.append(f"{text} * {other}")
        joined, more = self.pick.choice(reads)
        if more is not None:
            forms.append(f"full(concat({text}, {joined}))")
        return self.pick.choice(forms)

    def body(self, size: int, reads: list[tuple[str, int | None]], must: str | None = None) -> str:
        """The bounded expression of one node; it reads the text `must` (through a full) if one is given."""

        def total(first: str | None) -> str:
            terms = [first] if first else []
            terms += [self.term(size, reads) for _ in range(self.pick.randint(0 if first else 1, 2))]
            if self.chance(0.6):
                terms.append(self.pick.choice(["bias", "bias", "bias(0.5)"]))
            self.pick.shuffle(terms)
            return " + ".join(terms)

        first = must and self.pick.choice([f"full({must})", f"full({must})", f"full(0.5 * {must})"])
        if self.chance(0.25):
            text = self.pick.choice(BOUNDED_TWO).format(total(first), total(None))
        else:
            text = self.pick.choice(BOUNDED).format(total(first))
        return self.wide(text, size)

    def wide(self, text: str, size: int) -> str:
        """Sometimes gate a node's expression by a size-1 node, which broadcasts."""
        gates = [s for s in self.sources if s.size == 1]
        return f"{self.pick.choice(gates).name} * ({text})" if gates and self.chance(0.2) else text

    def entry(self, size: int, text: str) -> dict[str, Any]:
        """A node with its size, and now and then an initial value other than 0."""
        made: dict[str, Any] = {"size": size, "is": text}
        if self.chance(0.3):
            made["init"] = self.pick.choice(["learned", "learned", 0.4, -1])
        return made

    def pointwise(self, name: str) -> None:
        """A node outside of every loop."""
        size = self.pick.randint(1, 5)
        reads = [(self.outer(s), s.size) for s in self.sources]
        text = self.body(size, reads)
        plain = [read for read in reads if read[1] is not None]
        if plain and self.chance(0.2):  # a copy of another name, at another step perhaps
            text, copied = self.pick.choice(plain)
            size = copied or 1
        narrow = [read for read, width in plain if width == 1]
        if narrow and self.chance(0.2):  # one number for all units
            text = f"sin({self.pick.choice(narrow)})"
        self.nodes[name] = self.entry(size, text)
        self.sources.append(Source(name, size))

    def loop(
        self,
        names: list[str],
        sizes: list[int],
        outside: list[tuple[str, int | None]],
        sign: int,
        delays: list[int],
    ) -> dict[str, str]:
        """The expressions of a ring of nodes: each reads the one before it, the first the last one, shifted.

        Besides, each reads others of the ring: those before it undelayed (a full of one is a phase of its
        own), all of them with a shift of the sign of the ring.
        """
        texts = {}
        for i, (name, size) in enumerate(zip(names, sizes, strict=True)):
            delayed = [
                (self.shifted(n, sign * self.pick.choice(delays)), s)
                for n, s in zip(names, sizes, strict=True)
            ]
            before: list[tuple[str, int | None]] = list(zip(names[:i], sizes[:i], strict=True))
            reads = [*outside, *delayed, *before]
            must = names[i - 1] if i else self.shifted(names[-1], sign * self.pick.choice(delays))
            if i and self.chance(0.3):
                must = self.shifted(must, sign * self.pick.choice(delays))
            own = self.shifted(name, sign * self.pick.choice(delays))
            kind = self.pick.random()
            if kind < 0.2:  # a leaky cell
                texts[name] = f"0.6 * {own} + 0.4 * ({self.body(size, reads, must)})"
            elif kind < 0.3 and self.noise:
                texts[name] = f"zoneout({self.body(size, reads, must)}, {own}, 0.2)"
            elif kind < 0.4:  # elementwise in the loop, with a learned decay
                texts[name] = (
                    f"sigmoid({self.term(size, outside)} + bias) * {own} + tanh(diag({own}) + full({must}))"
                )
                texts[name] = f"tanh({texts[name]})"
            elif kind < 0.6 and i:  # a plain sum, like a gate before its function; the first node is bounded
                terms = [f"full({must})", *(self.term(size, reads) for _ in range(self.pick.randint(1, 2)))]
                self.pick.shuffle(terms)
                texts[name] = " + ".join(terms)
            else:
                texts[name] = self.body(size, reads, must)
        return texts

    def component(self, prefix: str) -> None:
        """A recurrent component of one to four nodes, forward or backward in time."""
        names = [f"{prefix}{letter}" for letter in "abcd"[: self.pick.choice([1, 1, 2, 2, 3, 4])]]
        sizes = [self.pick.randint(1, 5) for _ in names]
        if self.chance(0.5):
            sizes = [sizes[0]] * len(names)
        sign = 1 if self.look_ahead and self.chance(0.5) else -1
        delays = self.pick.choice([[1], [1], [1, 2], [1, 2, 3], [2], [2, 4], [3]])
        outside = [(self.outer(s), s.size) for s in self.sources]
        texts = self.loop(names, sizes, outside, sign, delays)
        for name, size in zip(names, sizes, strict=True):
            self.nodes[name] = self.entry(size, texts[name])
        self.sources += [Source(n, s) for n, s in zip(names, sizes, strict=True)]

    def elementwise(self, prefix: str) -> None:
        """A component without a matrix in its loop: affine in its state, or not."""
        size = self.pick.randint(1, 5)
        sign = "+" if self.look_ahead and self.chance(0.4) else "-"
        gate, state = f"{prefix}f", f"{prefix}c"
        outside = [(self.outer(s), s.size) for s in self.sources]
        own = f"{state}[t{sign}{self.pick.choice([1, 1, 2])}]"
        peep = self.pick.choice(["", "", f" + diag({own})"])
        self.nodes[gate] = {"size": size, "is": f"sigmoid({self.term(size, outside)}{peep} + bias(1))"}
        new = f"tanh({self.term(size, outside)})"
        self.nodes[state] = self.entry(size, f"{gate} * {own} + (1 - {gate}) * {new}")
        self.sources += [Source(gate, size), Source(state, size)]

    def cell(self, prefix: str) -> None:
        """A cell node: a random local cell, perhaps nested, stacked, backward or bidirectional."""
        size = self.pick.randint(1, 5)
        inner = self.local_cell(f"cell_{prefix}")
        if self.chance(0.3):
            outer = f"outer_{prefix}"
            # "part" is the nested cell; what stands around it closes a loop through the inner one.
            self.cells[outer] = {
                "out": "y",
                "nodes": {
                    "gate": "sigmoid(full(x) + full(y[t-1]) + bias)",
                    "part": {"cell": inner, "in": "gate"},
                    "y": "gate * tanh(part) + 0.5 * y[t-1]",
                },
                "init": {"y": self.pick.choice([0, 0.3, "learned"])},
            }
            inner = outer
        made: dict[str, Any] = {"cell": inner, "size": size}
        plain = [s for s in self.sources if s.size is not None]
        given = self.pick.sample(plain, min(len(plain), self.pick.choice([1, 1, 2])))
        made["in"] = given[0].name if len(given) == 1 else [s.name for s in given]
        if self.chance(0.2):
            made["layers"] = 2
        width = size
        if self.look_ahead and self.chance(0.6):
            made[self.pick.choice(["backward", "bidirectional"])] = True
            width = size * (2 if "bidirectional" in made else 1)
        self.nodes[prefix] = made
        self.sources.append(Source(prefix, width))
        if not {"layers", "bidirectional"} & made.keys() and self.chance(0.5):  # a node inside the cell
            name = self.pick.choice(list(self.cells[inner]["nodes"]))
            self.sources.append(Source(f"{prefix}/{name}", size))

    def local_cell(self, name: str) -> str:
        """A random recurrent cell over its input `x`, every node of the cell's size."""
        nodes = [f"{letter}" for letter in "uvw"[: self.pick.randint(1, 3)]]
        # A size of 3 stands for "the cell's": inside a cell only forms that fit any size are used.
        texts = {}
        for i, node in enumerate(nodes):
            must = nodes[i - 1] if i else f"{nodes[-1]}[t-1]"
            other = f"{self.pick.choice(nodes)}[t-{self.pick.choice([1, 1, 2])}]"
            inside = [f"full({must})", "full(x)", f"diag({other})"]
            if self.chance(0.5):
                inside.append(
                    self.pick.choice(["bias", "bias(1)", f"full({other} * {must})", f"norm({other})"])
                )
            self.pick.shuffle(inside)
            texts[node] = self.pick.choice(BOUNDED).format(" + ".join(inside))
            if self.noise and self.chance(0.3):
                texts[node] = f"zoneout({texts[node]}, {node}[t-1], 0.25)"
        self.cells[name] = {"out": nodes[-1], "nodes": texts}
        if self.chance(0.3):
            self.cells[name]["init"] = {nodes[0]: self.pick.choice(["learned", 0.5])}
        return name


def random_graph(seed: int) -> dict[str, Any]:
    """A legal graph in the YAML form for a `seed`: a few blocks, each reading those before it."""
    make = Maker(random.Random(seed))
    pick = make.pick
    make.look_ahead, make.noise = make.chance(0.5), make.chance(0.3)
    inputs: dict[str, Any] = {"x": {"size": pick.randint(1, 5)}}
    if make.chance(0.3):
        inputs["k"] = {"vocab": pick.randint(2, 6)}
    if make.chance(0.3):
        inputs["z"] = {"size": pick.randint(1, 4)}
    make.sources = [Source(name, given.get("size")) for name, given in inputs.items()]
    for i in range(pick.randint(1, 5)):
        block = pick.choice(
            [make.pointwise, make.component, make.component, make.component, make.elementwise, make.cell]
        )
        block(f"n{i}")
    whole = [s for s in make.sources if s.name not in inputs]
    outputs = [whole[-1].name]
    outputs += [s.name for s in whole[:-1] if make.chance(0.3)]
    # An output that sums up everything, so that no block is dead and every gradient is compared.
    unread = " + ".join(f"full({make.outer(s)})" for s in make.sources)
    make.nodes["out"] = {"size": pick.randint(1, 3), "is": unread + " + bias"}
    outputs.append("out")
    order = list(make.nodes)
    pick.shuffle(order)  # a node may be read before it is written
    graph = {"inputs": inputs, "nodes": {name: make.nodes[name] for name in order}, "outputs": outputs}
    return graph | ({"cells": make.cells} if make.cells else {})


@dataclass(frozen=True)
class Batch:
    """Inputs of one chunk by name, [T, B, size] or indices [T, B]; `lengths` [B], `resets` [T, B] or None."""

    inputs: dict[str, Tensor]
    lengths: Tensor | None = None
    resets: Tensor | None = None

    def steps(self, start: int, end: int) -> Batch:
        """The part of the chunk from `start` to `end`. Lengths are counted from the new start."""
        lengths = None if self.lengths is None else (self.lengths - start).clamp(0, end - start)
        resets = None if self.resets is None else self.resets[start:end]
        return Batch({name: x[start:end] for name, x in self.inputs.items()}, lengths, resets)


def random_batch(
    graph: Graph, seed: int, lengths: bool = False, resets: bool = False, steps: int = 0, lanes: int = 0
) -> Batch:
    """Random inputs of 1 to 9 steps and 1 to 3 lanes, or as many as given. Some lanes may have length 0."""
    pick = random.Random(f"batch {seed}")
    generator = torch.Generator().manual_seed(seed)
    steps = steps or pick.choice([1, 2, 5, 6, 7, 8, 9])
    lanes = lanes or pick.choice([1, 2, 3, 3])
    inputs = {}
    for name, given in graph.inputs.items():
        if given.vocab is not None:
            inputs[name] = torch.randint(given.vocab, (steps, lanes), generator=generator)
        else:
            x = torch.randn(steps, lanes, given.size, generator=generator, dtype=torch.float64)
            inputs[name] = x.requires_grad_()
    drawn = torch.randint(0, steps + 1, (lanes,), generator=generator)
    drawn[0] = steps if seed % 2 else drawn[0].clamp(min=1)  # at least one lane has something in it
    return Batch(
        inputs,
        drawn if lengths else None,
        torch.rand(steps, lanes, generator=generator) < 0.25 if resets else None,
    )


def looks_ahead(graph: Graph) -> bool:
    """Whether anything is read ahead: then a chunk cannot equal a part of the whole."""
    return any(ref.shift > 0 for node in graph.nodes.values() for ref in refs(node.expr))


def batch_kind(seed: int) -> dict[str, bool]:
    """Lengths in one third of the seeds, resets in another, both in a ninth."""
    return {"lengths": seed % 3 == 0, "resets": seed // 3 % 3 == 0}
