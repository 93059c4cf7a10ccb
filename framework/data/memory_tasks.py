"""adding and copy: synthetic tasks that only a long memory solves. Every batch has a seed of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch

from framework.data.batch import SPLITS, UNSCORED, Batch, Split
from framework.data.options import at_least, one_of
from framework.data.order import generator

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray, np.ndarray]]

SYMBOLS = 8  # of the copy task
STRING = 10  # symbols to remember
BLANK, RECALL = SYMBOLS, SYMBOLS + 1


class Drawn:
    """The `Dataset` of sequences that `draw(random, lanes)` makes: x [T, B, ...], y [T, B], lengths [B].

    Training draws new sequences every epoch; dev and test are the same ones always.
    """

    kind: Literal["classes", "regression"]
    tasks: tuple[str, ...]
    carry = False
    fold: tuple[int, ...] | None = None
    fold_labels: tuple[str, ...] | None = None

    def __init__(
        self,
        name: str,
        kind: Literal["classes", "regression"],
        input: dict[str, int],
        labels: tuple[str, ...],
        draw: Draw,
        sequences: dict[Split, int],
        batch_size: int,
        seed: int,
        note: str,
    ):
        self.name, self.kind, self.input, self.labels = name, kind, input, labels
        self.tasks = ("regression",) if kind == "regression" else ("framewise", "characters")
        self.classes = len(labels)
        self.draw, self.sequences, self.batch_size, self.seed, self.note = (
            draw,
            sequences,
            batch_size,
            seed,
            note,
        )

    def batches(self, split: Split, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch; skipped ones are not drawn."""
        if split != "train":
            epoch = 0
        for i in range(start, self.count(split, epoch)):
            lanes = min(self.batch_size, self.sequences[split] - i * self.batch_size)
            x, y, lengths = self.draw(generator(self.seed, split, epoch, 1 + i), lanes)
            names = tuple(f"{split}/{i * self.batch_size + b}" for b in range(lanes))
            yield Batch(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(lengths), None, names)

    def count(self, split: Split, epoch: int) -> int:
        """Return the number of batches of an epoch."""
        return -(-self.sequences[split] // self.batch_size)

    def describe(self) -> str:
        """One paragraph: sequences per split and what a network without memory reaches."""
        sizes = ", ".join(f"{split} {self.sequences[split]}" for split in SPLITS)
        return f"{self.name}: sequences: {sizes} (training ones are new in every epoch); {self.note}"


def adding(
    *,
    length: int = 100,
    train: int = 2000,
    dev: int = 200,
    test: int = 200,
    batch_size: int = 50,
    seed: int = 0,
) -> Drawn:
    """The adding problem (Hochreiter & Schmidhuber 1997, section 5.4), a regression at the last step.

    x [T, B, 2]: a value in [-1, 1] and a marker: -1 at the first and last step, 1 at two steps, else 0. y is
    NaN but at the last step: 0.5 + (X1 + X2) / 4 of the two marked values, where X1 is 0 if the first step is
    the marked one. The first mark is among the first ten steps, the second among the first length/2 - 1
    others. Lengths are drawn from length .. 1.1 length. A sequence counts as solved where the error is below
    0.04.
    """
    _check_sizes(length, 24, train, dev, test, batch_size, seed)

    def draw(random: np.random.Generator, lanes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lengths = random.integers(length, length + length // 10 + 1, lanes)
        steps = int(lengths.max())
        x = np.zeros((steps, lanes, 2), dtype=np.float32)
        y = np.full((steps, lanes), np.nan, dtype=np.float32)
        for b, n in enumerate(lengths):
            x[:n, b, 0] = random.uniform(-1, 1, n)
            first = int(random.integers(10))
            second = int(random.integers(length // 2 - 1))
            second += second >= first  # among the steps that are not marked yet
            x[0, b, 1] = x[n - 1, b, 1] = -1.0
            x[[first, second], b, 1] = 1.0
            marked = [0.0 if step == 0 else float(x[step, b, 0]) for step in (first, second)]
            y[n - 1, b] = 0.5 + sum(marked) / 4
        return x, y, lengths.astype(np.int64)

    return Drawn(
        "adding",
        "regression",
        {"size": 2},
        ("sum",),
        draw,
        {"train": train, "dev": dev, "test": test},
        batch_size,
        seed,
        f"{length} to {length + length // 10} steps; answering 0.5 has a squared error of {1 / 24:.4f}.",
    )


def copy(
    *,
    delay: int = 100,
    scored: str = "recall",
    train: int = 2000,
    dev: int = 200,
    test: int = 200,
    batch_size: int = 50,
    seed: int = 0,
) -> Drawn:
    """The copying memory task (Arjovsky, Shah & Bengio 2016, section 5.1, after Hochreiter & Schmidhuber
    1997).

    x [T, B] of 10 symbols: 10 drawn from 8, then delay - 1 blanks, the recall mark, 10 blanks: T = delay +
    20. y is the ten drawn symbols at the last ten steps. The paper scores all steps, blanks included
    (`scored="all"`); here only the recalled ten count unless asked, so that accuracy says how much is
    remembered.
    """
    one_of("scored", scored, ("recall", "all"))
    _check_sizes(delay, 1, train, dev, test, batch_size, seed, "delay")
    steps = delay + 2 * STRING

    def draw(random: np.random.Generator, lanes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        string = random.integers(SYMBOLS, size=(STRING, lanes))
        x = np.full((steps, lanes), BLANK, dtype=np.int64)
        y = np.full((steps, lanes), BLANK if scored == "all" else UNSCORED, dtype=np.int64)
        x[:STRING] = y[-STRING:] = string
        x[STRING + delay - 1] = RECALL
        return x, y, np.full(lanes, steps, dtype=np.int64)

    share = 1.0 if scored == "recall" else STRING / steps
    return Drawn(
        "copy",
        "classes",
        {"vocab": SYMBOLS + 2},
        (*(f"s{i}" for i in range(SYMBOLS)), "blank"),
        draw,
        {"train": train, "dev": dev, "test": test},
        batch_size,
        seed,
        f"{steps} steps, {'only the recalled symbols' if scored == 'recall' else 'all steps'} scored; "
        f"without memory the loss is {share * math.log(SYMBOLS):.4f} nats a scored step.",
    )


def _check_sizes(
    length: int, least: int, train: int, dev: int, test: int, batch_size: int, seed: int, name: str = "length"
) -> None:
    at_least(name, length, least)
    for option, value in (("train", train), ("dev", dev), ("test", test), ("batch_size", batch_size)):
        at_least(option, value, 1)
    at_least("seed", seed, 0)
