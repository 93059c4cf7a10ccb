"""What is learned: the loss over scored frames and the metrics that are reported.

A task returns *sums* over frames, never means: sums of batches add up exactly, whatever the batches' sizes,
and the trainer divides once. A frame is scored when it has a target: label >= 0, or a number that is not NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.ctc import Ctc
from framework.data import UNSCORED, Batch, Dataset
from framework.errors import ConfigError
from framework.regression import LOSSES, Regression


class Task(Protocol):
    """Loss and metrics of one kind of learning. `metric` decides what is best, in the sense of `better`."""

    name: str
    metric: str
    better: Literal["higher", "lower"]
    outputs: int  # units of the network's output

    def count(self, batch: Batch) -> int:
        """What the loss of the batch is a mean over: scored frames; utterances where those are scored."""
        ...

    def measure(self, y: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums over scored frames: `loss`, which carries a gradient, and what else `metrics` needs.

        y is the network's output [T, B, outputs]; the sums are tensors on its device: nothing waits for it
        (but `ctc`, whose evaluations decode).
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

    def __init__(self, fold: tuple[int, ...] | None = None, classes: int = 0):
        self.outputs = classes
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

    def __init__(self, classes: int = 0):
        super().__init__(fold=None, classes=classes)

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Mean loss [nats a character], bits per character, accuracy."""
        found = super().metrics(sums)
        bits = found["loss"] / math.log(2)
        return {"loss": found["loss"], "bits_per_character": bits, "accuracy": found["accuracy"]}


# What a task takes beside its name: option -> default. An option of another task is a mistake when it is set.
OPTIONS: dict[str, dict[str, Any]] = {
    "framewise": {},
    "characters": {},
    "ctc": {"beam": 0},
    "regression": {"loss": "mse", "quantiles": (0.1, 0.5, 0.9)},
}
TASKS = ("auto", *OPTIONS)


def make_task(name: str, dataset: Dataset, options: Mapping[str, Any] | None = None) -> Task:
    """The task called `name` with its options; `auto` is the one that fits the dataset.

    Raises ConfigError for an unknown name, a task that the dataset's targets cannot serve, an option that the
    task has not, or a value out of range.
    """
    if name not in TASKS:
        raise ConfigError("task", f"there is no task '{name}'", f"Tasks: {', '.join(TASKS)}.")
    if name == "auto":
        name = dataset.tasks[0]
    if name not in dataset.tasks:
        raise ConfigError(
            "task",
            f"'{name}' does not fit data={dataset.name}, which serves {', '.join(dataset.tasks)}",
            "Leave task=auto, or choose other data.",
        )
    mine = dict(OPTIONS[name])
    defaults = {key: value for known in OPTIONS.values() for key, value in known.items()}
    for key, value in (options or {}).items():
        value = tuple(value) if isinstance(value, list) else value
        if key in mine:
            mine[key] = value
        elif key not in defaults or value != defaults[key]:
            known = f"It has {', '.join(mine)}." if mine else "It has none."
            raise ConfigError(f"task.{key}", f"task={name} has no such option", known)
    if name == "regression":
        return _regression(dataset, **mine)
    if name == "ctc":
        if mine["beam"] < 0:
            raise ConfigError("task.beam", f"{mine['beam']} is too small", "Give 0 (best path) or more.")
        return Ctc(dataset.classes, dataset.fold, **mine)
    return Characters(dataset.classes) if name == "characters" else Framewise(dataset.fold, dataset.classes)


def _regression(dataset: Dataset, loss: str, quantiles: tuple[float, ...]) -> Regression:
    if loss not in LOSSES:
        raise ConfigError("task.loss", f"'{loss}' is not known", f"There are {', '.join(LOSSES)}.")
    if not quantiles or not all(0 < q < 1 for q in quantiles) or len(set(quantiles)) < len(quantiles):
        raise ConfigError(
            "task.quantiles", f"{list(quantiles)} are no quantiles", "Give numbers between 0 and 1."
        )
    return Regression(dataset.classes, loss, quantiles, shows_solved=dataset.name == "adding")


def better(task: Task, new: float, old: float | None) -> bool:
    """True when `new` beats `old` in the task's metric (the first value always does; NaN never)."""
    if math.isnan(new):
        return False
    return old is None or (new > old if task.better == "higher" else new < old)
