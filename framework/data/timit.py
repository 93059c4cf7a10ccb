"""timit: phones, by frame or in a row, of the real corpus (LDC93S1) or its public sample, through arrow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.data import features, timit_tables, timit_tree
from framework.data.batch import SPLITS, UNSCORED, Split
from framework.data.cache import cached, source_digest
from framework.data.faults import Faults
from framework.data.huggingface import offline_datasets
from framework.data.options import at_least, one_of
from framework.data.timit_tables import fold_to_39, phone_set, relabel
from framework.data.timit_tree import Recording, Tree, find, read_phn, read_wav
from framework.data.streams import Streams, streamed
from framework.data.utterances import Part, Utterances, moments
from framework.errors import ConfigError, DataError, UserError


def timit(
    *,
    root: str | None = None,
    phones: int = 61,
    n_mels: int = 40,
    energy: bool = False,
    deltas: int = 2,
    batch_size: int = 8,
    streams: int = 0,
    eval_streams: int = 0,
    chunk: int = 128,
    seed: int = 0,
    on_error: str = "stop",
    cache_dir: str | None = None,
) -> Utterances | Streams:
    """Read the corpus under `root` (or $TIMIT_ROOT): x [T, B, (n_mels + energy) * (deltas + 1)], y one of
    `phones` a frame; targets are all phones of the labels in a row, however short (without q where it has no
    class).

    Features are log-mel energies with deltas, normalised by the training speakers. `fold` scores the 39
    phones of Lee & Hon; q is not scored. The splits are those of `timit_tree.find`. ConfigError without a
    corpus, DataError for a bad file (on_error: `skip` leaves it out).
    """
    one_of("phones", phones, (61, 48, 39))
    for option, value, least in (("n_mels", n_mels, 2), ("deltas", deltas, 0), ("batch_size", batch_size, 1)):
        at_least(option, value, least)
    at_least("seed", seed, 0)
    faults = Faults(on_error)
    place = _root(root)
    try:
        tree = find(place, faults)
    except OSError as error:
        raise ConfigError(
            "data.root", f"cannot read {place} ({error.strerror})", "Mend its permissions"
        ) from error
    key = {
        "files": {split: [_stamp(r) for r in tree.splits[split]] for split in SPLITS},
        "n_mels": n_mels,
        "energy": energy,
        "deltas": deltas,
        "columns": list(COLUMNS),
        "on_error": on_error,
        "source": source_digest(features, timit_tables, timit_tree),
    }
    folder = cached(
        cache_dir, "timit", key, lambda work: _build(work, tree, n_mels, energy, deltas, on_error)
    )
    faults.load(folder)
    classes = torch.tensor([*relabel(phones, UNSCORED), UNSCORED])  # the last, at -1: frames without label
    parts: dict[Split, Part] = {split: _part(folder / split, deltas, classes) for split in SPLITS}
    scale = torch.load(folder / "moments.pt", weights_only=True)
    whole = Utterances(
        "timit",
        parts,
        phone_set(phones),
        scale["mean"],
        scale["deviation"],
        batch_size,
        seed,
        fold=fold_to_39(phones),
        fold_labels=phone_set(39),
        note=" ".join(filter(None, (tree.note, faults.say()))),
    )
    return streamed(whole, streams, eval_streams, chunk)


def _root(root: str | None) -> Path:
    given = root or os.environ.get("TIMIT_ROOT")
    if not given:
        raise ConfigError(
            "data.root",
            "timit needs the corpus LDC93S1, which only its publisher licenses (https://catalog.ldc.upenn.edu/LDC93S1)",
            "Point to your copy: data.root=/path or TIMIT_ROOT=/path. Without one: data=synth_speech",
        )
    path = Path(given).expanduser()
    if not path.is_dir():
        place = "data.root" if root else "TIMIT_ROOT"
        raise ConfigError(
            place, f"there is no folder {path}", "Point to a copy of LDC93S1, or use data=synth_speech"
        )
    return path.resolve()


def _stamp(recording: Recording) -> list[Any]:
    """What changes when a file does: names, sizes and times."""
    stats = [path.stat() for path in (recording.wav, recording.phn)]
    return [str(recording.wav), *((s.st_size, s.st_mtime_ns) for s in stats)]


# of a split's arrow table; those of a list are a type of each item
COLUMNS: dict[str, str | list[str]] = {
    "id": "string",
    "speaker": "string",
    "frames": "int32",
    "x": ["float32"],  # [frames * features], without deltas
    "y": ["int16"],  # [frames], class among the 61, -1 for none
    "targets": ["int16"],  # [segments], classes among the 61
}


def _build(work: Path, tree: Tree, n_mels: int, energy: bool, deltas: int, on_error: str) -> None:
    """Write one arrow table a split, mean and deviation of the training features, and what was left out."""
    datasets = offline_datasets()
    faults = Faults(on_error)
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
                gen_kwargs={
                    "split": split,
                    "recordings": tree.splits[split],
                    "n_mels": n_mels,
                    "energy": energy,
                    "faults": faults,
                },
                fingerprint=f"{work.name}-{split}",  # no hashing of our objects: `cached` has the key
            )
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from None
            raise
        table.save_to_disk(str(work / split))
        del table  # closes the map of the scratch file
    shutil.rmtree(scratch)
    classes = torch.arange(62)  # any: only features count here
    mean, deviation = moments(_part(work / "train", deltas, classes))
    torch.save({"mean": mean, "deviation": deviation}, work / "moments.pt")
    faults.save(work)


def _rows(
    split: Split, recordings: tuple[Recording, ...], n_mels: int, energy: bool, faults: Faults
) -> Iterator[dict[str, Any]]:
    good = 0
    for recording in recordings:
        try:
            row = _row(recording, n_mels, energy)
        except DataError as error:
            faults.add(error)
        else:
            good += 1
            yield row
    if not good:
        raise DataError(split, "none of its recordings can be used", "Copy the corpus again")


def _row(recording: Recording, n_mels: int, energy: bool) -> dict[str, Any]:
    """What a table holds of a recording. Raises DataError for a file that cannot be used."""
    index = {name: i for i, name in enumerate(phone_set(61))}
    wave = read_wav(recording.wav)
    segments = read_phn(recording.phn, len(wave))
    x = features.fbank(wave, n_mels, energy)
    if not len(x):
        raise DataError(str(recording.wav), "shorter than one window of 25 ms", "Remove it, with its .PHN")
    return {
        "id": recording.name,
        "speaker": recording.speaker,
        "frames": len(x),
        "x": x.reshape(-1).numpy(),
        "y": features.frame_labels(segments, len(x), index, -1).numpy(),
        "targets": [index[segment.label] for segment in segments],
    }


def _part(folder: Path, deltas: int, classes: Tensor) -> Part:
    """Map a table; `classes` [62] turns a stored class into one of the set in use, its last entry -1."""
    try:
        table = offline_datasets().load_from_disk(str(folder))
        ids, speakers, frames = (tuple(table[name]) for name in ("id", "speaker", "frames"))
        said = [classes[torch.tensor(row)].tolist() for row in table["targets"]]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            str(folder),
            f"the cached corpus cannot be read ({error})",
            f"Delete {folder.parent}: it is made again",
        ) from error
    table = table.with_format("numpy", columns=["x", "y"])

    def load(i: int) -> tuple[Tensor, Tensor]:
        row = table[i]
        x = torch.tensor(row["x"], dtype=torch.float32).reshape(frames[i], -1)
        return features.add_deltas(x, deltas), classes[torch.tensor(row["y"], dtype=torch.int64)]

    return Part(ids, speakers, frames, load, tuple(tuple(c for c in row if c >= 0) for row in said))
