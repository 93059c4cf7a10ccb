"""text: a character model on any UTF-8 file, as streams that go on from chunk to chunk."""

from __future__ import annotations

import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from framework.data.batch import SPLITS, Batch, Split
from framework.data.options import at_least
from framework.data.order import generator
from framework.errors import ConfigError, DataError

OTHER = "\ufffd"  # what decode writes for a character outside the vocabulary
SHARES: dict[Split, float] = {"train": 0.90, "dev": 0.05, "test": 0.05}  # contiguous, in this order


class Characters:
    """A vocabulary: the most frequent characters, in that order; the last id stands for every other one."""

    def __init__(self, chars: Sequence[str]):
        self.chars = tuple(chars)
        self._ids = {c: i for i, c in enumerate(self.chars[:-1])}

    @classmethod
    def of(cls, text: str, vocab: int) -> Characters:
        """Take the vocab - 1 most frequent characters of `text` (ties by code point) and `OTHER`."""
        counts = Counter(text)
        counts.pop(OTHER, None)
        ranked = sorted(counts, key=lambda c: (-counts[c], c))
        return cls([*ranked[: vocab - 1], OTHER])

    def encode(self, text: str) -> Tensor:
        """Text -> ids [len(text)] int64."""
        other = len(self.chars) - 1
        return torch.tensor([self._ids.get(c, other) for c in text], dtype=torch.int64)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Ids -> text."""
        return "".join(self.chars[int(i)] for i in ids)


class Text:
    """The `Dataset` of one text: x [T, B] characters, y [T, B] the character after each.

    A split is cut into lanes of contiguous text (batch_size, in dev and test eval_streams); every batch goes
    on where the one before it ended (carry). `resets` is True at the first step of an epoch and nowhere else.
    In training each epoch begins a random part of a chunk late, so that chunks are cut at other places.
    """

    name = "text"
    kind: Literal["classes", "regression"] = "classes"
    tasks: tuple[str, ...] = ("characters", "framewise")
    carry = True
    fold: tuple[int, ...] | None = None
    fold_labels: tuple[str, ...] | None = None

    def __init__(
        self,
        source: str,
        text: str,
        batch_size: int,
        chunk: int,
        vocab: int,
        seed: int,
        eval_streams: int | None = None,
    ):
        self.source, self.chunk, self.seed = source, chunk, seed
        other = eval_streams or batch_size
        self.lanes: dict[Split, int] = {"train": batch_size, "dev": other, "test": other}
        edges = [
            0,
            *(round(s * len(text)) for s in (SHARES["train"], SHARES["train"] + SHARES["dev"])),
            len(text),
        ]
        pieces = {split: text[a:b] for split, a, b in zip(SPLITS, edges[:-1], edges[1:], strict=True)}
        self.vocabulary = Characters.of(pieces["train"], vocab)
        self.ids = {split: self.vocabulary.encode(piece) for split, piece in pieces.items()}
        for split in SPLITS:
            ids, count = self.ids[split], self.lanes[split]
            if len(ids) < count * 2 + (chunk if split == "train" else 0):
                raise DataError(
                    source,
                    f"its {split} part has {len(ids)} characters, too few for {count} lanes of chunks "
                    f"of {chunk}",
                    "Take a longer text, or a smaller data.streams, data.eval_streams or data.chunk",
                )
        self.labels = self.vocabulary.chars
        self.classes = len(self.labels)
        self.input = {"vocab": self.classes}

    def encode(self, text: str) -> Tensor:
        """Text -> ids [len(text)] int64."""
        return self.vocabulary.encode(text)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Ids -> text."""
        return self.vocabulary.decode(ids)

    def batches(self, split: Split, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Chunks of an epoch in order; the last one may be shorter."""
        lanes = self._lanes(split, epoch)  # [B, L + 1]
        steps = lanes.shape[1] - 1
        names = tuple(f"{split}/lane{b}" for b in range(self.lanes[split]))
        for begin in range(start * self.chunk, steps, self.chunk):
            end = min(begin + self.chunk, steps)
            resets = torch.zeros(end - begin, self.lanes[split], dtype=torch.bool)
            resets[0] = begin == 0
            yield Batch(
                lanes[:, begin:end].T.contiguous(),
                lanes[:, begin + 1 : end + 1].T.contiguous(),
                torch.full((self.lanes[split],), end - begin, dtype=torch.int64),
                resets,
                names,
            )

    def count(self, split: Split, epoch: int) -> int:
        """Return the number of chunks of an epoch."""
        return -(-self._span(split, epoch)[1] // self.chunk)

    def describe(self) -> str:
        """One paragraph: source, characters per split, vocabulary."""
        sizes = ", ".join(f"{split} {len(self.ids[split]):,}" for split in SPLITS)
        unknown = float((self.ids["train"] == self.classes - 1).double().mean())
        train, dev = self.lanes["train"], self.lanes["dev"]
        lanes = f"{train} lanes" if train == dev else f"{train} lanes ({dev} in dev and test)"
        return (
            f"text: {self.source}; characters: {sizes}; {lanes} in chunks of {self.chunk}; "
            f"{self.classes} classes, the last one for any other ({unknown:.2%} of the training text)."
        )

    def _span(self, split: Split, epoch: int) -> tuple[int, int]:
        """Where the first lane begins, and the steps of each."""
        size, late = len(self.ids[split]), 0
        if split == "train":
            room = min(self.chunk, size - 2 * self.lanes[split])
            late = int(generator(self.seed, split, epoch).integers(room))
        return late, (size - 1 - late) // self.lanes[split]

    def _lanes(self, split: Split, epoch: int) -> Tensor:
        """One row per lane [B, steps + 1], each row's last character being the first of the next row's."""
        late, steps = self._span(split, epoch)
        begins = late + steps * torch.arange(self.lanes[split])
        return self.ids[split][begins.unsqueeze(1) + torch.arange(steps + 1)]


def text(
    *,
    path: str | None = None,
    max_chars: int = 2_000_000,
    vocab: int = 96,
    chunk: int = 128,
    batch_size: int = 32,
    streams: int | None = None,
    eval_streams: int | None = None,
    seed: int = 0,
) -> Text:
    """Read a UTF-8 file (without `path`: the running Python's own library source) as `streams` lanes, in dev
    and test as `eval_streams` (None: batch_size; as many as in training).
    """
    streams = batch_size if streams is None else streams
    for option, value, least in (
        ("max_chars", max_chars, 1),
        ("vocab", vocab, 2),
        ("chunk", chunk, 1),
        ("batch_size", batch_size, 1),
        ("streams", streams, 1),
        ("eval_streams", streams if eval_streams is None else eval_streams, 1),
        ("seed", seed, 0),
    ):
        at_least(option, value, least)
    source, content = _read(Path(path).expanduser(), max_chars) if path else _library(max_chars)
    return Text(source, content, streams, chunk, vocab, seed, eval_streams)


def _read(path: Path, max_chars: int) -> tuple[str, str]:
    try:
        with open(path, encoding="utf-8-sig") as file:  # without the mark that some editors begin with
            return str(path), file.read(max_chars)
    except FileNotFoundError as error:
        raise ConfigError(
            "data.path", f"there is no file {path}", "Give a UTF-8 text file: data.path=/file"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            str(path), f"not UTF-8 ({error.reason} at byte {error.start})", "Convert it to UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(
            "data.path", f"cannot read {path} ({error.strerror})", "Give a UTF-8 text file"
        ) from error


def _library(max_chars: int) -> tuple[str, str]:
    """Return the standard library's own modules, by name, one after another: text that every Python has."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    pieces, size = [], 0
    for path in sorted(folder.glob("*.py")):
        if size >= max_chars:
            break
        pieces.append(path.read_text(encoding="utf-8"))
        size += len(pieces[-1])
    if not pieces:
        raise ConfigError(
            "data.path", f"this Python has no library source in {folder}", "Give a text: data.path=/file"
        )
    version = sysconfig.get_python_version()
    return f"the library source of Python {version}", "".join(pieces)[:max_chars]
