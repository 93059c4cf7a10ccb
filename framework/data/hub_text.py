"""hub_text: a character model on text of any size, from local files or the Hub, read while it trains."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from framework.data.batch import Batch, Split
from framework.data.documents import Source, endless, hub_source, local_source
from framework.data.faults import Faults
from framework.data.options import at_least
from framework.data.text import Characters
from framework.errors import ConfigError, DataError


class HubText:
    """The `Dataset` of a stream of documents: x [T, B] characters, y [T, B] the character after each.

    Every document ends with a line break and goes to the lane that has least waiting; lanes go on from chunk
    to chunk (carry). An epoch of training is `epoch_batches` chunks, the next one goes on where it ended, and
    after the last document comes the first. dev and test are their first `eval_batches` chunks, kept in
    memory. To start in the middle (a resumed run) the text before is read again.

    Of world * batch_size lanes rank `rank` has rank, rank + world, ...: it reads all documents and keeps
    those of its lanes. So several processes see what one does.
    """

    name = "hub_text"
    kind: Literal["classes", "regression"] = "classes"
    tasks: tuple[str, ...] = ("characters", "framewise")
    carry = True
    fold: tuple[int, ...] | None = None
    fold_labels: tuple[str, ...] | None = None

    def __init__(
        self,
        source: Source,
        place: str,
        *,
        batch_size: int,
        chunk: int,
        vocab: int,
        vocab_chars: int,
        epoch_batches: int,
        eval_batches: int,
        shuffle: int,
        seed: int,
        rank: int,
        world: int,
        faults: Faults,
    ):
        self.source, self.place, self.faults = source, place, faults
        self.batch_size, self.chunk, self.epoch_batches = batch_size, chunk, epoch_batches
        self.shuffle, self.seed, self.rank, self.world = shuffle, seed, rank, world
        first, size = [], 0
        for text in source("train"):  # the same for all ranks: one vocabulary
            first.append(text[: vocab_chars - size])
            size += len(first[-1]) + 1
            if size >= vocab_chars:
                break
        if not first:
            raise DataError(place, "there is no text in it", "Give other data")
        self.vocabulary = Characters.of("\n".join([*first, ""]), vocab)
        self.labels = self.vocabulary.chars
        self.classes = len(self.labels)
        self.input = {"vocab": self.classes}
        self.kept: dict[Split, list[Batch]] = {}
        for split in ("dev", "test"):
            self.kept[split] = list(islice(self._chunks(source(split), split), eval_batches))
            if not self.kept[split]:
                raise DataError(
                    place,
                    f"its {split} part does not fill {batch_size * world} lanes of {chunk} characters",
                    "Give more text, a smaller data.batch_size or data.chunk, or take data=text",
                )
        self._live: tuple[int, Iterator[Batch]] = (-1, iter(()))  # chunks given, and where the next come from

    def encode(self, text: str) -> Tensor:
        """Text -> ids [len(text)] int64."""
        return self.vocabulary.encode(text)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Ids -> text."""
        return self.vocabulary.decode(ids)

    def batches(self, split: Split, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Chunks of an epoch in order."""
        if split != "train":
            yield from self.kept[split][start:]
            return
        wanted = epoch * self.epoch_batches + start
        at, chunks = self._live
        if at != wanted:
            texts = endless(self.source, "train", self.shuffle, self.seed)
            chunks = islice(self._chunks(texts, "train"), wanted, None)
        for number in range(wanted, (epoch + 1) * self.epoch_batches):
            batch = next(chunks)
            assert batch.resets is not None
            batch.resets[0] = number % self.epoch_batches == 0  # the state starts afresh with each epoch
            self._live = (number + 1, chunks)
            yield batch

    def count(self, split: Split, epoch: int) -> int:
        """Return the number of chunks of an epoch."""
        return self.epoch_batches if split == "train" else len(self.kept[split])

    def describe(self) -> str:
        """One paragraph: where the text comes from, sizes of epochs, vocabulary."""
        sizes = ", ".join(f"{split} {self.count(split, 0)}" for split in ("train", "dev", "test"))
        text = (
            f"hub_text: {self.place}; chunks an epoch: {sizes}, of {self.chunk} characters in "
            f"{self.batch_size * self.world} lanes; {self.classes} classes, the last one for any other."
        )
        note = f" {len(self.faults.found)} left out as broken." if self.faults.found else ""
        return text + note

    def _chunks(self, texts: Iterator[str], split: Split) -> Iterator[Batch]:
        """Full chunks of all lanes, as long as there is text; what is left over at the end is dropped."""
        lanes = [torch.zeros(0, dtype=torch.int64) for _ in range(self.batch_size)]
        names = tuple(f"{split}/lane{self.rank + b * self.world}" for b in range(self.batch_size))
        lengths = torch.full((self.batch_size,), self.chunk, dtype=torch.int64)
        ends = [(0, lane) for lane in range(self.batch_size * self.world)]  # of all lanes, the nearest first
        begun = 0
        while True:
            while ends[0][0] <= begun + self.chunk:  # a chunk and the character after it
                text = next(texts, None)
                if text is None:
                    return
                end, lane = ends[0]
                heapq.heapreplace(ends, (end + len(text) + 1, lane))
                mine, other = divmod(lane - self.rank, self.world)
                if not other:
                    lanes[mine] = torch.cat([lanes[mine], self.encode(text + "\n")])
            block = torch.stack([ids[: self.chunk + 1] for ids in lanes], 1)
            lanes = [ids[self.chunk :] for ids in lanes]
            resets = torch.zeros(self.chunk, self.batch_size, dtype=torch.bool)
            resets[0] = not begun
            begun += self.chunk
            yield Batch(block[:-1].contiguous(), block[1:].contiguous(), lengths, resets, names)


def hub_text(
    *,
    path: str | None = None,
    subset: str | None = None,
    column: str = "text",
    streaming: bool = True,
    online: bool = False,
    batch_size: int = 32,
    chunk: int = 128,
    vocab: int = 96,
    vocab_chars: int = 2_000_000,
    epoch_batches: int = 200,
    eval_batches: int = 20,
    shuffle: int = 0,
    rank: int = 0,
    world: int = 1,
    seed: int = 0,
    on_error: str = "stop",
) -> HubText:
    """Read text from `path`: a .txt, .jsonl, .csv or .parquet file, a folder of them, or a name on the Hub.

    A row is a document (of .txt a line). Nothing touches the network without online=true; streaming=false
    fetches a dataset of the Hub whole before it starts. Lanes are shared out by rank. ConfigError and
    DataError name what cannot be had or read; on_error=skip goes on behind a file that breaks off.
    """
    for option, value, least in (
        ("batch_size", batch_size, 1),
        ("chunk", chunk, 1),
        ("vocab", vocab, 2),
        ("vocab_chars", vocab_chars, 1),
        ("epoch_batches", epoch_batches, 1),
        ("eval_batches", eval_batches, 1),
        ("shuffle", shuffle, 0),
        ("world", world, 1),
        ("rank", rank, 0),
        ("seed", seed, 0),
    ):
        at_least(option, value, least)
    if path is None:
        raise ConfigError("data.path", "no text is given", "Give files or a name on the Hub: data.path=FILE")
    faults = Faults(on_error)
    if Path(path).expanduser().exists() or Path(path).suffix in (".txt", ".jsonl", ".csv", ".parquet"):
        source = local_source(path, column, faults)
    else:
        source = hub_source(path, subset, column, streaming, online)
    try:
        return HubText(
            source,
            f"{path} {subset}" if subset else path,
            batch_size=batch_size,
            chunk=chunk,
            vocab=vocab,
            vocab_chars=vocab_chars,
            epoch_batches=epoch_batches,
            eval_batches=eval_batches,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world=world,
            faults=faults,
        )
    finally:  # also where too little is left
        faults.say()
