"""Comparing a Network with the oracle: same weights, inputs and loss, then every result and gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from torch import Tensor

from framework.graph import Graph
from tests import oracle
from tests.graphs import Batch

TOLERANCE = 1e-9  # in float64, relative to the scale of the tensor that is compared


@dataclass
class Results:
    """All there is to compare, by readable names: `out y`, `state c`, `grad w`, `grad input x`."""

    outputs: dict[str, Tensor]
    state: Any
    tensors: dict[str, Tensor | None] = field(default_factory=dict)


def loss_weights(outputs: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Fixed random factors for a loss that sees every number of every output."""
    generator = torch.Generator().manual_seed(seed + 1000)
    return {
        name: torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
        for name, y in outputs.items()
    }


def random_loss(outputs: Mapping[str, Tensor], seed: int) -> Tensor:
    """A scalar that depends on all outputs (every sixth seed: the last one alone), linear and quadratic."""
    if seed % 6 == 5:
        outputs = dict([list(outputs.items())[-1]])
    factors = loss_weights(outputs, seed)
    terms = [(y * factors[name]).sum() + (y * y * factors[name]).sum() for name, y in outputs.items()]
    return torch.stack(terms).sum()


def fresh(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the inputs that collect gradients of their own."""
    return {n: x.detach().clone().requires_grad_(x.is_floating_point()) for n, x in inputs.items()}


def run_oracle(
    graph: Graph,
    weights: Mapping[str, Tensor],
    chunks: list[Batch],
    seed: int = 0,
    training: bool = False,
    mask_seeds: list[int] | None = None,
) -> Results:
    """The oracle over chunks with carried state, and one backward through all of them."""
    weights = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
    state, outs, ins = None, [], []
    for i, chunk in enumerate(chunks):
        ins.append(fresh(chunk.inputs))
        y, state = oracle.run(
            graph,
            weights,
            ins[-1],
            state,
            chunk.lengths,
            chunk.resets,
            training,
            mask_seeds[i] if mask_seeds else 0,
        )
        outs.append(y)
    outputs = {name: torch.cat([y[name] for y in outs]) for name in outs[0]}
    random_loss(outputs, seed).backward()
    return collect(outputs, state, {n: w.grad for n, w in weights.items()}, ins)


def run_network(net: Any, chunks: list[Batch], seed: int = 0) -> Results:
    """The network over chunks with carried state, as `run_oracle`."""
    net.zero_grad()
    state, outs, ins = None, [], []
    for chunk in chunks:
        ins.append(fresh(chunk.inputs))
        y, state = call(net, ins[-1], state, chunk)
        outs.append(y)
    outputs = {name: torch.cat([y[name] for y in outs]) for name in outs[0]}
    random_loss(outputs, seed).backward()
    return collect(outputs, state, net.grads(), ins)


def call(net: Any, inputs: dict[str, Tensor], state: Any, chunk: Batch) -> tuple[dict[str, Tensor], Any]:
    """One forward pass in the form with names, whatever the number of inputs and outputs."""
    given = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    y, state = net(given, state=state, lengths=chunk.lengths, resets=chunk.resets)
    return (y if isinstance(y, dict) else dict(zip(net.graph.outputs, [y], strict=True))), state


def collect(
    outputs: dict[str, Tensor], state: Any, grads: Mapping[str, Tensor | None], ins: list[dict[str, Tensor]]
) -> Results:
    tensors: dict[str, Tensor | None] = {f"out {n}": y.detach() for n, y in outputs.items()}
    tensors |= {f"grad {n}": g for n, g in grads.items()}
    for name in ins[0]:
        if ins[0][name].is_floating_point():
            parts = [x[name].grad if x[name].grad is not None else torch.zeros_like(x[name]) for x in ins]
            tensors[f"grad input {name}"] = torch.cat(parts)
    return Results(outputs, state, tensors)


def assert_same(got: Results, want: Results, source: Any = None, tolerance: float = TOLERANCE) -> None:
    """Outputs and gradients are equal, up to `tolerance` times the scale of what is wanted.

    `source`: the graph in YAML form, printed in the message. A gradient of None is one of zeros.
    """
    extra = got.tensors.keys() - want.tensors.keys()
    problems = [f"{name}: not in the oracle" for name in extra]
    for name in want.tensors:
        problems += difference(name, got.tensors.get(name), want.tensors[name], tolerance)
    assert not problems, "\n".join([*sorted(problems), describe(source)])


def assert_same_state(
    got: Any, want: Mapping[str, Tensor], source: Any = None, tolerance: float = TOLERANCE
) -> None:
    """The network's `state[name]` is the last value of the oracle's, for every name of either."""
    problems = (
        [] if set(got.keys()) <= set(want) else [f"states only in the network: {set(got.keys()) - set(want)}"]
    )
    for name in set(got.keys()) & set(want):
        if want[name].is_floating_point():
            problems += difference(f"state {name}", got[name], want[name][0], tolerance)
    assert not problems, "\n".join([*sorted(problems), describe(source)])


def difference(name: str, got: Tensor | None, want: Tensor | None, tolerance: float) -> list[str]:
    """What is wrong with `got`, in words; nothing if it is equal enough."""
    if got is None or want is None:
        other = want if got is None else got
        return (
            []
            if other is None or not bool(other.any())
            else [f"{name}: {'no gradient' if got is None else 'a gradient'}, against the oracle"]
        )
    if got.shape != want.shape:
        return [f"{name}: shape {tuple(got.shape)}, not {tuple(want.shape)}"]
    if want.numel() == 0:
        return []
    got, want = got.detach().double(), want.detach().double()
    error = (got - want).abs().max().item()
    scale = max(want.abs().max().item(), 1e-3)
    # Written so that a NaN is a difference.
    return [] if error <= tolerance * scale else [f"{name}: off by {error:.2e} at scale {scale:.2e}"]


def describe(source: Any) -> str:
    """The graph as YAML, to paste into a test of its own."""
    return "" if source is None else yaml.safe_dump(source, sort_keys=False, width=110)


def copy_weights(net: Any, weights: Mapping[str, Tensor]) -> None:
    """Give the network the oracle's weights, by their canonical names.

    The network may lack those of nodes that no output needs: the oracle gives them no gradient either.
    """
    views = net.weights()
    assert views.keys() <= weights.keys(), views.keys() - weights.keys()
    with torch.no_grad():
        for name, view in views.items():
            assert view.shape == weights[name].shape, name
            view.copy_(weights[name])
