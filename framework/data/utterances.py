"""A dataset of whole utterances: length-bucketed batches, normalised by the training speakers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from framework.data.batch import SPLITS, UNSCORED, Batch, Split
from framework.data.order import bucketed
from framework.words import counted


@dataclass(frozen=True)
class Part:
    """One split: names, speakers, lengths in frames of its utterances; `load(i)` gives (x [T, F], y [T]).

    targets: the labels of each utterance in order, without times; None where they are not known.
    """

    ids: tuple[str, ...]
    speakers: tuple[str, ...]
    lengths: tuple[int, ...]
    load: Callable[[int], tuple[Tensor, Tensor]]
    targets: tuple[tuple[int, ...], ...] | None = None


class Utterances:
    """The `Dataset` of the utterances in `parts`; x is (x - mean) / deviation, both [F]."""

    kind: Literal["classes", "regression"] = "classes"
    carry = False

    def __init__(
        self,
        name: str,
        parts: Mapping[Split, Part],
        labels: tuple[str, ...],
        mean: Tensor,
        deviation: Tensor,
        batch_size: int,
        seed: int,
        fold: tuple[int, ...] | None = None,
        fold_labels: tuple[str, ...] | None = None,
        note: str = "",
        groups: str = "speaker",
    ):
        self.name, self.labels, self.classes = name, labels, len(labels)
        self.fold, self.fold_labels = fold, fold_labels
        self.input = {"size": len(mean)}
        self.parts = dict(parts)
        named = all(part.targets is not None for part in parts.values())
        self.tasks: tuple[str, ...] = ("framewise", "ctc") if named else ("framewise",)
        self.mean, self.deviation = mean, deviation
        self.batch_size, self.seed, self.note = batch_size, seed, note
        self.groups = groups  # what the `speakers` of its parts are

    def batches(
        self, split: Split, epoch: int, start: int = 0, lanes: slice = slice(None)
    ) -> Iterator[Batch]:
        """Batches of one epoch, of each these lanes; all others are not loaded."""
        for items in self._order(split, epoch)[start:]:
            yield self._batch(self.parts[split], items[lanes])

    def count(self, split: Split, epoch: int) -> int:
        """Return the number of batches of an epoch."""
        return -(-len(self.parts[split].ids) // self.batch_size)

    def describe(self) -> str:
        """One paragraph: utterances, speakers (or folders) and frames per split, features and classes."""
        splits = []
        for split in SPLITS:
            part = self.parts[split]
            splits.append(
                f"{split} {counted(len(part.ids), 'utterance')} of "
                f"{counted(len(set(part.speakers)), self.groups)}, {sum(part.lengths):,} frames "
                f"({sum(part.lengths) / 6000:.1f} min)"
            )
        folded = f" scored as {len(self.fold_labels)}" if self.fold_labels else ""
        tail = f"; {self.input['size']} features a frame of 10 ms; {self.classes} classes{folded}."
        return f"{self.name}: {'; '.join(splits)}{tail}" + (f" {self.note}" if self.note else "")

    def _order(self, split: Split, epoch: int) -> list[list[int]]:
        return bucketed(self.parts[split].lengths, self.batch_size, self.seed, split, epoch)

    def _batch(self, part: Part, items: list[int]) -> Batch:
        lengths = torch.tensor([part.lengths[i] for i in items], dtype=torch.int64)
        longest = int(lengths.max()) if items else 0
        x = torch.zeros(longest, len(items), len(self.mean))
        y = torch.full((longest, len(items)), UNSCORED, dtype=torch.int64)
        for lane, i in enumerate(items):
            features, classes = part.load(i)
            x[: len(features), lane] = (features - self.mean) / self.deviation
            y[: len(classes), lane] = classes
        targets = None
        if part.targets is not None and items:
            rows = [torch.tensor(part.targets[i], dtype=torch.int64) for i in items]
            targets = pad_sequence(rows, batch_first=True, padding_value=UNSCORED)
        return Batch(x, y, lengths, None, tuple(part.ids[i] for i in items), targets)


def frames_needed(labels: Sequence[int]) -> int:
    """The least frames that can hold labels in a row (CTC): between two equal ones there must be a blank."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


def moments(part: Part) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [F] over all frames of a split, summed in float64."""
    total = square = torch.zeros((), dtype=torch.float64)
    frames = 0
    for i in range(len(part.ids)):
        x = part.load(i)[0].to(torch.float64)
        total, square, frames = total + x.sum(0), square + x.square().sum(0), frames + len(x)
    mean = total / max(frames, 1)
    variance = (square / max(frames, 1) - mean.square()).clamp_min(1e-8)  # a constant feature stays finite
    return mean.to(torch.float32), variance.sqrt().to(torch.float32)
