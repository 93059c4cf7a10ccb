"""Steps of cells as one writes them first, for loops without us, and where our weights lie in them."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Link:
    """A weight of ours lies in a parameter of theirs: `theirs[rows]`, `.t()` of it where `turned`.

    ours: a canonical name with {l} for the path of the cell, {x} for what it reads, {back} for [t-1].
    """

    ours: str
    theirs: str
    rows: slice | int | tuple[int, int] | EllipsisType = ...
    turned: bool = False

    def view(self, module: nn.Module, grad: bool = False) -> Tensor:
        """The part of the parameter (of its gradient), in our shape. Raises ValueError without a gradient."""
        p = module.get_parameter(self.theirs)
        whole = p.grad if grad else p.detach()
        if whole is None:
            raise ValueError(f"{self.theirs} has no gradient")
        part = whole[..., self.rows] if self.turned else whole[self.rows]
        return part.t() if self.turned else part


class Shift(nn.Module):
    """Where the product of the input is done outside: only the bias is added."""

    def __init__(self, size: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """x + bias."""
        return x + self.bias


class Step(nn.Module):
    """One step of a cell: `out, states = step(x_t, states)`, all [B, features].

    gates: our names of the blocks of rows of the input product; product=False: x is that product already.
    """

    gates: ClassVar[str] = ""
    carried: ClassVar[int] = 1

    def __init__(self, inputs: int, size: int, product: bool = True):
        super().__init__()
        rows = len(self.gates) * size
        self.x: nn.Module = nn.Linear(inputs, rows) if product else Shift(rows)
        self.size, self.product = size, product

    @classmethod
    def blocks(cls) -> int:
        """Units of the input product for each unit of the cell."""
        return len(cls.gates)

    def sizes(self) -> list[int]:
        """Of the carried values; the first is the output's."""
        return [self.size] * self.carried

    def links(self) -> list[Link]:
        """Where our weights lie, bias and input product; cells add theirs."""
        out = []
        for k, gate in enumerate(self.gates):
            rows = slice(k * self.size, (k + 1) * self.size)
            out.append(Link(f"{{l}}/{gate}:bias", "x.bias", rows))
            if self.product:
                out.append(Link(f"{{l}}/{gate}:full({{x}})", "x.weight", rows))
        return out

    def recurrent(self, gates: str, source: str, theirs: str = "h.weight") -> list[Link]:
        """Of a matrix whose blocks of rows belong to `gates` and which reads `source`."""
        n = self.size
        return [
            Link(f"{{l}}/{gate}:full({source})", theirs, slice(k * n, (k + 1) * n))
            for k, gate in enumerate(gates)
        ]


class LSTM(Step):
    """conf/cell/lstm.yaml."""

    gates = "ifzo"
    carried = 2

    def __init__(self, inputs: int, size: int, product: bool = True):
        super().__init__(inputs, size, product)
        self.h = nn.Linear(size, 4 * size, bias=False)

    def forward(self, x: Tensor, s: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See Step."""
        i, f, z, o = (self.x(x) + self.h(s[0])).chunk(4, -1)
        c = torch.sigmoid(f) * s[1] + torch.sigmoid(i) * torch.tanh(z)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, [h, c]

    def links(self) -> list[Link]:
        """See Step."""
        return super().links() + self.recurrent("ifzo", "{l}/h{back}")


class GRU(Step):
    """conf/cell/gru_cudnn.yaml: reset after the product."""

    gates = "run"

    def __init__(self, inputs: int, size: int, product: bool = True):
        super().__init__(inputs, size, product)
        self.h = nn.Linear(size, 3 * size, bias=False)
        self.inner = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, s: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See Step."""
        r, u, n = self.x(x).chunk(3, -1)
        hr, hu, hn = self.h(s[0]).chunk(3, -1)
        n = torch.tanh(n + torch.sigmoid(r + hr) * (hn + self.inner))
        h = n + torch.sigmoid(u + hu) * (s[0] - n)
        return h, [h]

    def links(self) -> list[Link]:
        """See Step."""
        return [*super().links(), *self.recurrent("run", "{l}/h{back}"), Link("{l}/n:bias#2", "inner")]


class Peephole(Step):
    """conf/cell/lstm_peephole.yaml."""

    gates = "ifzo"
    carried = 2

    def __init__(self, inputs: int, size: int, product: bool = True):
        super().__init__(inputs, size, product)
        self.h = nn.Linear(size, 4 * size, bias=False)
        self.peep = nn.Parameter(torch.zeros(3, size))

    def forward(self, x: Tensor, s: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See Step."""
        i, f, z, o = (self.x(x) + self.h(s[0])).chunk(4, -1)
        i = torch.sigmoid(i + self.peep[0] * s[1])
        f = torch.sigmoid(f + self.peep[1] * s[1])
        c = f * s[1] + i * torch.tanh(z)
        h = torch.sigmoid(o + self.peep[2] * c) * torch.tanh(c)
        return h, [h, c]

    def links(self) -> list[Link]:
        """See Step."""
        reads = (("i", "c{back}"), ("f", "c{back}"), ("o", "c"))
        peeps = [Link(f"{{l}}/{g}:diag({{l}}/{c})", "peep", k) for k, (g, c) in enumerate(reads)]
        return [*super().links(), *self.recurrent("ifzo", "{l}/h{back}"), *peeps]


class Norm(Step):
    """conf/cell/lstm_norm.yaml: layer norm over each gate of both products, and over the cell."""

    gates = "ifzo"
    carried = 2

    def __init__(self, inputs: int, size: int, product: bool = True):
        assert product, "the norm is taken of the product"
        super().__init__(inputs, size, product)
        self.x = nn.Linear(inputs, 4 * size, bias=False)
        self.h = nn.Linear(size, 4 * size, bias=False)
        self.bias = nn.Parameter(torch.zeros(4 * size))
        self.gain_x, self.gain_h = (nn.Parameter(torch.ones(4, size)) for _ in range(2))
        self.shift_x, self.shift_h = (nn.Parameter(torch.zeros(4, size)) for _ in range(2))
        self.c = nn.LayerNorm(size)

    def forward(self, x: Tensor, s: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See Step."""
        a = F.layer_norm(self.x(x).view(-1, 4, self.size), (self.size,)) * self.gain_x + self.shift_x
        b = F.layer_norm(self.h(s[0]).view(-1, 4, self.size), (self.size,)) * self.gain_h + self.shift_h
        i, f, z, o = ((a + b).flatten(1) + self.bias).chunk(4, -1)
        c = torch.sigmoid(f) * s[1] + torch.sigmoid(i) * torch.tanh(z)
        h = torch.sigmoid(o) * torch.tanh(self.c(c))
        return h, [h, c]

    def links(self) -> list[Link]:
        """See Step."""
        out = [Link("{l}/h:norm({l}/c).gain", "c.weight"), Link("{l}/h:norm({l}/c).bias", "c.bias")]
        sources = (("x", "{x}"), ("h", "{l}/h{back}"))
        for k, gate in enumerate("ifzo"):
            rows = slice(k * self.size, (k + 1) * self.size)
            out.append(Link(f"{{l}}/{gate}:bias", "bias", rows))
            for name, source in sources:
                out.append(Link(f"{{l}}/{gate}:full({source})", f"{name}.weight", rows))
                for part, theirs in (("gain", f"gain_{name}"), ("bias", f"shift_{name}")):
                    ours = f"{{l}}/{gate}:norm(full({source})).{part}"
                    out.append(Link(ours, theirs, k))
        return out


class MGU(Step):
    """conf/cell/mgu.yaml: two products in a row."""

    gates = "fn"

    def __init__(self, inputs: int, size: int, product: bool = True):
        super().__init__(inputs, size, product)
        self.h = nn.Linear(size, size, bias=False)
        self.n = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, s: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See Step."""
        f, n = self.x(x).chunk(2, -1)
        f = torch.sigmoid(f + self.h(s[0]))
        n = torch.tanh(n + self.n(f * s[0]))
        h = (1 - f) * s[0] + f * n
        return h, [h]

    def links(self) -> list[Link]:
        """See Step."""
        inner = self.recurrent("n", "{l}/f * {l}/h{back}", "n.weight")
        return [*super().links(), *self.recurrent("f", "{l}/h{back}"), *inner]
