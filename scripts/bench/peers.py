"""Everybody else: torch's own layers, plain loops, and packages; each optional, named with its version.

`python -m scripts.bench.peers` says which are here and why the others are not. The packages come with
`pip install -e '.[bench]'`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scripts.bench.cases import Case
from scripts.bench.cells import Link
from scripts.bench.loops import WAYS, Layers
from scripts.bench.more_cells import STEPS
from scripts.bench.packages import PACKAGES
from scripts.bench.system import Declined, System
from scripts.bench.where import package

Build = Callable[[Case, str], System]  # case, device; weights are set later. Raises Declined.


@dataclass(frozen=True)
class Peer:
    """`distribution`: the package that it comes from, whose version is told."""

    name: str
    distribution: str
    build: Build


TORCH_NAMES = {
    "lstm": "LSTM",
    "lstm_projection": "LSTM",
    "gru_cudnn": "GRU",
    "rnn_tanh": "RNN",
    "rnn_relu": "RNN",
}
# torch's order of the gates in its stacked weights, by our names.
GATES = {"LSTM": "ifzo", "GRU": "run", "RNN": "h"}


def torch_links(case: Case, suffixes: bool = True) -> list[Link]:
    """Where our weights lie in nn.LSTM, nn.GRU, nn.RNN, or in a cell of theirs (suffixes=False)."""
    kind, n, out = TORCH_NAMES[case.cell], case.H, []
    ways = (
        (("/fwd", "", "[t-1]"), ("/bwd", "_reverse", "[t+1]")) if case.bidirectional else (("", "", "[t-1]"),)
    )
    for k in range(case.layers):
        source = "x" if k == 0 else f"l{k}/y" if case.bidirectional else f"l{k}/h"
        for direction, end, back in ways:
            path, tail = f"l{k + 1}{direction}", f"_l{k}{end}" if suffixes else ""
            for row, gate in enumerate(GATES[kind]):
                rows = slice(row * n, (row + 1) * n)
                out.append(Link(f"{path}/{gate}:full({source})", f"weight_ih{tail}", rows))
                out.append(Link(f"{path}/{gate}:full({path}/h{back})", f"weight_hh{tail}", rows))
                out.append(Link(f"{path}/{gate}:bias", f"bias_ih{tail}", rows))
                if kind == "GRU" and gate == "n":
                    out.append(Link(f"{path}/n:bias#2", f"bias_hh{tail}", rows))
            if case.cell == "lstm_projection":
                out.append(Link(f"{path}/h:full({path}/m)", f"weight_hr{tail}"))
    return out


def without_second_bias(module: nn.Module) -> None:
    """Torch adds two biases; ours is the first, so the second is 0 (what a GRU needs of it is set later)."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "bias_hh" in name:
                p.zero_()


def own_layer(case: Case, device: str) -> System:
    """nn.LSTM, nn.GRU or nn.RNN: cuDNN on a GPU, oneDNN or loops in C++ on a CPU."""
    if case.cell not in TORCH_NAMES:
        raise Declined("torch has no such layer")
    if not case.input_product:
        raise Declined("torch's layers always multiply their input")
    kind = TORCH_NAMES[case.cell]
    more = {"proj_size": (case.H + 1) // 2} if case.cell == "lstm_projection" else {}
    if kind == "RNN":
        more = {"nonlinearity": case.cell.removeprefix("rnn_")}
    layer = getattr(nn, kind)(case.F, case.H, case.layers, bidirectional=case.bidirectional, **more)
    layer = layer.to(device, case.kind)
    without_second_bias(layer)
    layer.flatten_parameters()
    return System(f"nn.{kind}", torch.__version__, layer, lambda x: layer(x)[0], torch_links(case))


class CellLoop(nn.Module):
    """A Python loop over nn.LSTMCell or nn.GRUCell."""

    def __init__(self, kind: str, inputs: int, size: int):
        super().__init__()
        self.cell = getattr(nn, f"{kind}Cell")(inputs, size)
        self.size, self.pair = size, kind == "LSTM"

    def forward(self, x: Tensor) -> Tensor:
        """x [T, B, inputs] -> h [T, B, size]."""
        zero = x.new_zeros(x.shape[1], self.size)
        state = (zero, zero) if self.pair else zero
        out = []
        for x_t in x:
            state = self.cell(x_t, state)
            out.append(state[0] if self.pair else state)
        return torch.stack(out)


def cell_loop(case: Case, device: str) -> System:
    """The loop that torch's own documentation shows."""
    if case.cell not in ("lstm", "gru_cudnn") or case.layers > 1 or case.bidirectional:
        raise Declined("torch has cells for one layer of LSTM or GRU")
    if not case.input_product:
        raise Declined("torch's cells always multiply their input")
    kind = TORCH_NAMES[case.cell]
    loop = CellLoop(kind, case.F, case.H).to(device, case.kind)
    without_second_bias(loop)
    links = [Link(i.ours, f"cell.{i.theirs}", i.rows) for i in torch_links(case, suffixes=False)]
    return System(f"nn.{kind}Cell loop", torch.__version__, loop, loop, links)


# Buffers of compiled code are not made by ops that a counter sees, and torch's scan lets no counter in.
UNCOUNTED = ("compiled loop", "torch scan")


def way(name: str) -> Build:
    """A loop over the step of the cell as one writes it first."""

    def build(case: Case, device: str) -> System:
        if case.cell not in STEPS:
            raise Declined("no step of this cell is written")
        step = STEPS[case.cell]
        module = Layers(step, case.F, case.H, name, case.layers, case.bidirectional, case.input_product)
        module = module.to(device, case.kind)
        return System(name, torch.__version__, module, module, module.links(), name not in UNCOUNTED)

    return build


PEERS: tuple[Peer, ...] = (
    Peer("torch layer", "torch", own_layer),
    Peer("cell loop", "torch", cell_loop),
    *(Peer(name, "torch", way(name)) for name in WAYS),
    *(Peer(name, distribution, build) for name, distribution, build in PACKAGES),
)
BY_NAME = {peer.name: peer for peer in PEERS}


def build(name: str, case: Case, device: str) -> System:
    """A peer for a case. Raises Declined when its package is missing or it cannot compute the case."""
    peer = BY_NAME[name]
    if not package(peer.distribution):
        raise Declined(f"package {peer.distribution} is not installed")
    return peer.build(case, device)


def main() -> None:
    """Say which peers are here."""
    for peer in PEERS:
        print(f"{peer.name:28s} {peer.distribution:24s} {package(peer.distribution) or 'not installed'}")


if __name__ == "__main__":
    main()
