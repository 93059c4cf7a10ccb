"""What every dataset gives: time-major batches, and the protocol that the trainer reads them by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
UNSCORED = -100  # a label that no loss and no metric looks at (torch's ignore_index)


@dataclass(frozen=True)
class Batch:
    """One batch, time first.

    | field | shape and meaning |
    |---|---|
    | x | [T, B, F] float32, or [T, B] int64 for index inputs |
    | y | [T, B] int64 classes, -100: none; regression: [T, B] or [T, B, numbers] float32, NaN: none |
    | lengths | [B] int64, frames at or past it are padding |
    | resets | [T, B] bool, True where a lane starts a new sequence (streams); None: all start fresh |
    | ids | names of the lanes, for messages |
    | targets | [B, S] int64 labels of whole utterances in order, without times, padded by -100; None: none |
    """

    x: Tensor
    y: Tensor
    lengths: Tensor
    resets: Tensor | None
    ids: tuple[str, ...]
    targets: Tensor | None = None


def carries(dataset: Dataset, split: Split) -> bool:
    """Whether the batches of a split continue each other: those of dev and test may not (`eval_carry`)."""
    return dataset.carry if split == "train" else getattr(dataset, "eval_carry", dataset.carry)


@runtime_checkable
class Dataset(Protocol):
    """What a trainer needs of a dataset.

    | field | meaning |
    |---|---|
    | input | {"size": F} for vectors or {"vocab": V} for indices: the `input` param of a model |
    | kind | "classes" (y are class numbers) or "regression" (y are floats, classes says how many a frame) |
    | tasks | what can be learned from it (framework.task), the usual one first |
    | labels | name of each class |
    | fold | class -> scored class, -1 where it is not scored (TIMIT: 61 -> 39); None: scored as they are |
    | fold_labels | name of each scored class |
    | carry | True: the batches of an epoch continue each other lane by lane, the state is carried |
    """

    name: str
    kind: Literal["classes", "regression"]
    tasks: tuple[str, ...]
    input: dict[str, int]
    classes: int
    labels: tuple[str, ...]
    fold: tuple[int, ...] | None
    fold_labels: tuple[str, ...] | None
    carry: bool

    def batches(self, split: Split, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, made from (seed, split, epoch) alone; the first `start` are not even made."""
        ...

    def count(self, split: Split, epoch: int) -> int:
        """Return the number of batches of an epoch."""
        ...

    def describe(self) -> str:
        """One paragraph: what there is per split."""
        ...
