"""timit: framewise phone classification on the real corpus (LDC93S1) or its public sample, through arrow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from framework.data import features, timit_tables, timit_tree
from framework.data.batch import SPLITS, UNSCORED, Split
from framework.data.cache import cached, source_digest
from framework.data.options import at_least, one_of
from framework.data.timit_tables import fold_to_39, phone_set, relabel
from framework.data.timit_tree import Recording, Tree, find, read_phn, read_wav
from framework.data.utterances import Part, Utterances, moments
from framework.errors import ConfigError, DataError, UserError


def timit(
    *,
    root: str | None = None,
    phones: int = 61,
    n_mels: int = 40,
    deltas: int = 2,
    batch_size: int = 8,
    seed: int = 0,
    cache_dir: str | None = None,
) -> Utterances:
    """Read the corpus under `root` (or $TIMIT_ROOT): x [T, B, n_mels * (deltas + 1)], y one of `phones` a
    frame.

    Features are log-mel energies with deltas, normalised by the training speakers. `fold` scores the 39
    phones of Lee & Hon; q is not scored. The splits are those of `timit_tree.find`. ConfigError without a
    corpus, DataError for a bad file.
    """
    one_of("phones", phones, (61, 48, 39))
    for option, value, least in (("n_mels", n_mels, 2), ("deltas", deltas, 0), ("batch_size", batch_size, 1)):
        at_least(option, value, least)
    at_least("seed", seed, 0)
    place = _root(root)
    try:
        tree = find(place)
    except OSError as error:
        raise ConfigError(
            "data.root", f"cannot read {place} ({error.strerror})", "Mend its permissions"
        ) from error
    key = {
        "files": {split: [_stamp(r) for r in tree.splits[split]] for split in SPLITS},
        "n_mels": n_mels,
        "deltas": deltas,
        "source": source_digest(features, timit_tables, timit_tree),
    }
    folder = cached(cache_dir, "timit", key, lambda work: _build(work, tree, n_mels, deltas))
    classes = torch.tensor([*relabel(phones, UNSCORED), UNSCORED])  # the last, at -1: frames without label
    parts: dict[Split, Part] = {split: _part(folder / split, n_mels, deltas, classes) for split in SPLITS}
    scale = torch.load(folder / "moments.pt", weights_only=True)
    return Utterances(
        "timit",
        parts,
        phone_set(phones),
        scale["mean"],
        scale["deviation"],
        batch_size,
        seed,
        fold=fold_to_39(phones),
        fold_labels=phone_set(39),
        note=tree.note,
    )


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


def _build(work: Path, tree: Tree, n_mels: int, deltas: int) -> None:
    """Write one arrow table a split, and mean and deviation of the training features."""
    datasets = _datasets()
    columns = datasets.Features(
        {
            "id": datasets.Value("string"),
            "speaker": datasets.Value("string"),
            "frames": datasets.Value("int32"),
            "x": datasets.Sequence(datasets.Value("float32")),  # [frames * n_mels], energies without deltas
            "y": datasets.Sequence(datasets.Value("int16")),  # [frames], class among the 61, -1 for none
        }
    )
    scratch = work / "making"
    for split in SPLITS:
        try:
            table = datasets.Dataset.from_generator(
                _rows,
                features=columns,
                cache_dir=str(scratch / split),
                gen_kwargs={"recordings": tree.splits[split], "n_mels": n_mels},
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
    mean, deviation = moments(_part(work / "train", n_mels, deltas, classes))
    torch.save({"mean": mean, "deviation": deviation}, work / "moments.pt")


def _rows(recordings: tuple[Recording, ...], n_mels: int) -> Iterator[dict[str, Any]]:
    index = {name: i for i, name in enumerate(phone_set(61))}
    for recording in recordings:
        wave = read_wav(recording.wav)
        segments = read_phn(recording.phn, len(wave))
        x = features.fbank(wave, n_mels)
        y = features.frame_labels(segments, len(x), index, -1)
        if not len(x):
            raise DataError(
                str(recording.wav), "shorter than one window of 25 ms", "Remove it, with its .PHN"
            )
        yield {
            "id": recording.name,
            "speaker": recording.speaker,
            "frames": len(x),
            "x": x.reshape(-1).numpy(),
            "y": y.numpy(),
        }


def _part(folder: Path, n_mels: int, deltas: int, classes: Tensor) -> Part:
    """Map a table; `classes` [62] turns a stored class into one of the set in use, its last entry -1."""
    try:
        table = _datasets().load_from_disk(str(folder))
        ids, speakers, frames = (tuple(table[name]) for name in ("id", "speaker", "frames"))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            str(folder),
            f"the cached corpus cannot be read ({error})",
            f"Delete {folder.parent}: it is made again",
        ) from error
    table = table.with_format("numpy", columns=["x", "y"])

    def load(i: int) -> tuple[Tensor, Tensor]:
        row = table[i]
        x = torch.tensor(row["x"], dtype=torch.float32).reshape(-1, n_mels)
        return features.add_deltas(x, deltas), classes[torch.tensor(row["y"], dtype=torch.int64)]

    return Part(ids, speakers, frames, load)


def _datasets() -> ModuleType:
    """Hugging Face datasets, off the network and quiet; imported late, since it takes over a second."""
    for variable in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(variable, "1")
    import datasets

    datasets.disable_progress_bars()
    return datasets
