"""Where text comes from: rows of local files or of a dataset of the Hub, one after another, never all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np

from framework.data.batch import SPLITS, Split
from framework.data.faults import Faults
from framework.data.huggingface import brief, file_pieces, hub_datasets
from framework.data.table import find_files
from framework.errors import ConfigError, DataError, UserError
from framework.names import did_you_mean

KINDS = {".txt": "text", ".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
ROWS = 256  # read at a time
NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "dev": ("validation", "dev"), "test": ("test",)}
BLOCK = 64  # documents; where a source has no splits, of every 20 blocks one is for dev and one for test

Source = Callable[[Split], Iterator[str]]  # the documents of a split, from the first; may raise DataError


def local_source(path: str, column: str, faults: Faults) -> Source:
    """Rows of the files `path`: lines of .txt, `column` of the others.

    A file that breaks off is a DataError, or ends there with a note. Raises ConfigError when there is none.
    """
    files = find_files(path, KINDS)

    def documents() -> Iterator[str]:
        for file in files:
            kind = KINDS[file.suffix.lower()]
            try:
                for piece in file_pieces(kind, file, ROWS):
                    yield from _texts(piece, "text" if kind == "text" else column, str(file))
            except DataError as error:
                if f"{error.place}: {error.cause}" not in faults.found:  # epochs read it again
                    faults.add(error)

    return lambda split: _by_blocks(documents(), split)


def hub_source(path: str, subset: str | None, column: str, streaming: bool, online: bool) -> Source:
    """Rows of a dataset of the Hub; without `online` only of one that was fetched before.

    Raises ConfigError at once when there is none.
    """
    datasets = hub_datasets(path, online)
    try:
        found = datasets.load_dataset(path, subset, streaming=streaming)
    except Exception as error:  # of the network, the cache, the builder: each with classes of its own
        fix = "Check data.path and data.subset" if online else "Allow the network: data.online=true"
        raise ConfigError(
            "data.path", f"'{path}' is no file and cannot be loaded ({brief(error)})", fix
        ) from error
    parts = {split: next((n for n in NAMES[split] if n in found), None) for split in SPLITS}
    if parts["train"] is None:
        raise ConfigError(
            "data.path", f"'{path}' has no split train, only {', '.join(found)}", "Choose other data"
        )
    whole = None in parts.values()

    def documents(split: Split) -> Iterator[str]:
        table = found[parts["train" if whole else split]]
        try:
            for piece in table.with_format("arrow").iter(batch_size=ROWS):
                yield from _texts(piece, column, path)
        except UserError:
            raise
        except Exception as error:  # the network again, or a broken shard
            raise DataError(path, f"reading broke off ({brief(error)})", "Resume the run") from error

    return lambda split: _by_blocks(documents(split), split) if whole else documents(split)


def _texts(piece: Any, column: str, place: str) -> Iterator[str]:
    names = piece.column_names
    if column not in names:
        raise ConfigError(
            "data.column",
            f"{place} has no column '{column}'",
            f"It has {', '.join(names)}.{did_you_mean(column, names)}",
        )
    for text in piece.column(column).to_pylist():
        if text is not None and not isinstance(text, str):
            raise ConfigError("data.column", f"'{column}' of {place} is no text", "Name another column")
        if text:
            yield text


def _by_blocks(documents: Iterator[str], split: Split) -> Iterator[str]:
    places: dict[int, Split] = {18: "dev", 19: "test"}
    for number, text in enumerate(documents):
        if places.get(number // BLOCK % 20, "train") == split:
            yield text


def endless(source: Source, split: Split, shuffle: int, seed: int) -> Iterator[str]:
    """The documents over and over, mixed within a window of `shuffle` of them (0: as they come).

    The order is drawn from (seed, pass) alone. Raises DataError when a pass brings nothing.
    """
    for turn in count():
        random = np.random.default_rng([seed, SPLITS.index(split), turn])
        window: list[str] = []
        some = False
        for text in source(split):
            some = True
            if shuffle:
                window.append(text)
                if len(window) <= shuffle:
                    continue
                place = int(random.integers(len(window)))
                window[place], window[-1] = window[-1], window[place]
                text = window.pop()
            yield text
        random.shuffle(window)
        yield from window
        if not some:
            raise DataError("data.path", f"there is no text for {split}", "Give more text, or data=text")
