"""Hugging Face datasets: imported late, quiet, and off the network unless it is asked for."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from framework.errors import ConfigError, DataError

OFFLINE = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE")
WAIT = 10.0  # seconds for the Hub's first answer


def offline_datasets() -> ModuleType:
    """The module `datasets`, off the network and quiet; imported late, since it takes over a second."""
    for variable in (*OFFLINE, "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(variable, "1")
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is raised too, and told once
    return datasets


def hub_datasets(name: str, online: bool) -> ModuleType:
    """The module `datasets` to load `name`, with the network if `online`, once the Hub has answered for it.

    Raises ConfigError within `WAIT` seconds when it does not: `datasets` itself would try again and again.
    """
    datasets = offline_datasets()
    import huggingface_hub

    # Both have read the environment when they were imported, perhaps for another dataset.
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = not online
    if not online:
        return datasets
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=WAIT)
    except Exception as error:  # of the HTTP client, the Hub, the name: each with classes of its own
        raise ConfigError(
            "data.path",
            f"'{name}' cannot be had from the Hub ({brief(error)})",
            "Check the name and the network; a copy on the disk needs none: data.path=FOLDER",
        ) from error
    return datasets


def file_pieces(kind: str, file: Path, rows: int) -> Iterator[Any]:
    """The rows of a local file in arrow tables of `rows`, read as they are needed.

    kind: csv, json, parquet, text. Raises DataError when the file cannot be read.
    """
    datasets = offline_datasets()
    try:
        if not os.stat(file).st_size:
            return  # an empty file has no rows, whatever its kind
        if kind == "csv":
            yield from _csv_pieces(file, rows)
            return
        with tempfile.TemporaryDirectory(prefix="intrastream-") as unused:  # nothing is kept, only a lock
            stream = datasets.load_dataset(
                kind, data_files=str(file), split="train", streaming=True, cache_dir=unused
            )
        yield from stream.with_format("arrow").iter(batch_size=rows)
    except Exception as error:  # pandas, arrow and datasets have many kinds of their own for a broken file
        raise DataError(
            str(file), f"cannot be read as {kind}: {brief(error)}", "Mend or remove it"
        ) from error


def _csv_pieces(file: Path, rows: int) -> Iterator[Any]:
    """A CSV file by arrow itself: `datasets` leaves the file open when it is not read to its end."""
    import pyarrow
    from pyarrow import csv

    with csv.open_csv(file) as first:  # types are those of its first megabyte
        schema = first.schema
    for each in schema:
        if pyarrow.types.is_binary(each.type):
            raise ValueError(f"column '{each.name}' is not UTF-8")
    # Whole numbers may be followed by others.
    types = {each.name: pyarrow.float64() for each in schema if pyarrow.types.is_integer(each.type)}
    with csv.open_csv(file, convert_options=csv.ConvertOptions(column_types=types)) as reader:
        for batch in reader:
            for begin in range(0, len(batch), rows):
                yield pyarrow.Table.from_batches([batch.slice(begin, rows)])


def brief(error: BaseException) -> str:
    """One line of what is at the bottom of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (" ".join(str(error).split()) or type(error).__name__)[:200].rstrip(". ")
