"""What is learned: the loss over scored frames and the metrics that are reported.

A task returns *sums* over frames, never means: sums of batches add up exactly, whatever the batches' sizes,
and the trainer divides once. A frame is scored when it has a target: label >= 0, or a number that is not NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.data import UNSCORED, Batch, Dataset
from framework.errors import ConfigError


class Task(Protocol):
    """Loss and metrics of one kind of learning. `metric` decides what is best, in the sense of `better`."""

    name: str
    metric: str
    better: Literal["higher", "lower"]

    def count(self, batch: Batch) -> int:
        """Scored frames in the batch."""
        ...

    def measure(self, y: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums over scored frames: `loss`, which carries a gradient, and what else `metrics` needs.

        y is the network's output [T, B, classes]; the sums are tensors on its device: nothing waits for it.
        """
        ...

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Metrics from sums over any number of batches; the first is the loss."""
        ...


class Framewise:
    """One class per frame: cross-entropy in nats; accuracy over the labels and, where there is one, the fold.

    `fold` maps a class to the class it is scored as (TIMIT: 61 -> 39), -1 leaves its frames out. The folded
    accuracy is reported as `accuracy_39`, after the number of scored classes.
    """

    name = "framewise"
    metric = "accuracy"
    better: Literal["higher", "lower"] = "higher"

    def __init__(self, fold: tuple[int, ...] | None = None):
        self.fold = None if fold is None else torch.tensor(fold)
        self.folded = "" if fold is None else f"accuracy_{len({c for c in fold if c >= 0})}"

    def count(self, batch: Batch) -> int:
        """Scored frames in the batch."""
        return int((batch.y >= 0).sum())

    def measure(self, y: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums of loss, frames and right frames."""
        best = y.detach().argmax(-1)
        scored = batch.y >= 0
        flat = y.flatten(0, 1).float()
        sums = {
            "loss": F.cross_entropy(flat, batch.y.flatten(), ignore_index=UNSCORED, reduction="sum"),
            "frames": scored.sum(),
            "right": ((best == batch.y) & scored).sum(),
        }
        if self.fold is not None:
            fold = self.fold.to(y.device)
            truth = fold[batch.y.clamp(min=0)]
            counted = scored & (truth >= 0)
            sums["folded_frames"] = counted.sum()
            sums["folded_right"] = ((fold[best] == truth) & counted).sum()
        return sums

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Mean loss [nats a frame], accuracy, and the folded accuracy."""
        frames = max(sums["frames"], 1)
        found = {"loss": sums["loss"] / frames, "accuracy": sums["right"] / frames}
        if self.folded:
            found[self.folded] = sums["folded_right"] / max(sums["folded_frames"], 1)
        return found


class Characters(Framewise):
    """The next character: the loss in nats, reported as bits per character (the mean of -log2 p)."""

    name = "characters"
    metric = "bits_per_character"
    better: Literal["higher", "lower"] = "lower"

    def __init__(self):
        super().__init__(fold=None)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Mean loss [nats a character], bits per character, accuracy."""
        found = super().metrics(sums)
        bits = found["loss"] / math.log(2)
        return {"loss": found["loss"], "bits_per_character": bits, "accuracy": found["accuracy"]}


class Regression:
    """A number per scored frame (NaN: not scored): squared error.

    `solved` is the part of the targets met to within 0.04, the criterion of the adding problem
    (Hochreiter & Schmidhuber, Long short-term memory, 1997, section 5.4).
    """

    name = "regression"
    metric = "mse"
    better: Literal["higher", "lower"] = "lower"
    close = 0.04

    def count(self, batch: Batch) -> int:
        """Scored frames in the batch."""
        return int((~batch.y.isnan()).sum())

    def measure(self, y: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums of squared error, frames and solved frames."""
        scored = ~batch.y.isnan()
        # nan_to_num first: the gradient of torch.where multiplies by 0, and 0 * NaN is NaN.
        error = torch.where(scored, y.squeeze(-1).float() - batch.y.nan_to_num(0.0), 0.0)
        return {
            "loss": error.square().sum(),
            "frames": scored.sum(),
            "right": ((error.detach().abs() < self.close) & scored).sum(),
        }

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Mean squared error (it is the loss, too) and the solved part."""
        frames = max(sums["frames"], 1)
        return {"loss": sums["loss"] / frames, "mse": sums["loss"] / frames, "solved": sums["right"] / frames}


TASKS = ("auto", "framewise", "characters", "regression")


def make_task(name: str, dataset: Dataset) -> Task:
    """The task called `name`; `auto` is the one that fits the dataset.

    Raises ConfigError for an unknown name, or a task that the dataset's targets cannot serve.
    """
    if name not in TASKS:
        raise ConfigError("task", f"there is no task '{name}'", f"Tasks: {', '.join(TASKS)}.")
    numbers = dataset.kind == "regression"
    if name == "auto":
        name = "regression" if numbers else "characters" if dataset.name == "text" else "framewise"
    if numbers != (name == "regression"):
        has = "numbers" if numbers else "classes"
        raise ConfigError(
            "task",
            f"'{name}' does not fit data={dataset.name}, whose targets are {has}",
            "Leave task=auto, or choose other data.",
        )
    if name == "regression":
        return Regression()
    return Characters() if name == "characters" else Framewise(dataset.fold)


def better(task: Task, new: float, old: float | None) -> bool:
    """True when `new` beats `old` in the task's metric (the first value always does; NaN never)."""
    if math.isnan(new):
        return False
    return old is None or (new > old if task.better == "higher" else new < old)
