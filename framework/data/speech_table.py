"""Features and labels of recordings on disk: an arrow table a split, read through a map of the file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.data import features
from framework.data.batch import SPLITS, Split
from framework.data.cache import damaged, save_tensors
from framework.data.faults import Faults
from framework.data.huggingface import offline_datasets
from framework.data.utterances import Part, moments
from framework.errors import DataError, UserError

# of a split's arrow table; those of a list are a type of each item
COLUMNS: dict[str, str | list[str]] = {
    "id": "string",
    "speaker": "string",
    "frames": "int32",
    "x": ["float32"],  # [frames * features], without deltas
    "y": ["int16"],  # [frames], class of each frame, -1 for none
    "targets": ["int16"],  # labels of the whole recording in a row
}
Row = Callable[[Any], dict[str, Any]]  # what a table holds of a recording; raises DataError


def write_tables(
    work: Path, recordings: Mapping[Split, Sequence[Any]], row: Row, deltas: int, faults: Faults
) -> None:
    """Write a table for each split, mean and deviation of the training features, and what was left out.

    Raises the DataError of a recording, unless `faults` skips it, and one for a split without a good one.
    """
    datasets = offline_datasets()
    columns = datasets.Features(
        {
            name: datasets.Sequence(datasets.Value(kind[0]))
            if isinstance(kind, list)
            else datasets.Value(kind)
            for name, kind in COLUMNS.items()
        }
    )
    scratch = work / "making"
    for split in SPLITS:
        try:
            table = datasets.Dataset.from_generator(
                _rows,
                features=columns,
                cache_dir=str(scratch / split),
                gen_kwargs={  # a tuple: a list would be taken for shards
                    "split": split,
                    "recordings": tuple(recordings[split]),
                    "row": row,
                    "faults": faults,
                },
                fingerprint=f"{work.name}-{split}",  # no hashing of our objects: `cached` has the key
            )
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, UserError | OSError):  # of the data, or of the disk
                raise error.__cause__ from None
            raise
        table.save_to_disk(str(work / split))
        del table  # closes the map of the scratch file
    shutil.rmtree(scratch)
    mean, deviation = moments(read_part(work / "train", deltas))
    save_tensors({"mean": mean, "deviation": deviation}, work / "moments.pt")
    faults.save(work)


def _rows(split: Split, recordings: Sequence[Any], row: Row, faults: Faults) -> Iterator[dict[str, Any]]:
    good = 0
    for recording in recordings:
        try:
            made = row(recording)
        except DataError as error:
            faults.add(error)
        else:
            good += 1
            yield made
    if not good:
        raise DataError(split, "none of its recordings can be used", "Copy the corpus again")


def read_part(folder: Path, deltas: int, classes: Tensor | None = None) -> Part:
    """Map a table. `classes` turns a stored class into one of the set in use, its last entry -1 (none).

    Raises DataError for a table that is damaged.
    """
    try:
        table = offline_datasets().load_from_disk(str(folder))
        ids, speakers, frames = (tuple(table[name]) for name in ("id", "speaker", "frames"))
        said = [torch.tensor(row, dtype=torch.int64) for row in table["targets"]]
    except (OSError, ValueError, KeyError) as error:
        raise damaged(folder, folder.parent, str(error)) from error
    table = table.with_format("numpy", columns=["x", "y"])

    def load(i: int) -> tuple[Tensor, Tensor]:
        row = table[i]
        x = torch.tensor(row["x"], dtype=torch.float32).reshape(frames[i], -1)
        y = torch.tensor(row["y"], dtype=torch.int64)
        return features.add_deltas(x, deltas), y if classes is None else classes[y]

    named = (row.tolist() if classes is None else classes[row].tolist() for row in said)
    return Part(ids, speakers, frames, load, tuple(tuple(c for c in row if c >= 0) for row in named))
