"""What is measured: our network, torch's own modules, eager loops written the obvious way; same weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from framework import Network, from_torch, lstm


class EagerPeephole(nn.Module):
    """LSTM with peepholes, step by step, as one would write it first."""

    def __init__(self, inputs: int, size: int):
        super().__init__()
        self.size = size
        self.x = nn.Linear(inputs, 4 * size)
        self.h = nn.Linear(size, 4 * size, bias=False)
        self.peep = nn.Parameter(torch.empty(3, size).uniform_(-1, 1) / math.sqrt(size))

    def forward(self, x: Tensor) -> Tensor:
        """x [T, B, inputs] -> h [T, B, size]."""
        h = c = x.new_zeros(x.shape[1], self.size)
        out = []
        for x_t in x:
            i, f, z, o = (self.x(x_t) + self.h(h)).chunk(4, -1)
            i = torch.sigmoid(i + self.peep[0] * c)
            f = torch.sigmoid(f + self.peep[1] * c)
            c = f * c + i * torch.tanh(z)
            o = torch.sigmoid(o + self.peep[2] * c)
            h = o * torch.tanh(c)
            out.append(h)
        return torch.stack(out)


class EagerRHN(nn.Module):
    """Recurrent highway network of depth 3 with coupled gates, step by step."""

    def __init__(self, inputs: int, size: int, depth: int = 3):
        super().__init__()
        self.size = size
        self.x = nn.Linear(inputs, 2 * size)
        self.h = nn.ModuleList(nn.Linear(size, 2 * size, bias=k > 0) for k in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """x [T, B, inputs] -> s [T, B, size]."""
        s = x.new_zeros(x.shape[1], self.size)
        out = []
        for x_t in x:
            for k, layer in enumerate(self.h):
                a = layer(s) + (self.x(x_t) if k == 0 else 0.0)
                n, g = a.chunk(2, -1)
                n, g = torch.tanh(n), torch.sigmoid(g)
                s = n * g + s * (1.0 - g)
            out.append(s)
        return torch.stack(out)


class EagerCells(nn.Module):
    """A loop over nn.LSTMCell or nn.GRUCell."""

    def __init__(self, cell: nn.Module, size: int):
        super().__init__()
        self.cell, self.size = cell, size

    def forward(self, x: Tensor) -> Tensor:
        """x [T, B, inputs] -> h [T, B, size]."""
        zero = x.new_zeros(x.shape[1], self.size)
        state: Tensor | tuple[Tensor, Tensor] = zero
        if isinstance(self.cell, nn.LSTMCell):
            state = (zero, zero)
        out = []
        for x_t in x:
            state = self.cell(x_t, state)
            out.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(out)


@dataclass(frozen=True)
class System:
    """`run(x)` gives the output [T, B, size]; `module` holds the weights."""

    name: str
    module: nn.Module
    run: Callable[[Tensor], Tensor]


def _ours(net: Network) -> System:
    return System("intrastream", net, lambda x: net(x)[0])  # type: ignore[arg-type, return-value]


def make(cell: str, inputs: int, size: int) -> list[System]:
    """The systems of one case, all with the same weights: eager, torch's own where there is one, ours."""
    if cell in ("lstm", "gru"):
        theirs = (nn.LSTM if cell == "lstm" else nn.GRU)(inputs, size)
        loop = (nn.LSTMCell if cell == "lstm" else nn.GRUCell)(inputs, size)
        with torch.no_grad():
            for name, p in loop.named_parameters():
                p.copy_(getattr(theirs, name + "_l0"))
        eager = EagerCells(loop, size)
        own = System("nn.LSTM" if cell == "lstm" else "nn.GRU", theirs, lambda x: theirs(x)[0])
        return [System("eager", eager, eager), own, _ours(from_torch(theirs))]
    if cell == "lstm_peephole":
        peephole = EagerPeephole(inputs, size)
        net = lstm(inputs, size, cell="lstm_peephole")
        _copy_peephole(net, peephole)
        return [System("eager", peephole, peephole), _ours(net)]
    assert cell == "rhn", cell
    highway = EagerRHN(inputs, size)
    net = lstm(inputs, size, cell="rhn", depth=3)
    _copy_rhn(net, highway)
    return [System("eager", highway, highway), _ours(net)]


def _copy_peephole(net: Network, eager: EagerPeephole) -> None:
    ours, n = net.weights(), eager.size
    peep = {"i": ("c[t-1]", 0), "f": ("c[t-1]", 1), "o": ("c", 2)}
    with torch.no_grad():
        for k, gate in enumerate("ifzo"):
            rows = slice(k * n, (k + 1) * n)
            ours[f"l1/{gate}:full(x)"].copy_(eager.x.weight[rows])
            ours[f"l1/{gate}:full(l1/h[t-1])"].copy_(eager.h.weight[rows])
            ours[f"l1/{gate}:bias"].copy_(eager.x.bias[rows])
            if gate in peep:
                source, row = peep[gate]
                ours[f"l1/{gate}:diag(l1/{source})"].copy_(eager.peep[row])


def _copy_rhn(net: Network, eager: EagerRHN) -> None:
    ours, n = net.weights(), eager.size
    with torch.no_grad():
        for k, layer in enumerate(eager.h, 1):
            assert isinstance(layer, nn.Linear)
            source = "l1/s3[t-1]" if k == 1 else f"l1/s{k - 1}"
            for row, gate in enumerate("ng"):
                rows = slice(row * n, (row + 1) * n)
                ours[f"l1/{gate}{k}:full({source})"].copy_(layer.weight[rows])
                bias = eager.x.bias if k == 1 else layer.bias
                ours[f"l1/{gate}{k}:bias"].copy_(bias[rows])
                if k == 1:
                    ours[f"l1/{gate}1:full(x)"].copy_(eager.x.weight[rows])
