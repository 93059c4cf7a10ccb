"""The network that computes: in another dtype than its weights are kept in, with noise, with their average.

The weights that the optimizer changes are float32 and exact. A bfloat16 copy of them computes where asked
(Micikevicius et al., Mixed precision training, 2018, section 3.1: a master copy of the weights), or one with
Gaussian noise (Graves, Practical variational inference for neural networks, 2011; Graves, Mohamed & Hinton,
Speech recognition with deep recurrent neural networks, 2013: drawn anew for each sequence, here each batch).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from framework.errors import ConfigError
from framework.network import Network

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Compute:
    """`net` holds the weights; `runs` is what forward and backward go through, the same one where it can be.

    dtype: of all that `runs` computes. noise: standard deviation of what is added to each weight in training.
    ema: decay of the average of the weights over updates, with which `evaluated` computes (0: none); the
    early ones, (1 + n) / (10 + n) at update n, forget the random start sooner.
    Raises ConfigError for an unknown dtype.
    """

    def __init__(self, net: Network, dtype: str = "float32", noise: float = 0.0, ema: float = 0.0):
        if dtype not in DTYPES:
            raise ConfigError("train.dtype", f"'{dtype}' is not known", f"There are {', '.join(DTYPES)}.")
        self.net, self.noise, self.decay = net, noise, ema
        self.copied = DTYPES[dtype] != net.like.dtype or noise > 0
        self.runs = copy.deepcopy(net).to(DTYPES[dtype]) if self.copied else net
        self.average = self._weights() if ema else []

    def _weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.net.parameters()]

    def _load(self, weights: list[Tensor], noise: float = 0.0) -> None:
        with torch.no_grad():
            for p, w in zip(self.runs.parameters(), weights, strict=True):
                p.copy_(w + noise * torch.randn_like(w) if noise else w)

    # Training -----------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Bring the weights of the next forward and backward into `runs`."""
        if self.copied:
            self._load([p.detach() for p in self.net.parameters()], self.noise)

    def collect(self) -> None:
        """Add the gradients of `runs` to those of `net`, which the optimizer sees."""
        for p, q in zip(self.net.parameters(), self.runs.parameters(), strict=True):
            self.collect_one(p, q)

    def collect_one(self, p: nn.Parameter, q: nn.Parameter) -> None:
        """The same for one parameter `p` of `net` and its copy `q`."""
        if self.copied and q.grad is not None:
            g = q.grad.to(p.dtype)
            p.grad = g if p.grad is None else p.grad + g
            q.grad = None

    def updated(self, update: int) -> None:
        """Take the weights after update number `update`, counted from 1, into their average."""
        decay = min(self.decay, (1 + update) / (10 + update))
        with torch.no_grad():
            for mean, p in zip(self.average, self.net.parameters(), strict=False):
                mean.lerp_(p, 1 - decay)

    # Evaluating ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def evaluated(self, average: bool = True) -> Iterator[Network]:
        """What computes with the weights that are evaluated: without noise, and their average if told and if
        there is one.
        """
        means = self.average if average else []
        if not self.copied and not means:
            yield self.runs
            return
        kept = self._weights()
        self._load(means or kept)
        try:
            yield self.runs
        finally:
            self._load(kept)

    # Checkpoints --------------------------------------------------------------------------------------

    def averages(self) -> dict[str, Tensor] | None:
        """The averages by canonical name, on the CPU; None when there are none."""
        if not self.average:
            return None
        names = [name for name, _ in self.net.named_parameters()]
        views = self.net.views(dict(zip(names, self.average, strict=True)))
        return {name: x.cpu().clone() for name, x in views.items() if x is not None}

    def put_averages(self, saved: Mapping[str, Tensor] | None) -> None:
        """Go on from `averages()`; from the weights as they are, when the run had none before."""
        if not self.average:
            return
        self.average = self._weights()
        if saved is None:
            return
        names = [name for name, _ in self.net.named_parameters()]
        views = self.net.views(dict(zip(names, self.average, strict=True)))
        for name, x in views.items():
            if x is not None:
                x.copy_(saved[name])
