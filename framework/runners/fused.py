"""The `torch-fused` runner: loops that are exactly an LSTM, GRU or RNN, by torch's own routines.

On a GPU that is cuDNN (MIOpen on AMD), on a CPU oneDNN or torch's loop. They take the inputs themselves:
there is no hoisted buffer. Calls with resets, or under torch.compile, go to another runner: see
`FusedLoop.takes`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.component import Component
from framework.plan import Plan
from framework.runners.functions import DOUBLE
from framework.runners.loop import Chunk, Kept, LoopRunner
from framework.vanilla import Gate, Vanilla

# What is added to gates at padding: the sigmoid of it is 1, that of -HOLD is 0, exactly, in every dtype.
HOLD = 1e4
# At padding an LSTM keeps its c (i = 0, f = 1), a GRU its h (z = 1): by gates in torch's order.
HOLDING = {"lstm": (-HOLD, HOLD, 0.0, 0.0), "gru": (0.0, HOLD, 0.0)}


class Fed(NamedTuple):
    """What a fused loop gets in the place of a hoisted buffer: its sources, [T, B, features] each."""

    sources: tuple[Tensor, ...]


class FusedLoop(LoopRunner):
    """One component; `other` runs the calls that torch's routines cannot."""

    def __init__(self, c: Component, plan: Plan, other: LoopRunner):
        assert isinstance(c.vanilla, Vanilla), c.vanilla
        self.c, self.v, self.other = c, c.vanilla, other
        self.singles, self.own_masks, self.overwrites = other.singles, other.own_masks, other.overwrites
        self.variant = f"{type(other).__qualname__} {other.variant}"
        wanted = {name for gate in self.v.gates for name in _names(gate)} | {self.v.project} - {""}
        used = [p for p in plan.packs.values() if any(name in wanted for name, _, _ in p.members)]
        self.packs = tuple(p.name for p in used)
        self.members = {p.name: p.members for p in used}
        self.turns = self._turns()

    def takes(self, lengths: Tensor | None, resets: Tensor | None) -> bool:
        """Whether torch's routine runs a call, and `fused` is to be called.

        A reset would change the state in the middle. Lengths need that the state rests before the lane's last
        frame where time runs backward, which a plain RNN cannot, and an LSTM only at zeros.
        """
        if resets is not None or torch.compiler.is_compiling():
            return False
        if lengths is None or self.c.direction > 0:
            return True
        return self.v.kind == "gru" or (self.v.kind == "lstm" and self.v.rests and not self.v.project)

    def fused(
        self,
        sources: Sequence[Tensor],
        packs: Sequence[Tensor],
        boundary: Mapping[str, Tensor],
        padding: Tensor | None,
        clock: dict[str, float] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """h [T, B, size], and of an LSTM the c after the chunk, at each lane's own end, [1, B, size].

        sources: [T, B, features] in the order of `Vanilla.sources`; packs: parameters in that of `packs`;
        boundary: of each state [1, B, size]; padding: bool [T, B, 1], or None; clock["loop"] gets the seconds
        of the backward.
        """
        v, forward = self.v, self.c.direction > 0
        hold = padding is not None and (not forward or bool(v.memory))
        inputs = list(sources)
        if hold:
            assert padding is not None
            inputs.append(padding.to(sources[0].dtype))
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, -1)
        x = x if forward else x.flip(0)
        weights = self.weights(dict(zip(self.packs, packs, strict=True)), hold)
        h0, c0 = boundary[v.hidden], boundary[v.memory] if v.memory else None
        train = torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, *weights, h0, c0)
        )
        timer = _Timer(clock) if train and clock is not None else None
        if timer is not None:
            x, h0, *weights = (timer.end(t) for t in (x, h0, *weights))
        biases = len(weights) - bool(v.project) == 4
        options = (biases, 1, 0.0, train, False, False)  # layers, dropout, train, bidirectional, batch_first
        last = None
        if c0 is not None:
            with _no_onednn() if v.project and not x.is_cuda else nullcontext():
                y, _, last = torch.lstm(x, (h0.contiguous(), c0.contiguous()), weights, *options)
        elif v.kind == "gru":
            y, _ = torch.gru(x, h0.contiguous(), weights, *options)
        else:
            run = torch.rnn_tanh if v.kind == "rnn_tanh" else torch.rnn_relu
            y, _ = run(x, h0.contiguous(), weights, *options)
        for out in (y, last):
            if out is not None and out.requires_grad:
                out.register_hook(_first_order)
                if timer is not None:
                    out.register_hook(timer.start)
        return (y if forward else y.flip(0)), last

    def weights(self, packs: Mapping[str, Tensor], hold: bool) -> list[Tensor]:
        """Torch's weights: of the input, recurrent, two biases if there is any, of the projection.

        hold: with a column more, which holds the state wherever its input is 1.
        """
        if self.turns and not hold:
            out = [turn.of(packs) for turn in self.turns]
            if len(out) == 3:
                out.append(out[0].new_zeros(out[0].shape[0]))
            return _one_buffer(out, self.v) if out[0].is_cuda else out
        v, pieces = self.v, _Pieces(packs, self.members)
        columns = [
            pieces.stacked([gate.inputs[k] for gate in v.gates], v.size) for k in range(len(v.sources))
        ]
        if hold:
            columns.append(torch.cat([pieces.like.new_full((v.size, 1), x) for x in HOLDING[v.kind]]))
        out = [columns[0] if len(columns) == 1 else torch.cat(columns, 1)]
        out.append(pieces.stacked([(gate.recurrent,) for gate in v.gates], v.size))
        outer = [gate.bias for gate in v.gates], [gate.const for gate in v.gates]
        inner = [gate.inner for gate in v.gates], [gate.inner_const for gate in v.gates]
        if any(any(names) or any(numbers) for names, numbers in (outer, inner)):
            for names, numbers in (outer, inner):
                bias = pieces.stacked(names, v.size, vector=True)
                if any(numbers):
                    bias = bias + torch.cat([pieces.like.new_full((v.size,), x) for x in numbers])
                out.append(bias)
        if v.project:
            out.append(pieces.part[v.project])
        return _one_buffer(out, v) if pieces.like.is_cuda else out

    def _turns(self) -> tuple[_Turn, ...]:
        """How torch's weights of the input, the recurrent ones and the bias are made where each is one pack
        in another order; nothing where there is more to it.
        """
        gates = self.v.gates
        if (
            len(self.v.sources) > 1
            or self.v.project
            or any(g.inner or g.const or g.inner_const for g in gates)
        ):
            return ()
        wanted = [[g.inputs[0] for g in gates], [(g.recurrent,) for g in gates]]
        wanted += [[g.bias for g in gates]] if any(g.bias for g in gates) else []
        made = []
        for blocks in wanted:
            names = [name for block in blocks for name in block]
            pack = next((p for p in self.packs if sorted(m[0] for m in self.members[p]) == sorted(names)), "")
            if not pack or any(len(block) != 1 for block in blocks):
                return ()
            made.append(_turn(pack, self.members[pack], names))
        return tuple(made)

    # What another runner does ---------------------------------------------------------------------------

    def check_device(self, device: str) -> None:
        """See `LoopRunner.check_device`."""
        self.other.check_device(device)

    def run(
        self, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], train: bool
    ) -> tuple[tuple[Tensor, ...], dict[Any, Tensor]]:
        """See `LoopRunner.run`."""
        return self.other.run(chunk, n_ext, tensors, train)

    def keeps(self, chunk: Chunk) -> Mapping[Any, Kept]:
        """See `LoopRunner.keeps`."""
        return self.other.keeps(chunk)

    def gradients_of(
        self,
        chunk: Chunk,
        n_ext: int,
        tensors: Sequence[Tensor],
        kept: dict[Any, Tensor],
        dy: Sequence[Tensor | None],
        wanted: Sequence[bool],
    ) -> Sequence[Tensor | None]:
        """See `LoopRunner.gradients_of`."""
        return self.other.gradients_of(chunk, n_ext, tensors, kept, dy, wanted)


class _Turn(NamedTuple):
    """A weight that is a pack in another order. sizes: of the parts into which it is cut; order: of these."""

    pack: str
    sizes: tuple[int, ...]
    order: tuple[int, ...]

    def of(self, packs: Mapping[str, Tensor]) -> Tensor:
        """The weight."""
        pack = packs[self.pack]
        if len(self.sizes) == 1:
            return pack
        parts = torch.split(pack, list(self.sizes))
        return torch.cat([parts[i] for i in self.order])


def _turn(pack: str, members: Sequence[tuple[str, int, int]], names: Sequence[str]) -> _Turn:
    """Gates that follow each other in both orders are one part: each costs time at every call."""
    places = {name: (lo, hi) for name, lo, hi in members}
    parts: list[tuple[int, int]] = []
    for lo, hi in (places[name] for name in names):
        if parts and parts[-1][1] == lo:
            parts[-1] = (parts[-1][0], hi)
        else:
            parts.append((lo, hi))
    rows = sorted(parts)
    return _Turn(pack, tuple(hi - lo for lo, hi in rows), tuple(rows.index(part) for part in parts))


def _names(gate: Gate) -> set[str]:
    """All weights of a gate."""
    return {gate.recurrent, *gate.bias, *gate.inner, *(name for names in gate.inputs for name in names)}


class _Pieces:
    """Weights by name, parts of packs."""

    def __init__(self, packs: Mapping[str, Tensor], members: Mapping[str, Sequence[tuple[str, int, int]]]):
        self.part: dict[str, Tensor] = {}
        self.whole: dict[tuple[str, ...], Tensor] = {}
        for name, pack in packs.items():
            rows = members[name]
            # By one split: the derivative of a slice would be a whole pack of zeros for each.
            split = torch.split(pack, [hi - lo for _, lo, hi in rows]) if len(rows) > 1 else [pack]
            self.part.update((row[0], piece) for row, piece in zip(rows, split, strict=True))
            self.whole[tuple(row[0] for row in rows)] = pack
        self.like = next(iter(self.part.values()))

    def stacked(self, names: Sequence[tuple[str, ...]], size: int, vector: bool = False) -> Tensor:
        """Blocks of `size` rows below each other, each the sum of its weights; where one pack holds just
        that, the pack itself.
        """
        flat = tuple(name for block in names for name in block)
        if flat in self.whole and all(len(block) == 1 for block in names):
            return self.whole[flat]
        shape = (size,) if vector else (size, self.part[flat[0]].shape[1])
        blocks = []
        for block in names:
            total = self.part[block[0]] if block else self.like.new_zeros(shape)
            for name in block[1:]:
                total = total + self.part[name]
            blocks.append(total)
        return torch.cat(blocks)


class _OneBuffer(torch.autograd.Function):
    """The same weights as parts of one buffer in cuDNN's order."""

    @staticmethod
    def forward(ctx: Any, v: Vanilla, *weights: Tensor) -> tuple[Tensor, ...]:
        from torch.backends.cudnn import rnn

        mode = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN_TANH", "rnn_relu": "RNN_RELU"}[v.kind]
        out = [w.clone() for w in weights]
        proj = weights[-1].shape[0] if v.project else 0
        # It moves them, as in nn.LSTM.flatten_parameters: 1 layer, not batch first, not bidirectional.
        torch._cudnn_rnn_flatten_weight(  # pyright: ignore[reportPrivateImportUsage] (there is no other way)
            out, len(out), weights[0].shape[1], rnn.get_cudnn_mode(mode), v.size, proj, 1, False, False
        )
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return (None, *gradients)


def _one_buffer(weights: list[Tensor], v: Vanilla) -> list[Tensor]:
    """Weights as cuDNN wants them: it would move them itself otherwise, and warn."""
    if not torch.backends.cudnn.is_acceptable(weights[0]):
        return weights
    if not torch._use_cudnn_rnn_flatten_weight():  # pyright: ignore[reportPrivateImportUsage] (as above)
        return weights
    return list(_OneBuffer.apply(v, *weights))


@contextmanager
def _no_onednn() -> Iterator[None]:
    """torch warns that oneDNN has no projection; its own loop runs then."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        yield


def _first_order(gradient: Tensor) -> None:
    """A hook that refuses to be differentiated, as all runners do."""
    if torch.is_grad_enabled():
        raise RuntimeError(DOUBLE)


class _Timer:
    """Seconds between the gradients of the outputs and those of the inputs, added to clock["loop"]."""

    def __init__(self, clock: dict[str, float]):
        self.clock, self.last = clock, 0.0

    def start(self, gradient: Tensor) -> None:
        """A hook for outputs."""
        self.last = self.last or time.perf_counter()

    def end(self, x: Tensor) -> Tensor:
        """x, with a hook: as another tensor, since hooks on the user's own would stay."""
        if not x.requires_grad:
            return x
        x = x.view_as(x)
        x.register_hook(self._add)
        return x

    def _add(self, gradient: Tensor) -> None:
        now = time.perf_counter()
        self.clock["loop"] += now - self.last
        self.last = now
