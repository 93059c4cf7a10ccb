"""Errors of whole networks against the float64 oracle beside those of torch: at most twice as large.

How the bound is kept from being luck. A single largest error is a draw from a wide distribution: between two
equally good programs it differs by a factor of 2 often. So errors are pooled: over lanes, units and several
weights, inputs and kinds of calls (plain, lengths, resets, both; in either direction of time), each as a part
of the largest number of its tensor, and compared as root mean squares. That of N numbers scatters by about
1 / sqrt(2 N), and N is at least 256, for single steps 1,024: a factor of 2 is out of chance's reach. Torch's
own error is that of `runner="torch"` in the same dtype, or, where torch happens to be nearly exact, that of
rounding the exact numbers to the dtype. What one error in a hundred exceeds is compared as well, where
thousands are pooled. Weights, inputs and gradients are numbers that every dtype can hold: their rounding is
nobody's error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from framework import Network
from framework.graph import Graph
from tests import oracle
from tests.compare import copy_weights
from tests.graphs import Batch, random_batch
from tests.oracle import random_weights

KINDS = (torch.float32, torch.bfloat16, torch.float16)
Tensors = dict[str, Tensor]


def common(x: Tensor) -> Tensor:
    """The nearest numbers that all dtypes can hold."""
    return x.detach().to(torch.bfloat16).to(torch.float16).double()


@dataclass
class Call:
    """One call in float64."""

    batch: Batch
    weights: Tensors
    dy: Tensors


def drawn(graph: Graph, seed: int, steps: int, lanes: int) -> Call:
    """Call `seed`: its two lowest bits say whether there are lengths and resets."""
    batch = random_batch(graph, seed, bool(seed & 1), bool(seed & 2), steps=steps, lanes=lanes)
    inputs = {name: common(x) for name, x in batch.inputs.items()}
    generator = torch.Generator().manual_seed(seed + 77)
    dy = {
        shown: common(torch.randn(steps, lanes, graph.nodes[node].size, generator=generator))
        for shown, node in graph.outputs.items()
    }
    weights = {name: common(w) for name, w in random_weights(graph, seed).items()}
    return Call(Batch(inputs, batch.lengths, batch.resets), weights, dy)


def results(
    call: Call, kind: torch.dtype, run: Callable[[Tensors, Batch], tuple[Tensors, Callable[[], Tensors]]]
) -> Tensors:
    """Outputs and gradients of one call in a dtype; `run` gives outputs, and then the weights' gradients."""
    inputs = {name: x.to(kind).requires_grad_() for name, x in call.batch.inputs.items()}
    weights = {name: w.to(kind) for name, w in call.weights.items()}
    outputs, gradients = run(weights, Batch(inputs, call.batch.lengths, call.batch.resets))
    torch.autograd.backward(list(outputs.values()), [call.dy[name].to(kind) for name in outputs])
    found = {f"out {name}": y.detach() for name, y in outputs.items()}
    found |= {f"grad {name}": g for name, g in gradients().items()}
    return found | {f"grad input {name}": x.grad for name, x in inputs.items() if x.grad is not None}


def by_network(net: Network, call: Call, kind: torch.dtype, seed: int) -> Tensors:
    def run(weights: Tensors, batch: Batch) -> tuple[Tensors, Callable[[], Tensors]]:
        copy_weights(net, weights)
        net.zero_grad()
        torch.manual_seed(seed)  # the same masks in all
        given = batch.inputs if len(batch.inputs) > 1 else batch.inputs["x"]
        y, _ = net(given, lengths=batch.lengths, resets=batch.resets)
        outputs = y if isinstance(y, dict) else {next(iter(call.dy)): y}
        return outputs, lambda: {n: g for n, g in net.grads().items() if g is not None}

    return results(call, kind, run)


def by_oracle(graph: Graph, call: Call, mask_seed: int) -> Tensors:
    def run(weights: Tensors, batch: Batch) -> tuple[Tensors, Callable[[], Tensors]]:
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        outputs, _ = oracle.run(
            graph, leaves, batch.inputs, None, batch.lengths, batch.resets, training=True, seed=mask_seed
        )
        return outputs, lambda: {n: w.grad for n, w in leaves.items() if w.grad is not None}

    return results(call, torch.float64, run)


def rms(x: Tensor, by_step: bool) -> Tensor:
    """Of all numbers, or of those of each step of [calls, T, B, size]."""
    return x.square().mean((0, 2, 3) if by_step else None).sqrt()


def problems(name: str, found: list[Tensor], torch_found: list[Tensor], exact: list[Tensor]) -> list[str]:
    """Where errors are more than twice torch's, in words. Lists: one tensor for each call."""
    assert all(not x.isnan().any() for x in (*found, *torch_found)), name

    def errors(results: list[Tensor]) -> Tensor:
        parts = [(x.double() - e) / e.abs().max() for x, e in zip(results, exact, strict=True)]
        return torch.stack(parts)

    rounded = [e.to(found[0].dtype) for e in exact]
    ours, torchs, rounding = errors(found), errors(torch_found), errors(rounded)
    out = []
    for by_step in (False, True) if ours.dim() == 4 else (False,):
        assert ours.numel() / (ours.shape[1] if by_step else 1) >= (1024 if by_step else 256)
        allowed = 2 * torch.maximum(rms(torchs, by_step), rms(rounding, by_step))
        ratio = (rms(ours, by_step) / allowed).max().item()
        if not ratio <= 1:
            out.append(f"{name}: {'a step' if by_step else 'all'}: {2 * ratio:.2f} times torch's error")
    if ours.numel() >= 4096:
        tails = [x.abs().flatten().quantile(0.99).item() for x in (ours, torchs, rounding)]
        if not tails[0] <= 2 * max(tails[1:]):
            out.append(f"{name}: one in a hundred: {tails[0] / max(tails[1:]):.2f} times torch's error")
    return out


def worse_than_torch(
    runner: str,
    cases: Iterable[tuple[Graph, Iterable[int]]],
    steps: int,
    lanes: int,
    check: Callable[[Network], None],
) -> list[str]:
    """Where networks with `runner` err more than twice as much as with torch, in words.

    cases: graphs of the same nodes, in either direction of time, and the seeds of the calls of each;
    check(net): that the network with `runner` is what it should be.
    """
    found: dict[tuple[torch.dtype, str], dict[str, list[Tensor]]] = {}
    exact: dict[str, list[Tensor]] = {}
    for graph, seeds in cases:
        nets = {(kind, r): Network(graph, runner=r).to(kind) for kind in KINDS for r in ("torch", runner)}
        for kind in KINDS:
            check(nets[kind, runner])
        for seed in seeds:
            call = drawn(graph, seed, steps, lanes)
            for which, net in nets.items():
                for name, x in by_network(net, call, which[0], seed).items():
                    found.setdefault(which, {}).setdefault(name.replace("t+", "t-"), []).append(x)
            mask_seed = nets[KINDS[0], "torch"].seed
            assert all(net.seed == mask_seed for net in nets.values())
            for name, x in by_oracle(graph, call, mask_seed).items():
                exact.setdefault(name.replace("t+", "t-"), []).append(x)
    wrong = []
    for kind in KINDS:
        ours, torchs = found[kind, runner], found[kind, "torch"]
        assert ours.keys() == torchs.keys() == exact.keys()
        for name, want in exact.items():
            wrong += [f"{kind} {line}" for line in problems(name, ours[name], torchs[name], want)]
    return wrong
