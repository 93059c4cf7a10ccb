"""Streams of utterances: lanes side by side, in each one utterance after another with nothing between them.

The state goes on from chunk to chunk, and `resets` says where an utterance starts: no lane waits for the
longest of a batch, and every update has the same size (Hwang & Sung 2015, section 4: multiple streams).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from framework.data.batch import SPLITS, UNSCORED, Batch, Split
from framework.data.options import at_least
from framework.data.order import generator
from framework.data.utterances import Utterances
from framework.errors import ConfigError


def streamed(whole: Utterances, streams: int, eval_streams: int, chunk: int) -> Utterances | Streams:
    """The utterances of `whole` as streams: `streams` lanes in training, `eval_streams` in dev and test.

    0 lanes: whole utterances, padded, as they are. chunk: steps a batch. Raises ConfigError for more lanes
    than utterances.
    """
    for option, value, least in (
        ("streams", streams, 0),
        ("eval_streams", eval_streams, 0),
        ("chunk", chunk, 1),
    ):
        at_least(option, value, least)
    if not streams and not eval_streams:
        return whole
    for split in SPLITS:
        option, lanes = ("streams", streams) if split == "train" else ("eval_streams", eval_streams)
        if lanes > (there := len(whole.parts[split].ids)):
            cause = f"{lanes} lanes for the {there} utterances of {split}"
            raise ConfigError(f"data.{option}", cause, f"Give {there} or fewer.")
    return Streams(whole, streams, eval_streams, chunk)


class Streams:
    """The `Dataset` of the same utterances in lanes. Each split's lanes are as equal in length as may be."""

    kind: Literal["classes", "regression"] = "classes"
    tasks: tuple[str, ...] = ("framewise",)  # a sequence of labels needs its whole utterance at once

    def __init__(self, whole: Utterances, streams: int, eval_streams: int, chunk: int):
        self.whole, self.chunk = whole, chunk
        self.lanes: dict[Split, int] = {"train": streams, "dev": eval_streams, "test": eval_streams}
        self.name, self.input, self.classes, self.labels = (
            whole.name,
            whole.input,
            whole.classes,
            whole.labels,
        )
        self.fold, self.fold_labels = whole.fold, whole.fold_labels
        self.carry, self.eval_carry = streams > 0, eval_streams > 0

    def batches(self, split: Split, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Chunks of an epoch in order; a lane that is over has length 0."""
        if not self.lanes[split]:
            yield from self.whole.batches(split, epoch, start)
            return
        lanes = [_Lane(self.whole, split, items) for items in self._order(split, epoch)]
        steps = max(lane.frames for lane in lanes)
        for begin in range(start * self.chunk, steps, self.chunk):
            end = min(begin + self.chunk, steps)
            parts = [lane.part(begin, end) for lane in lanes]
            yield Batch(
                torch.stack([x for x, _, _, _ in parts], 1),
                torch.stack([y for _, y, _, _ in parts], 1),
                torch.tensor([min(max(lane.frames - begin, 0), end - begin) for lane in lanes]),
                torch.stack([resets for _, _, resets, _ in parts], 1),
                tuple(name for _, _, _, name in parts),
            )

    def count(self, split: Split, epoch: int) -> int:
        """Return the number of chunks of an epoch."""
        if not self.lanes[split]:
            return self.whole.count(split, epoch)
        lengths = self.whole.parts[split].lengths
        longest = max(sum(lengths[i] for i in items) for items in self._order(split, epoch))
        return -(-longest // self.chunk)

    def describe(self) -> str:
        """One paragraph: that of the utterances, and the lanes."""
        train, other = self.lanes["train"], self.lanes["dev"]
        how = [f"{train} lanes" if train else "whole utterances"]
        how.append(f"{other} in dev and test" if other else "whole utterances in dev and test")
        return f"{self.whole.describe()} Streams: {', '.join(how)}; chunks of {self.chunk}."

    def _order(self, split: Split, epoch: int) -> list[list[int]]:
        """Utterances of each lane: in the epoch's order each goes to the lane that is shortest so far."""
        lengths = self.whole.parts[split].lengths
        order = np.arange(len(lengths))
        if split == "train":
            order = generator(self.whole.seed, split, epoch).permutation(len(lengths))
        lanes: list[list[int]] = [[] for _ in range(self.lanes[split])]
        frames = np.zeros(len(lanes), dtype=np.int64)
        for i in order.tolist():
            lane = int(frames.argmin())
            lanes[lane].append(i)
            frames[lane] += lengths[i]
        return lanes


class _Lane:
    """One lane of an epoch."""

    def __init__(self, whole: Utterances, split: Split, items: list[int]):
        self.whole, self.data, self.items = whole, whole.parts[split], items
        ends = np.cumsum([self.data.lengths[i] for i in items])
        self.starts, self.frames = [0, *ends.tolist()], int(ends[-1])
        self.known: tuple[int, tuple[Tensor, Tensor]] | None = None  # an utterance spans several chunks

    def part(self, begin: int, end: int) -> tuple[Tensor, Tensor, Tensor, str]:
        """x [T, F], y [T] and resets [T] of frames begin:end, and the name of the first utterance there."""
        x = torch.zeros(end - begin, len(self.whole.mean))
        y = torch.full((end - begin,), UNSCORED, dtype=torch.int64)
        resets = torch.zeros(end - begin, dtype=torch.bool)
        first = int(np.searchsorted(self.starts, begin, side="right")) - 1
        for k in range(first, len(self.items)):
            at = self.starts[k]
            if at >= end:
                break
            if at >= begin:
                resets[at - begin] = True
            features, classes = self._load(self.items[k])
            lo, hi = max(begin, at), min(end, self.starts[k + 1])
            x[lo - begin : hi - begin] = (
                features[lo - at : hi - at] - self.whole.mean
            ) / self.whole.deviation
            y[lo - begin : hi - begin] = classes[lo - at : hi - at]
        return x, y, resets, self.data.ids[self.items[min(first, len(self.items) - 1)]]

    def _load(self, i: int) -> tuple[Tensor, Tensor]:
        if self.known is None or self.known[0] != i:
            self.known = i, self.data.load(i)
        return self.known[1]
