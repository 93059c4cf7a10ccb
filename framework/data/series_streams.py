"""Numbers over time as streams: unbroken tracks, cut into lanes that go on from chunk to chunk."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from framework.data.batch import SPLITS, Batch, Split
from framework.data.order import generator
from framework.errors import DataError
from framework.words import counted

BLOCK = 1 << 18  # steps that are looked at together where a track is read whole


@dataclass(frozen=True)
class Track:
    """One unbroken series: x [steps, F], y [steps, K] float32 (NaN: not scored), truth [steps] bool or None.

    The arrays may be maps of files: they are read in chunks. truth says which steps are known to be faulty.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    truth: np.ndarray | None = None


class Series:
    """The `Dataset` of tracks, a regression: x [T, B, F], y [T, B, K], normalised by the training tracks.

    The tracks of a split lie behind each other and are cut into `world * batch_size` lanes of equal length
    (what is left over, less than a step a lane, is dropped); rank `rank` has rank, rank + world, ... Every
    batch goes on where the one before ended (carry); `resets` marks the beginnings of the epoch and of each
    track. In training each epoch begins a random part of a chunk late. Raises DataError for a split that is
    too short.
    """

    kind: Literal["classes", "regression"] = "regression"
    tasks: tuple[str, ...] = ("regression",)
    carry = True
    fold: tuple[int, ...] | None = None
    fold_labels: tuple[str, ...] | None = None

    def __init__(
        self,
        name: str,
        tracks: Mapping[Split, Sequence[Track]],
        inputs: Sequence[str],
        targets: Sequence[str],
        batch_size: int,
        chunk: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        note: str = "",
    ):
        self.name, self.inputs, self.labels = name, tuple(inputs), tuple(targets)
        self.tracks = {split: tuple(tracks[split]) for split in SPLITS}
        self.classes, self.input = len(self.labels), {"size": len(self.inputs)}
        self.batch_size, self.chunk, self.seed, self.note = batch_size, chunk, seed, note
        self.rank, self.world = rank, world
        self.ends = {
            split: list(accumulate(len(t.x) for t in self.tracks[split])) for split in SPLITS
        }  # of each track, in steps from the first
        for split in SPLITS:
            size = self.ends[split][-1] if self.ends[split] else 0
            least = batch_size * world * 2 + (chunk if split == "train" else 0)
            if size < least:
                raise DataError(
                    f"data.{name}",
                    f"its {split} part has {size} steps, too few for {batch_size * world} lanes of chunks of "
                    f"{chunk}",
                    "Give more data, or a smaller data.batch_size or data.chunk",
                )
        train = self.tracks["train"]
        self.mean, self.deviation = _moments([t.x for t in train])
        self.target_mean, self.target_deviation = _moments([t.y for t in train])

    def batches(self, split: Split, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Chunks of an epoch in order; the last one may be shorter."""
        late, steps = self._span(split, epoch)
        names = tuple(f"{split}/lane{b}" for b in self._lanes())
        for begin in range(start * self.chunk, steps, self.chunk):
            end = min(begin + self.chunk, steps)
            lanes = [self.read(split, late + b * steps + begin, end - begin) for b in self._lanes()]
            x, y, resets = (np.stack(part, 1) for part in zip(*lanes, strict=True))
            resets[0] |= begin == 0
            yield Batch(
                (torch.from_numpy(x) - self.mean) / self.deviation,
                (torch.from_numpy(y) - self.target_mean) / self.target_deviation,
                torch.full((self.batch_size,), end - begin, dtype=torch.int64),
                torch.from_numpy(resets),
                names,
            )

    def count(self, split: Split, epoch: int) -> int:
        """Return the number of chunks of an epoch."""
        return -(-self._span(split, epoch)[1] // self.chunk)

    def truth(self, split: Split) -> Tensor | None:
        """Which steps of dev or test are known to be faulty, [steps, B] bool as in `batches`; or None."""
        if any(track.truth is None for track in self.tracks[split]):
            return None
        whole = np.concatenate([np.asarray(track.truth, dtype=bool) for track in self.tracks[split]])
        late, steps = self._span(split, 0)
        return torch.stack(
            [torch.from_numpy(whole[late + b * steps :][:steps].copy()) for b in self._lanes()], 1
        )

    def read(self, split: Split, begin: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(x [steps, F], y [steps, K], resets [steps]) from step `begin` of a split, across its tracks."""
        x = np.empty((steps, len(self.inputs)), dtype=np.float32)
        y = np.empty((steps, len(self.labels)), dtype=np.float32)
        resets = np.zeros(steps, dtype=bool)
        done = 0
        while done < steps:
            which = bisect_right(self.ends[split], begin + done)
            track = self.tracks[split][which]
            inside = begin + done - (self.ends[split][which] - len(track.x))
            count = min(steps - done, len(track.x) - inside)
            x[done : done + count] = track.x[inside : inside + count]
            y[done : done + count] = track.y[inside : inside + count]
            resets[done] |= inside == 0
            done += count
        return x, y, resets

    def describe(self) -> str:
        """One paragraph: tracks and steps per split, inputs and targets."""
        sizes = ", ".join(
            f"{split} {self.ends[split][-1]:,} steps of {counted(len(self.tracks[split]), 'track')}"
            for split in SPLITS
        )
        text = (
            f"{self.name}: {sizes}; {counted(self.batch_size, 'lane')} in chunks of {self.chunk}; inputs "
            f"{_listed(self.inputs)}; targets {_listed(self.labels)}, in deviations of the training part."
        )
        return f"{text} {self.note}" if self.note else text

    def _lanes(self) -> range:
        """This rank's lanes among those of all."""
        return range(self.rank, self.world * self.batch_size, self.world)

    def _span(self, split: Split, epoch: int) -> tuple[int, int]:
        """Where the first lane begins, and the steps of each."""
        size, late, lanes = self.ends[split][-1], 0, self.batch_size * self.world
        if split == "train":
            late = int(generator(self.seed, split, epoch).integers(min(self.chunk, size - 2 * lanes)))
        return late, (size - late) // lanes


def _moments(parts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [F] of the rows of all parts, NaN left out, summed in float64 by blocks.

    Around the first row's values: the difference of large sums would lose the deviation of a signal that is
    far from zero.
    """
    origin = np.nan_to_num(np.asarray(parts[0][0], dtype=np.float64))
    total = square = count = np.zeros_like(origin)
    for part in parts:
        for begin in range(0, len(part), BLOCK):
            block = np.asarray(part[begin : begin + BLOCK], dtype=np.float64) - origin
            total, square = total + np.nansum(block, 0), square + np.nansum(block**2, 0)
            count = count + (~np.isnan(block)).sum(0)
    mean = total / np.maximum(count, 1)
    variance = np.maximum(square / np.maximum(count, 1) - mean**2, 0.0)
    deviation = np.where(variance > 0, np.sqrt(variance), 1.0)  # a constant column stays at 0
    return torch.from_numpy((origin + mean).astype(np.float32)), torch.from_numpy(
        deviation.astype(np.float32)
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, ... ({len(names)})" if len(names) > 8 else shown


def forecast(values: np.ndarray, targets: Sequence[int], horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) to forecast columns `targets` of values [steps, F]: y[t] = values[t + horizon]."""
    return values[: len(values) - horizon], values[horizon:, list(targets)]
