"""For people who come from torch.nn: `lstm(...)` and `from_torch(nn.LSTM | nn.GRU | nn.RNN)`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from framework.errors import ConfigError
from framework.load import load_graph
from framework.network import Network

# torch's order of the gates in its stacked weights, and our cell of the same equations.
GATES = {"lstm": "ifzo", "lstm_projection": "ifzo", "gru_cudnn": "run", "rnn_tanh": "h", "rnn_relu": "h"}


def lstm(
    input_size: int,
    size: int,
    layers: int = 1,
    bidirectional: bool = False,
    cell: str = "lstm",
    dropout: float = 0.0,
    runner: str = "auto",
    **params: Any,
) -> Network:
    """A stack of `layers` cells of `size` units over inputs [T, B, input_size], like nn.LSTM.

    `cell`: any name of conf/cell; `params` go to it. `dropout` acts between layers. Layers are named l1, l2
    and so on. The output is the last layer's, [T, B, size] (twice that when bidirectional). Raises
    GraphError.
    """
    nodes: dict[str, Any] = {}
    below = "x"
    for k in range(1, layers + 1):
        nodes[f"l{k}"] = {"cell": cell, "size": size, "in": below, "bidirectional": bidirectional, **params}
        below = f"l{k}"
        if dropout and k < layers:
            width = params.get("proj", size) * (2 if bidirectional else 1)
            nodes[f"d{k}"] = {"size": width, "is": f"dropout(l{k}, {dropout})"}
            below = f"d{k}"
    graph = {"inputs": {"x": {"size": input_size}}, "nodes": nodes, "outputs": [f"l{layers}"]}
    return Network(load_graph(graph), runner=runner)


def from_torch(theirs: nn.RNNBase, runner: str = "auto") -> Network:
    """The same network as `theirs` (nn.LSTM, nn.GRU or nn.RNN) with copied weights, dtype and device.

    Layout stays time first, [T, B, features], whatever `batch_first` says. Where torch has two biases that
    are added, ours is their sum; without biases ours stand at zero. Raises ConfigError for other modules.
    """
    kind = type(theirs).__name__
    simple = "rnn_" + getattr(theirs, "nonlinearity", "tanh")
    cell = {"LSTM": "lstm", "GRU": "gru_cudnn", "RNN": simple}.get(kind)
    if cell is None or not isinstance(theirs, nn.RNNBase):
        raise ConfigError("from_torch", f"{kind} is not nn.LSTM, nn.GRU or nn.RNN",
                          "Write its equations as a cell: see docs/language.md.")  # fmt: skip
    if theirs.batch_first:
        warnings.warn("from_torch drops batch_first: pass x as [T, B, features]", UserWarning, stacklevel=2)
    params = {"proj": theirs.proj_size} if theirs.proj_size else {}
    cell = "lstm_projection" if theirs.proj_size else cell
    net = lstm(theirs.input_size, theirs.hidden_size, theirs.num_layers, theirs.bidirectional, cell,
               float(theirs.dropout), runner, **params)  # fmt: skip
    first = next(theirs.parameters())
    net = net.to(device=first.device, dtype=first.dtype).train(theirs.training)
    ours = net.weights()
    with torch.no_grad():
        for name, value in _translated(theirs, cell, ours):
            ours[name].copy_(value)
    return net


def _translated(theirs: nn.RNNBase, cell: str, ours: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(our name, torch's rows for it) of every weight."""
    h = theirs.hidden_size
    for name in ours:
        path, term = name.split(":")
        *cell_path, gate = path.split("/")
        layer = int(cell_path[0].removeprefix("l")) - 1
        suffix = f"_l{layer}" + ("_reverse" if cell_path[-1] == "bwd" else "")
        if term.endswith("/m)"):
            yield name, getattr(theirs, f"weight_hr{suffix}")
            continue
        at = GATES[cell].index(gate) * h
        if term.startswith("bias"):
            yield name, _bias(theirs, suffix, gate, term, ours, path, slice(at, at + h))
        else:
            kind = "hh" if "[t" in term else "ih"
            yield name, getattr(theirs, f"weight_{kind}{suffix}")[at : at + h]


def _bias(
    theirs: nn.RNNBase, suffix: str, gate: str, term: str, ours: dict[str, Tensor], path: str, rows: slice
) -> Tensor:
    if not theirs.bias:
        return torch.zeros_like(ours[f"{path}:{term}"])
    outer, inner = (getattr(theirs, f"bias_{kind}{suffix}")[rows] for kind in ("ih", "hh"))
    if f"{path}:bias#2" in ours:  # the GRU's candidate keeps both: the reset gate weighs the second one
        return inner if term == "bias#2" else outer
    return outer + inner
