"""Optimizers by name, and the learning rate over time."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from framework.errors import ConfigError
from framework.network import Network

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adadelta": torch.optim.Adadelta,
}


MATRICES = ("full", "block")  # weights that decay; what is left has one number a unit


def decay_groups(net: Network, everything: bool = False) -> list[dict[str, Any]]:
    """A network's parameters for an optimizer: matrices decay as it is told, the others only if `everything`.

    A decay that pulls biases, diagonals, gains and initial values to 0 changes what a unit starts from and
    bounds nothing.
    """
    if everything:
        return [{"params": list(net.parameters())}]
    kinds = {p.name: net.graph.weights[p.members[0][0]].kind for p in net.plan.packs.values()}
    decays = {name: kind in MATRICES for name, kind in kinds.items()}
    params = list(net.named_parameters())
    return [
        {"params": [p for name, p in params if decays[name]]},
        {"params": [p for name, p in params if not decays[name]], "weight_decay": 0.0},
    ]


def make_optimizer(
    name: str, params: Iterable[Tensor] | Iterable[dict[str, Any]], **options: Any
) -> torch.optim.Optimizer:
    """The torch optimizer called `name` with its own options (lr, betas, weight_decay, ...).

    params: tensors, or groups of them as `decay_groups` gives.

    Raises ConfigError for an unknown name or option, or a value that torch refuses.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(
            "optimizer.name", f"there is no optimizer '{name}'", f"There are {', '.join(OPTIMIZERS)}."
        )
    kind = OPTIMIZERS[name]
    known = [key for key in inspect.signature(kind).parameters if key != "params"]
    for key in options:
        if key not in known:
            raise ConfigError(f"optimizer.{key}", f"{name} has no such option", f"It has {', '.join(known)}.")
    try:
        return kind(params, **options)  # type: ignore[arg-type]
    except (ValueError, TypeError, IndexError) as error:  # IndexError: a list that is too short
        raise ConfigError(
            "optimizer", f"{name} refuses its options: {error}", "See conf/optimizer."
        ) from error


class Schedule:
    """The learning rate of every update, a function of the update's number and of the metric seen so far.

    `constant` keeps `lr`; `plateau` multiplies it by `factor` when the metric has not improved for `patience`
    evaluations, down to `min_lr`; `cosine` goes from `lr` to `min_lr` over `total` updates. `warmup` updates
    come before: the rate rises linearly from 0. `state()` is a plain dict, so that a run can be resumed.

    Raises ConfigError for an unknown kind, or for `cosine` without a total.
    """

    kinds = ("constant", "plateau", "cosine")

    def __init__(
        self,
        kind: str = "constant",
        *,
        lr: float,
        warmup: int = 0,
        total: int | None = None,
        factor: float = 0.5,
        patience: int = 2,
        min_lr: float = 0.0,
        better: Literal["higher", "lower"] = "higher",
    ):
        if kind not in self.kinds:
            raise ConfigError(
                "train.schedule", f"there is no schedule '{kind}'", f"There are {', '.join(self.kinds)}."
            )
        if kind == "cosine" and not total:
            raise ConfigError(
                "train.schedule",
                "cosine needs to know how many updates there will be",
                "Set train.epochs or train.max_steps.",
            )
        self.kind, self.lr, self.warmup, self.total = kind, lr, warmup, total or 0
        self.factor, self.patience, self.min_lr, self.better = factor, patience, min_lr, better
        self.scale, self.waited, self.best = 1.0, 0, None

    def rate(self, step: int) -> float:
        """Learning rate of update number `step`, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.kind == "cosine":
            done = min((step - self.warmup) / max(self.total - self.warmup, 1), 1.0)
            return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * done)) / 2
        return max(self.lr * self.scale, min(self.min_lr, self.lr))

    def evaluated(self, value: float) -> bool:
        """Tell the schedule the metric of an evaluation; True when the rate falls because of it."""
        improved = self.best is None or (value > self.best if self.better == "higher" else value < self.best)
        if improved:
            self.best, self.waited = value, 0
            return False
        self.waited += 1
        if self.kind != "plateau" or self.waited <= self.patience or self.lr * self.scale <= self.min_lr:
            return False
        self.scale, self.waited = self.scale * self.factor, 0
        return True

    def state(self) -> dict[str, float | int | None]:
        """What has to be kept for an exact resume."""
        return {"scale": self.scale, "waited": self.waited, "best": self.best}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()` of an earlier run."""
        self.scale, self.waited, self.best = state["scale"], state["waited"], state["best"]
