"""More steps of cells: deep, projected and fed back ones, and those without a matrix in the loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scripts.bench.cells import GRU, LSTM, MGU, Link, Norm, Peephole, Step


class RHN(Step):
    """conf/cell/rhn.yaml: a recurrent highway of depth 3."""

    gates = "ng"
    DEPTH = 3

    def __init__(self, inputs: int, size: int, product: bool = True):
        super().__init__(inputs, size, product)
        self.h = nn.Linear(size, 2 * size, bias=False)
        self.deeper = nn.ModuleList(nn.Linear(size, 2 * size) for _ in range(self.DEPTH - 1))

    def forward(self, x: Tensor, s: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See Step."""
        n, g = (self.x(x) + self.h(s[0])).chunk(2, -1)
        g = torch.sigmoid(g)
        h = g * torch.tanh(n) + (1 - g) * s[0]
        for layer in self.deeper:
            n, g = layer(h).chunk(2, -1)
            g = torch.sigmoid(g)
            h = g * torch.tanh(n) + (1 - g) * h
        return h, [h]

    def links(self) -> list[Link]:
        """See Step."""
        out = []
        for link in [*super().links(), *self.recurrent("ng", f"{{l}}/s{self.DEPTH}{{back}}")]:
            out.append(Link(link.ours.replace("/n:", "/n1:").replace("/g:", "/g1:"), link.theirs, link.rows))
        for k in range(2, self.DEPTH + 1):
            theirs = f"deeper.{k - 2}"
            for row, gate in enumerate("ng"):
                rows = slice(row * self.size, (row + 1) * self.size)
                out.append(Link(f"{{l}}/{gate}{k}:full({{l}}/s{k - 1})", f"{theirs}.weight", rows))
                out.append(Link(f"{{l}}/{gate}{k}:bias", f"{theirs}.bias", rows))
        return out


class Projection(Step):
    """conf/cell/lstm_projection.yaml: the output has half the units of the cell."""

    gates = "ifzo"
    carried = 2

    def __init__(self, inputs: int, size: int, product: bool = True):
        super().__init__(inputs, size, product)
        self.width = (size + 1) // 2
        self.h = nn.Linear(self.width, 4 * size, bias=False)
        self.m = nn.Linear(size, self.width, bias=False)

    def sizes(self) -> list[int]:
        """See Step."""
        return [self.width, self.size]

    def forward(self, x: Tensor, s: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See Step."""
        i, f, z, o = (self.x(x) + self.h(s[0])).chunk(4, -1)
        c = torch.sigmoid(f) * s[1] + torch.sigmoid(i) * torch.tanh(z)
        h = self.m(torch.sigmoid(o) * torch.tanh(c))
        return h, [h, c]

    def links(self) -> list[Link]:
        """See Step."""
        last = Link("{l}/h:full({l}/m)", "m.weight")
        return [*super().links(), *self.recurrent("ifzo", "{l}/h{back}"), last]


class Feedback(Step):
    """conf/model/feedback.yaml without its classifier: two LSTM layers, the upper fed back to the lower."""

    gates = "ifzo"
    carried = 4

    def __init__(self, inputs: int, size: int, product: bool = True):
        super().__init__(inputs, size, product)
        self.h = nn.Linear(size, 4 * size, bias=False)
        self.top = nn.Linear(size, 4 * size, bias=False)
        self.up = nn.Linear(size, 4 * size)
        self.h2 = nn.Linear(size, 4 * size, bias=False)

    def forward(self, x: Tensor, s: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See Step; the first state is the upper layer's output."""
        i, f, z, o = (self.x(x) + self.top(s[0]) + self.h(s[2])).chunk(4, -1)
        c1 = torch.sigmoid(f) * s[3] + torch.sigmoid(i) * torch.tanh(z)
        h1 = torch.sigmoid(o) * torch.tanh(c1)
        i, f, z, o = (self.up(h1) + self.h2(s[0])).chunk(4, -1)
        c2 = torch.sigmoid(f) * s[1] + torch.sigmoid(i) * torch.tanh(z)
        h2 = torch.sigmoid(o) * torch.tanh(c2)
        return h2, [h2, c2, h1, c1]

    def links(self) -> list[Link]:
        """See Step. Both layers have their names from the graph: there is no {l}."""
        out = [Link(link.ours.replace("{l}", "l1"), link.theirs, link.rows) for link in super().links()]
        reads = (
            ("l1", "l1/h[t-1]", "h"),
            ("l1", "l2/h[t-1]", "top"),
            ("l2", "l1/h", "up"),
            ("l2", "l2/h[t-1]", "h2"),
        )
        for k, gate in enumerate("ifzo"):
            rows = slice(k * self.size, (k + 1) * self.size)
            out += [
                Link(f"{layer}/{gate}:full({source})", f"{name}.weight", rows)
                for layer, source, name in reads
            ]
            out.append(Link(f"l2/{gate}:bias", "up.bias", rows))
        return out


class MinGRU(Step):
    """conf/cell/mingru.yaml: affine in the state, unit by unit."""

    gates = "un"

    def forward(self, x: Tensor, s: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See Step."""
        u, n = self.x(x).chunk(2, -1)
        u = torch.sigmoid(u)
        h = (1 - u) * s[0] + u * n
        return h, [h]


class SRU(Step):
    """conf/cell/sru.yaml: the output is h, what is carried is c."""

    gates = "wfrk"

    def __init__(self, inputs: int, size: int, product: bool = True):
        super().__init__(inputs, size, product)
        assert isinstance(self.x, nn.Linear), "two of four products have no bias"
        self.x = nn.Linear(inputs, 4 * size, bias=False)
        self.bias = nn.Parameter(torch.zeros(2 * size))
        self.peep = nn.Parameter(torch.zeros(2 * size))

    def forward(self, x: Tensor, s: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See Step."""
        n = self.size
        w, fr, k = self.x(x).split([n, 2 * n, n], -1)
        old = torch.cat([s[0], s[0]], -1)
        f, r = torch.sigmoid(fr + self.peep * old + self.bias).chunk(2, -1)
        c = f * s[0] + (1 - f) * w
        return r * c + (1 - r) * k, [c]

    def links(self) -> list[Link]:
        """See Step."""
        n = self.size
        out = [
            Link(f"{{l}}/{gate}:full({{x}})", "x.weight", slice(k * n, (k + 1) * n))
            for k, gate in enumerate("wfrk")
        ]
        for k, gate in enumerate("fr"):
            rows = slice(k * n, (k + 1) * n)
            out.append(Link(f"{{l}}/{gate}:bias", "bias", rows))
            out.append(Link(f"{{l}}/{gate}:diag({{l}}/c{{back}})", "peep", rows))
        return out


# Our name of the cell (conf/cell, or the model feedback) -> its step.
STEPS: dict[str, type[Step]] = {
    "lstm": LSTM,
    "gru_cudnn": GRU,
    "lstm_peephole": Peephole,
    "lstm_norm": Norm,
    "lstm_projection": Projection,
    "mgu": MGU,
    "rhn": RHN,
    "feedback": Feedback,
    "mingru": MinGRU,
    "sru": SRU,
}
