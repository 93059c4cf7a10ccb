"""Streams of utterances: lanes side by side, in each one utterance after another with nothing between them.

The state goes on from chunk to chunk, and `resets` says where an utterance starts: no lane waits for the
longest of a batch, and every update has the same size (Hwang & Sung 2015, section 4: multiple streams).
Lanes end together, as far as whole utterances can (framework.data.dealing).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from framework.data.batch import SPLITS, UNSCORED, Batch, Split
from framework.data.dealing import deal, idle, steps
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

    def batches(
        self, split: Split, epoch: int, start: int = 0, lanes: slice = slice(None)
    ) -> Iterator[Batch]:
        """Chunks of an epoch in order, of each these lanes; all others are not loaded.

        A lane that is over has length 0.
        """
        if not self.lanes[split]:
            yield from self.whole.batches(split, epoch, start, lanes)
            return
        order = self._order(split, epoch)
        longest = max(steps(self.whole.parts[split].lengths, order))
        own = [_Lane(self.whole, split, items) for items in order[lanes]]
        for begin in range(start * self.chunk, longest, self.chunk):
            end = min(begin + self.chunk, longest)
            x = torch.zeros(end - begin, len(own), len(self.whole.mean))
            y = torch.full((end - begin, len(own)), UNSCORED, dtype=torch.int64)
            resets = torch.zeros(end - begin, len(own), dtype=torch.bool)
            names = [lane.read(begin, x[:, b], y[:, b], resets[:, b]) for b, lane in enumerate(own)]
            lengths = [min(max(lane.frames - begin, 0), end - begin) for lane in own]
            yield Batch(x, y, torch.tensor(lengths, dtype=torch.int64), resets, tuple(names))

    def count(self, split: Split, epoch: int) -> int:
        """Return the number of chunks of an epoch."""
        if not self.lanes[split]:
            return self.whole.count(split, epoch)
        longest = max(steps(self.whole.parts[split].lengths, self._order(split, epoch)))
        return -(-longest // self.chunk)

    def describe(self) -> str:
        """One paragraph: that of the utterances, the lanes, and the share of steps that lanes wait."""
        train, other = self.lanes["train"], self.lanes["dev"]
        how = [f"{train} lanes ({self._idle('train')})" if train else "whole utterances"]
        waits = ", ".join(f"{split} {self._idle(split)}" for split in SPLITS[1:]) if other else ""
        how.append(f"{other} in dev and test ({waits})" if other else "whole utterances in dev and test")
        return f"{self.whole.describe()} Streams: {', '.join(how)}; chunks of {self.chunk}."

    def _idle(self, split: Split) -> str:
        share = idle(self.whole.parts[split].lengths, self._order(split, 0))
        return f"{100 * share:.1f}% idle"

    def _order(self, split: Split, epoch: int) -> list[list[int]]:
        """Utterances of each lane, in training others in every epoch."""
        random = generator(self.whole.seed, split, epoch) if split == "train" else None
        return deal(self.whole.parts[split].lengths, self.lanes[split], random)


class _Lane:
    """One lane of an epoch."""

    def __init__(self, whole: Utterances, split: Split, items: list[int]):
        self.whole, self.data, self.items = whole, whole.parts[split], items
        ends = np.cumsum([self.data.lengths[i] for i in items])
        self.starts, self.frames = [0, *ends.tolist()], int(ends[-1])
        self.known: tuple[int, tuple[Tensor, Tensor]] | None = None  # an utterance spans several chunks

    def read(self, begin: int, x: Tensor, y: Tensor, resets: Tensor) -> str:
        """Fill x [T, F], y [T] and resets [T] from frame `begin`; the name of the first utterance there."""
        end = begin + len(x)
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
        return self.data.ids[self.items[min(first, len(self.items) - 1)]]

    def _load(self, i: int) -> tuple[Tensor, Tensor]:
        if self.known is None or self.known[0] != i:
            self.known = i, self.data.load(i)
        return self.known[1]
