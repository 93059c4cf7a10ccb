"""The shared cells are the equations of their papers, written out here a second time, as plain loops.

The oracle runs the YAML, so this says nothing of the planner: it is about conf/cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from framework.load import load_graph
from tests import oracle
from tests.oracle import random_weights

T, B, F, H = 5, 2, 3, 4
Values = dict[str, Tensor]
sigmoid, tanh, relu = torch.sigmoid, torch.tanh, torch.relu


@dataclass
class Weights:
    """The weights of the cell node `l`, looked up by gate and what they multiply."""

    by_name: dict[str, Tensor]

    def dot(self, gate: str, source: str, value: Tensor) -> Tensor:
        """The dense product of `gate` with a source; `h-` is the last step's h, `r*h-` a product."""
        inner = "x" if source == "x" else " * ".join(f"l/{part}" for part in source.split("*"))
        return value @ self.by_name[f"l/{gate}:full({inner.replace('-', '[t-1]')})"].T

    def vector(self, gate: str, term: str) -> Tensor:
        return self.by_name[f"l/{gate}:{term}"]

    def gate(
        self, gate: str, x: Tensor, h: Tensor | None = None, source: str = "h-", bias: str = "bias"
    ) -> Tensor:
        """W x + U h + b, without U h for a gate that sees the input alone."""
        total = self.dot(gate, "x", x) + (self.vector(gate, bias) if bias else 0)
        return total if h is None else total + self.dot(gate, source, h)


def lstm_tail(w: Weights, i: Tensor, f: Tensor, z: Tensor, o: Tensor, c: Tensor) -> Values:
    new = f * c + i * z
    return {"c": new, "h": o * tanh(new)}


def lstm(w: Weights, x: Tensor, s: Values) -> Values:
    i, f, o = (sigmoid(w.gate(g, x, s["h"])) for g in "ifo")
    return lstm_tail(w, i, f, tanh(w.gate("z", x, s["h"])), o, s["c"])


def lstm_cifg(w: Weights, x: Tensor, s: Values) -> Values:
    f, o = (sigmoid(w.gate(g, x, s["h"])) for g in "fo")
    return lstm_tail(w, 1 - f, f, tanh(w.gate("z", x, s["h"])), o, s["c"])


def lstm_peephole(w: Weights, x: Tensor, s: Values) -> Values:
    i = sigmoid(w.gate("i", x, s["h"]) + w.vector("i", "diag(l/c[t-1])") * s["c"])
    f = sigmoid(w.gate("f", x, s["h"]) + w.vector("f", "diag(l/c[t-1])") * s["c"])
    c = f * s["c"] + i * tanh(w.gate("z", x, s["h"]))
    o = sigmoid(w.gate("o", x, s["h"]) + w.vector("o", "diag(l/c)") * c)
    return {"c": c, "h": o * tanh(c)}


def lstm_norm(w: Weights, x: Tensor, s: Values) -> Values:
    def norm(gate: str, term: str, value: Tensor) -> Tensor:
        name = f"norm({term})"
        gain, bias = w.vector(gate, f"{name}.gain"), w.vector(gate, f"{name}.bias")
        return torch.nn.functional.layer_norm(value, (H,), gain, bias, 1e-5)

    def gate(g: str) -> Tensor:
        from_x = norm(g, "full(x)", w.dot(g, "x", x))
        return from_x + norm(g, "full(l/h[t-1])", w.dot(g, "h-", s["h"])) + w.vector(g, "bias")

    c = sigmoid(gate("f")) * s["c"] + sigmoid(gate("i")) * tanh(gate("z"))
    return {"c": c, "h": sigmoid(gate("o")) * tanh(norm("h", "l/c", c))}


def lstm_projection(w: Weights, x: Tensor, s: Values) -> Values:
    made = lstm(w, x, s)
    return {"c": made["c"], "h": w.dot("h", "m", made["h"])}


def mlstm(w: Weights, x: Tensor, s: Values) -> Values:
    m = w.dot("m", "x", x) * w.dot("m", "h-", s["h"])
    i, f, o = (sigmoid(w.gate(g, x, m, "m")) for g in "ifo")
    return lstm_tail(w, i, f, tanh(w.gate("z", x, m, "m")), o, s["c"])


def gru(w: Weights, x: Tensor, s: Values) -> Values:
    r, u = (sigmoid(w.gate(g, x, s["h"])) for g in "ru")
    n = tanh(w.gate("n", x, r * s["h"], "r*h-"))
    return {"h": u * s["h"] + (1 - u) * n}


def gru_cudnn(w: Weights, x: Tensor, s: Values) -> Values:
    r, u = (sigmoid(w.gate(g, x, s["h"])) for g in "ru")
    n = tanh(w.gate("n", x) + r * (w.dot("n", "h-", s["h"]) + w.vector("n", "bias#2")))
    return {"h": u * s["h"] + (1 - u) * n}


def mgu(w: Weights, x: Tensor, s: Values) -> Values:
    f = sigmoid(w.gate("f", x, s["h"]))
    return {"h": (1 - f) * s["h"] + f * tanh(w.gate("n", x, f * s["h"], "f*h-"))}


def ugrnn(w: Weights, x: Tensor, s: Values) -> Values:
    g = sigmoid(w.gate("g", x, s["h"]))
    return {"h": g * s["h"] + (1 - g) * tanh(w.gate("n", x, s["h"]))}


def indrnn(w: Weights, x: Tensor, s: Values) -> Values:
    return {"h": relu(w.gate("h", x) + w.vector("h", "diag(l/h[t-1])") * s["h"])}


def mingru(w: Weights, x: Tensor, s: Values) -> Values:
    u = sigmoid(w.gate("u", x))
    return {"h": (1 - u) * s["h"] + u * w.gate("n", x)}


def minlstm(w: Weights, x: Tensor, s: Values) -> Values:
    f, i = (sigmoid(w.gate(g, x)) for g in "fi")
    return {"h": f / (f + i) * s["h"] + i / (f + i) * w.gate("n", x)}


def sru(w: Weights, x: Tensor, s: Values) -> Values:
    f, r = (sigmoid(w.gate(g, x) + w.vector(g, "diag(l/c[t-1])") * s["c"]) for g in "fr")
    c = f * s["c"] + (1 - f) * w.dot("w", "x", x)
    return {"c": c, "h": r * c + (1 - r) * w.dot("k", "x", x)}


def nas(w: Weights, x: Tensor, s: Values) -> Values:
    a = [w.dot(f"a{k}", "x", x) + w.dot(f"a{k}", "h-", s["h"]) for k in range(8)]
    product = w.dot("a3", "x", x) * w.dot("a3", "h-", s["h"])
    first = tanh(tanh(sigmoid(a[0]) * relu(a[1])) + s["c"])
    c = first * tanh(sigmoid(a[2]) + relu(product))
    right = tanh(tanh(tanh(a[4]) * sigmoid(a[5])) + sigmoid(tanh(a[6]) + sigmoid(a[7])))
    return {"c": c, "h": tanh(c * right)}


def rhn(w: Weights, x: Tensor, s: Values) -> Values:
    state = s["s3"]
    for layer in (1, 2, 3):
        source = {1: "s3-", 2: "s1", 3: "s2"}[layer]
        n, g = (w.dot(f"{k}{layer}", source, state) + w.vector(f"{k}{layer}", "bias") for k in "ng")
        if layer == 1:
            n, g = n + w.dot("n1", "x", x), g + w.dot("g1", "x", x)
        state = tanh(n) * sigmoid(g) + state * (1 - sigmoid(g))
    return {"s3": state}


def scrn(w: Weights, x: Tensor, s: Values) -> Values:
    slow = 0.05 * w.dot("s", "x", x) + 0.95 * s["s"]
    fast = sigmoid(w.dot("h", "s", slow) + w.dot("h", "x", x) + w.dot("h", "h-", s["h"]))
    return {"s": slow, "h": fast, "y": torch.cat([fast, slow], -1)}


def rnn(function: Callable[[Tensor], Tensor]) -> Callable[[Weights, Tensor, Values], Values]:
    return lambda w, x, s: {"h": function(w.gate("h", x, s["h"]))}


# Cell -> (one step, the sizes of what it carries; the first name is its out).
EQUATIONS: dict[str, tuple[Callable[[Weights, Tensor, Values], Values], dict[str, int]]] = {
    "lstm": (lstm, {"h": H, "c": H}),
    "lstm_cifg": (lstm_cifg, {"h": H, "c": H}),
    "lstm_peephole": (lstm_peephole, {"h": H, "c": H}),
    "lstm_norm": (lstm_norm, {"h": H, "c": H}),
    "lstm_projection": (lstm_projection, {"h": 2, "c": H}),
    "mlstm": (mlstm, {"h": H, "c": H}),
    "gru": (gru, {"h": H}),
    "gru_cudnn": (gru_cudnn, {"h": H}),
    "mgu": (mgu, {"h": H}),
    "ugrnn": (ugrnn, {"h": H}),
    "indrnn": (indrnn, {"h": H}),
    "mingru": (mingru, {"h": H}),
    "minlstm": (minlstm, {"h": H}),
    "sru": (sru, {"h": H, "c": H}),
    "nas": (nas, {"h": H, "c": H}),
    "rhn": (rhn, {"s3": H}),
    "scrn": (scrn, {"y": H, "s": 1, "h": H - 1}),
    "rnn_tanh": (rnn(tanh), {"h": H}),
    "rnn_relu": (rnn(relu), {"h": H}),
}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("cell", EQUATIONS)
def test_cell_is_its_equations(cell: str):
    step, sizes = EQUATIONS[cell]
    node = {"cell": cell, "size": H, "in": "x"}
    graph = load_graph({"inputs": {"x": {"size": F}}, "nodes": {"l": node}, "outputs": ["l"]})
    weights = random_weights(graph, 0, scale=1.0)
    x = normal(T, B, F)
    y, _ = oracle.run(graph, weights, {"x": x})
    state = {name: torch.zeros(B, size, dtype=torch.float64) for name, size in sizes.items()}
    for t in range(T):
        state = step(Weights(weights), x[t], state)
        torch.testing.assert_close(y["l"][t], state[next(iter(sizes))], rtol=1e-11, atol=1e-12)


def test_clockwork_moves_when_its_clock_ticks():
    source = {
        "inputs": {"x": {"size": F}, "clock": {"size": H}},
        "nodes": {"l": {"cell": "clockwork", "size": H, "in": {"x": "x", "mask": "clock"}}},
        "outputs": ["l"],
    }
    graph = load_graph(source)
    weights = random_weights(graph, 0)
    x = normal(T, B, F)
    periods = torch.tensor([1, 1, 2, 4])
    clock = (torch.arange(T)[:, None] % periods == 0).double()[:, None].expand(T, B, H)
    y, _ = oracle.run(graph, weights, {"x": x, "clock": clock})
    h = torch.zeros(B, H, dtype=torch.float64)
    for t in range(T):
        h = torch.where(clock[t] == 1, tanh(Weights(weights).gate("n", x[t], h)), h)
        torch.testing.assert_close(y["l"][t], h, rtol=1e-11, atol=1e-12)
