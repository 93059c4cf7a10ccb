"""The order of an epoch: drawn from (seed, split, epoch) alone, so that a resumed run sees the same one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from framework.data.batch import SPLITS, Split

LENGTH_NOISE = (
    0.1  # bucketing sorts by length times 1 +- this: neighbours change between epochs, padding stays small
)


def generator(seed: int, split: Split, epoch: int, batch: int = 0) -> np.random.Generator:
    """Return the random numbers of one epoch (or of one of its batches); the same on every machine."""
    return np.random.default_rng([seed, SPLITS.index(split), epoch, batch])


def bucketed(lengths: Sequence[int], batch_size: int, seed: int, split: Split, epoch: int) -> list[list[int]]:
    """Return batches of item numbers of similar length.

    train: sorted by length with noise, cut, and the batches shuffled, all by (seed, epoch). dev and test:
    sorted by length, the same in every epoch. Every item is there exactly once; the last bucket may be
    smaller.
    """
    length = np.asarray(lengths, dtype=np.float64)
    if split != "train":
        ranks = np.argsort(length, kind="stable")
        return _cut(ranks, batch_size)
    random = generator(seed, split, epoch)
    noise = random.uniform(1 - LENGTH_NOISE, 1 + LENGTH_NOISE, len(length))
    batches = _cut(np.argsort(length * noise, kind="stable"), batch_size)
    return [batches[i] for i in random.permutation(len(batches))]


def _cut(ranks: np.ndarray, size: int) -> list[list[int]]:
    return [ranks[i : i + size].tolist() for i in range(0, len(ranks), size)]
