"""framework.from_torch against torch.nn in float64: outputs, last states, every gradient; packed too."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import framework
from framework import Network, from_torch

T, B, F, H = 6, 3, 4, 5
LENGTHS = torch.tensor([4, 6, 1])

KINDS = {
    "lstm": lambda **k: nn.LSTM(F, H, **k),
    "lstm_proj": lambda **k: nn.LSTM(F, H, proj_size=2, **k),
    "gru": lambda **k: nn.GRU(F, H, **k),
    "tanh": lambda **k: nn.RNN(F, H, nonlinearity="tanh", **k),
    "relu": lambda **k: nn.RNN(F, H, nonlinearity="relu", **k),
}
CASES = list(itertools.product(KINDS, (1, 2, 3), (False, True), (True, False)))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def torch_net(kind: str, layers: int, bidirectional: bool, bias: bool) -> nn.RNNBase:
    torch.manual_seed(7)
    return KINDS[kind](num_layers=layers, bidirectional=bidirectional, bias=bias).double()


def same(got: Tensor | None, want: Tensor | None, what: str) -> None:
    assert got is not None and want is not None, what
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10, msg=lambda m: f"{what}: {m}")


def torch_parts(
    theirs: nn.RNNBase, x: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """torch's output [T, B, ...] and last states h and c (None but for an LSTM)."""
    if lengths is None:
        y, last = theirs(x)
    else:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, last = theirs(packed)
        y, _ = nn.utils.rnn.pad_packed_sequence(y, total_length=x.shape[0])
    return (y, *last) if isinstance(last, tuple) else (y, last, None)


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize(("kind", "layers", "bidirectional", "bias"), CASES)
def test_from_torch(kind: str, layers: int, bidirectional: bool, bias: bool, packed: bool):
    theirs = torch_net(kind, layers, bidirectional, bias)
    net = from_torch(theirs)
    lengths = LENGTHS if packed else None
    x1, x2 = (normal(T, B, F).requires_grad_() for _ in range(2))
    y, state = net(x1, lengths=lengths)
    want, h, c = torch_parts(theirs, x2, lengths)
    same(y, want, "output")
    directions = directions_of(net)
    assert len(directions) == layers * (2 if bidirectional else 1)
    check_states(state, h, c, directions)

    factor = normal(*want.shape, seed=1)
    (y * factor).sum().backward()
    (want * factor).sum().backward()
    same(x1.grad, x2.grad, "input gradient")
    check_gradients(net, theirs, directions)


def check_states(state: Any, h: Tensor, c: Tensor | None, directions: list[str]) -> None:
    """The carried values of the directions that run forward in time are torch's last states."""
    for row, prefix in enumerate(directions):
        if is_backward(prefix):
            continue  # it starts anew in every chunk: there is nothing to carry
        same(state[f"{prefix}/h"], h[row], f"{prefix}/h")
        if c is not None:
            same(state[f"{prefix}/c"], c[row], f"{prefix}/c")


def is_backward(prefix: str) -> bool:
    return prefix.endswith("/bwd")


def directions_of(net: Network) -> list[str]:
    """The paths of the cells in torch's order: layer by layer, forward before backward."""
    prefixes = {name.split(":")[0].rpartition("/")[0] for name in net.weights()}

    def layer(prefix: str) -> int:
        number = re.search(r"\d+", prefix)
        return int(number[0]) if number else 1  # one layer alone has no number

    return sorted(prefixes, key=lambda prefix: (layer(prefix), is_backward(prefix)))


def check_gradients(net: Network, theirs: nn.RNNBase, directions: list[str]) -> None:
    """Every weight of ours, by its name, against the rows of torch's stacked ones; and none is left over."""
    gates = {"LSTM": "ifzo", "GRU": "run"}.get(type(theirs).__name__, "h")
    ours, seen = net.grads(), set()
    for row, prefix in enumerate(directions):
        per_layer = 2 if theirs.bidirectional else 1
        suffix = f"l{row // per_layer}" + ("_reverse" if is_backward(prefix) else "")

        def torch_rows(kind: str, gate: str, suffix: str = suffix) -> Tensor:
            at = gates.index(gate) * H
            return getattr(theirs, f"{kind}_{suffix}").grad[at : at + H]

        for name in [n for n in ours if n.startswith(f"{prefix}/")]:
            node, term = name.removeprefix(f"{prefix}/").split(":")
            if term == f"full({prefix}/m)":
                want = getattr(theirs, f"weight_hr_{suffix}").grad
            elif term.startswith(f"full({prefix}/h[t"):
                want = torch_rows("weight_hh", node)
            elif term.startswith("full("):
                want = torch_rows("weight_ih", node)
            elif theirs.bias:
                # Where we have one bias, torch has two that are added: each has the gradient of ours.
                want = torch_rows("bias_hh" if term == "bias#2" else "bias_ih", node)
            else:
                continue  # torch has none; ours may stand at zero
            same(ours[name], want, name)
            seen.add(name)
    each = len(gates) * (3 if theirs.bias else 2)  # input, recurrent, and one bias
    each += bool(theirs.proj_size) + (
        gates == "run" and theirs.bias
    )  # GRU: reset after needs two biases in n
    assert len(seen) == len(directions) * each


@pytest.mark.parametrize("cell", ["lstm", "gru_cudnn", "gru", "mgu"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_function_makes_what_torch_would(cell: str, layers: int, bidirectional: bool):
    net = framework.lstm(F, H, layers=layers, bidirectional=bidirectional, cell=cell)
    y, _ = net(normal(T, B, F).float())
    assert y.shape == (T, B, H * (2 if bidirectional else 1))
