"""The plain meaning of a graph: one node after another, one step after another, with autograd.

Everything is compared with this. It knows the types of `framework.graph` and `framework.expr` and nothing
else of the framework: no planner, no op table, no hoisting. Lanes are cut at their resets and lengths into
unbroken *pieces*; each piece is one sequence of its own, so a read that would cross a reset, or pass the end,
simply falls out of the piece and meets the initial value there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from framework.expr import Expr
from framework.graph import Graph

ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "neg": lambda x: -x,
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": torch.tanh,
    "relu": lambda x: torch.where(x > 0, x, 0.0),
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "elu": lambda x: torch.where(x > 0, x, torch.expm1(torch.clamp(x, max=0.0))),
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1 / x,
    "sin": torch.sin,
    "cos": torch.cos,
    "sign": lambda x: torch.sign(x.detach()),
    "hard_sigmoid": lambda x: torch.clamp(x / 6 + 0.5, 0.0, 1.0),
    "hard_tanh": lambda x: torch.clamp(x, -1.0, 1.0),
}
TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
}

# What an index input is read as before its first step: it then adds nothing to a full().
NO_INDEX = -1


def run(
    graph: Graph,
    weights: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    training: bool = False,
    seed: int = 0,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run `graph` over a chunk.

    `inputs`: name -> [T, B, size], or int64 [T, B] for indices. `state`: what a former call returned.
    `lengths`: [B]. `resets`: bool [T, B]. Returns the outputs by the user's name, [T, B, size] with zeros at
    and past a lane's length, and the state: for each name that is read back D steps at most, its values at
    the steps -1 ... -D from each lane's end, [D, B, size] (indices: int64 [D, B]). Everything is
    differentiable and in the dtype of `weights`.
    """
    steps, lanes = next(iter(inputs.values())).shape[:2]
    ends = [steps] * lanes if lengths is None else [int(n) for n in lengths]
    if resets is None:
        resets = torch.zeros(steps, lanes, dtype=torch.bool)
    masks = Masks(steps, lanes, training, seed)
    source = Source(graph, weights, inputs, state or {})

    last: list[tuple[Piece, int] | None] = [None] * lanes  # the lane's last piece, and the lane's row in it
    shown = set(graph.outputs.values())
    rows: dict[tuple[str, int, int], Tensor] = {}  # (output node, t, lane) -> [size]
    for span, members in group(ends, resets).items():
        piece = Piece(source, span, members, masks)
        for t in range(span.start, span.end):
            for name in graph.nodes:
                value = piece.compute(name, t)
                if name in shown:
                    for lane, row in zip(members, value.unbind(), strict=True):
                        rows[name, t, lane] = row
        for row, lane in enumerate(members):
            if span.end == ends[lane]:
                last[lane] = (piece, row)

    outputs = {}
    for user, name in graph.outputs.items():
        zero = source.zeros(graph.nodes[name].size)
        outputs[user] = torch.stack(
            [torch.stack([rows.get((name, t, lane), zero) for lane in range(lanes)]) for t in range(steps)]
        )
    empty = [Piece(source, Span(0, 0, True), [lane], masks) for lane in range(lanes)]
    carried = {}
    for name, depth in depths(graph).items():
        at = [(*(last[lane] or (empty[lane], 0)), ends[lane]) for lane in range(lanes)]
        carried[name] = torch.stack(
            [
                torch.stack([piece.read(name, end - k)[row] for piece, row, end in at])
                for k in range(1, depth + 1)
            ]
        )
    return outputs, carried


@dataclass(frozen=True)
class Span:
    """The steps [start, end) of a piece. `carried`: before `start` lies the previous chunk's state."""

    start: int
    end: int
    carried: bool


def group(ends: list[int], resets: Tensor) -> dict[Span, list[int]]:
    """Every piece of every lane, with the lanes that share it: those are computed side by side."""
    spans: dict[Span, list[int]] = {}
    for lane, end in enumerate(ends):
        cuts = [t for t in range(end) if resets[t, lane]]
        starts = cuts if cuts and cuts[0] == 0 else [0, *cuts]
        for start, stop in zip(starts, [*starts[1:], end], strict=True):
            if start < stop:
                carried = start == 0 and not bool(resets[0, lane])
                spans.setdefault(Span(start, stop, carried), []).append(lane)
    return spans


def refs(expr: Expr) -> Iterator[Expr]:
    """Every read of a node or an input in `expr`."""
    if expr.op == "ref":
        yield expr
    for arg in expr.args:
        yield from refs(arg)


def depths(graph: Graph) -> dict[str, int]:
    """How many steps back each name is read, for the names that are."""
    deep: dict[str, int] = {}
    for node in graph.nodes.values():
        for ref in refs(node.expr):
            if ref.shift < 0:
                deep[ref.name] = max(deep.get(ref.name, 0), -ref.shift)
    return deep


class Masks:
    """The random masks of one forward pass: [T, B, size] by the key of a dropout or zoneout term."""

    def __init__(self, steps: int, lanes: int, training: bool, seed: int):
        self.steps, self.lanes, self.training, self.seed = steps, lanes, training, seed
        self.drawn: dict[str, Tensor] = {}

    def draw(self, expr: Expr) -> Tensor:
        """The mask of a term: True with probability `expr.value`."""
        if expr.name not in self.drawn:
            # The one definition that both sides share: they must see the same numbers.
            from framework.random import mask

            self.drawn[expr.name] = mask(
                self.seed, expr.name, self.steps, self.lanes, expr.size, expr.value, torch.device("cpu")
            )
        return self.drawn[expr.name]


class Source:
    """What comes from outside: the graph, its weights, the inputs, and the state of the previous chunk."""

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ):
        self.graph, self.weights, self.inputs, self.state = graph, weights, inputs, state
        floats = [*weights.values(), *(x for x in inputs.values() if x.is_floating_point())]
        self.dtype = floats[0].dtype if floats else torch.float64
        self.refs = {name: tuple(refs(node.expr)) for name, node in graph.nodes.items()}

    def zeros(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=self.dtype)

    def initial(self, name: str) -> Tensor:
        """The value [size] that a node or input has before the first step (a scalar for an index input)."""
        if name in self.graph.inputs:
            given = self.graph.inputs[name]
            return torch.tensor(NO_INDEX) if given.vocab is not None else self.zeros(given.size)
        node = self.graph.nodes[name]
        if node.init == "learned":
            return self.weights[f"{name}:init"]
        return torch.full((node.size,), float(node.init), dtype=self.dtype)


class Piece:
    """One unbroken sequence in some lanes that begin and end together. Values are [lanes here, size]."""

    def __init__(self, source: Source, span: Span, lanes: list[int], masks: Masks):
        self.source, self.span, self.lanes, self.masks = source, span, lanes, masks
        self.known: dict[tuple[str, int], Tensor] = {}

    def read(self, name: str, t: int) -> Tensor:
        """The value of `name` at step `t`, which may lie outside of the piece."""
        source = self.source
        if self.span.start <= t < self.span.end:
            return source.inputs[name][t, self.lanes] if name in source.inputs else self.known[name, t]
        if t < self.span.start and self.span.carried and name in source.state:
            return source.state[name][self.span.start - t - 1, self.lanes]
        value = source.initial(name)
        return value.expand(len(self.lanes), *value.shape)

    def compute(self, name: str, t: int) -> Tensor:
        """The value of a node inside the piece, after all that it reads; a stack, not deep recursion."""
        todo = [(name, t)]
        while todo:
            name, t = todo[-1]
            if (name, t) not in self.known:
                needed = [(ref.name, t + ref.shift) for ref in self.source.refs[name]]
                missing = [
                    (n, s)
                    for n, s in needed
                    if n in self.source.graph.nodes
                    and self.span.start <= s < self.span.end
                    and (n, s) not in self.known
                ]
                if missing:
                    if any(m in todo for m in missing):
                        raise AssertionError(f"a value needs itself: {todo}")
                    todo.extend(missing[:1])
                    continue
                node = self.source.graph.nodes[name]
                self.known[name, t] = self.value(node.expr, t).expand(len(self.lanes), node.size)
            todo.pop()
        return self.known[name, t]

    def value(self, e: Expr, t: int) -> Tensor:
        """The value of an expression at step `t`, [lanes here, e.size]."""
        if e.op == "num":
            return torch.full((len(self.lanes), 1), e.value, dtype=self.source.dtype)
        if e.op == "ref":
            return self.read(e.name, t + e.shift)
        weights = [self.source.weights[name] for name in e.weights]
        if e.op == "bias":
            return weights[0].expand(len(self.lanes), -1)
        args = [self.value(arg, t) for arg in e.args]
        if e.op in ONE:
            return ONE[e.op](*args)
        if e.op in TWO:
            return TWO[e.op](*args)
        if e.op in ("dropout", "zoneout"):
            return self.noisy(e, t, args)
        x = args[0]
        if e.op == "full":
            return gather(weights[0], x) if x.dtype == torch.int64 else x @ weights[0].T
        if e.op == "diag":
            return x * weights[0]
        if e.op == "block":
            split = x.reshape(len(self.lanes), e.blocks, -1)
            return torch.einsum("lnj,nij->lni", split, weights[0]).reshape(len(self.lanes), -1)
        if e.op == "norm":
            centred = x - x.mean(-1, keepdim=True)
            variance = (centred * centred).mean(-1, keepdim=True)
            return centred / torch.sqrt(variance + 1e-5) * weights[0] + weights[1]
        if e.op == "softmax":
            return torch.softmax(x, -1)
        if e.op == "stop":
            return x.detach()
        if e.op == "slice":
            return x[:, e.lo : e.hi]
        if e.op == "concat":
            return torch.cat(args, -1)
        raise AssertionError(f"the oracle does not know the op {e.op!r}")

    def noisy(self, e: Expr, t: int, args: list[Tensor]) -> Tensor:
        """dropout(s, p) and zoneout(new, old, p); p is the probability to drop, or to keep the old value."""
        p = e.value
        if e.op == "dropout":
            if not self.masks.training:
                return args[0]
            return torch.where(self.masks.draw(e)[t, self.lanes], 0.0, args[0] / (1 - p))
        new, old = args
        if not self.masks.training:
            return p * old + (1 - p) * new
        return torch.where(self.masks.draw(e)[t, self.lanes], old, new)


def gather(weight: Tensor, index: Tensor) -> Tensor:
    """The columns [lanes, size] of `weight` [size, vocab] that `index` [lanes] names; zero for NO_INDEX."""
    picked = weight.T[index.clamp(min=0)]
    return torch.where((index == NO_INDEX)[:, None], torch.zeros_like(picked), picked)


def random_weights(
    graph: Graph, seed: int, scale: float = 0.5, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Weights that collect gradients: `scale` times normal, full and block also by 1 / sqrt(fan_in)."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in graph.weights.items():
        spread = scale / math.sqrt(weight.fan_in) if weight.kind in ("full", "block") else scale
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * spread + weight.value
        weights[name] = drawn.to(dtype).requires_grad_()
    return weights
