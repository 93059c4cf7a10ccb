"""audio_folder: recordings of your own with a class or a text each."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.data import features, sound
from framework.data.batch import SPLITS, UNSCORED, Split
from framework.data.cache import cached, load_tensors, source_digest
from framework.data.faults import Faults
from framework.data.options import at_least, one_of
from framework.data.sound import read_sound
from framework.data.speech_table import COLUMNS, read_part, write_tables
from framework.data.utterances import Part, Utterances, frames_needed
from framework.errors import ConfigError, DataError

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".sph", ".aiff")
FOLDERS: dict[str, Split] = {
    "train": "train",
    "dev": "dev",
    "validation": "dev",
    "valid": "dev",
    "test": "test",
}
TABLE = "metadata.csv"


@dataclass(frozen=True)
class Item:
    """One recording, its split and its labels in a row: one class, or the units of its text."""

    file: Path
    name: str
    split: Split
    labels: tuple[str, ...]


def audio_folder(
    *,
    path: str | None = None,
    labels: str = "folder",
    units: str = "words",
    n_mels: int = 40,
    energy: bool = False,
    deltas: int = 0,
    batch_size: int = 8,
    seed: int = 0,
    on_error: str = "stop",
    cache_dir: str | None = None,
) -> Utterances:
    """Read the recordings below `path`; x [T, B, (n_mels + energy) * (deltas + 1)], normalised.

    labels: `folder`, the class is the folder that a recording lies in; `class` or `text`, that column of
    metadata.csv (beside `file_name`, which is relative to it); `txt`, the file of the same name that ends so.
    A class is scored at the recording's last frame (task=framewise: accuracy over recordings); a text is
    learned without times (task=ctc), by `units`: words (parted by blanks; write phones so) or characters.
    Where `path` has folders train, dev (or validation) and test they are the splits; else of every ten
    recordings, by name, one is for dev and one for test. Audio of any rate is brought to 16 kHz, channels are
    averaged. ConfigError without recordings; DataError names a file that is broken, empty, without a label,
    with one that does not occur in training, or too short for its text (on_error: `skip` leaves it out).
    """
    one_of("labels", labels, ("folder", "class", "text", "txt"))
    one_of("units", units, ("words", "characters"))
    for option, value, least in (("n_mels", n_mels, 2), ("deltas", deltas, 0), ("batch_size", batch_size, 1)):
        at_least(option, value, least)
    at_least("seed", seed, 0)
    faults = Faults(on_error)
    items = find_items(path, labels, units, faults)
    known = tuple(sorted({each for item in items for each in item.labels if item.split == "train"}))
    stamps = [(item.file.stat().st_size, item.file.stat().st_mtime_ns) for item in items]
    key = {
        "items": [
            [str(item.file), item.split, item.labels, *stamp]
            for item, stamp in zip(items, stamps, strict=True)
        ],
        "labels": labels,
        "n_mels": n_mels,
        "energy": energy,
        "deltas": deltas,
        "columns": list(COLUMNS),
        "on_error": on_error,
        "source": source_digest(features, sound),
    }
    texts = labels in ("text", "txt")

    def build(work: Path) -> None:
        row = partial(
            _row, index={name: i for i, name in enumerate(known)}, texts=texts, shape=(n_mels, energy)
        )
        splits: dict[Split, list[Item]] = {s: [item for item in items if item.split == s] for s in SPLITS}
        write_tables(work, splits, row, deltas, Faults(on_error))

    folder = cached(cache_dir, "audio_folder", key, build)
    faults.load(folder)
    classes = torch.tensor([*range(len(known)), UNSCORED])
    parts: dict[Split, Part] = {split: read_part(folder / split, deltas, classes) for split in SPLITS}
    scale = load_tensors(folder / "moments.pt")
    data = Utterances(
        "audio_folder", parts, known, scale["mean"], scale["deviation"], batch_size, seed,
        note=faults.say(), groups="folder",
    )  # fmt: skip
    data.tasks = ("ctc",) if texts else ("framewise",)
    return data


def find_items(path: str | None, labels: str, units: str, faults: Faults) -> list[Item]:
    """All recordings with their labels, by name."""
    if path is None:
        raise ConfigError("data.path", "no folder is given", "Give one with recordings: data.path=FOLDER")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ConfigError("data.path", f"there is no folder {root}", "Give one with recordings")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in AUDIO and p.is_file())
    if not files:
        raise ConfigError("data.path", f"{root} holds no {', '.join(AUDIO)}", "Give another folder")
    named = {p.name.lower() for p in root.iterdir() if p.is_dir()} & set(FOLDERS)
    tables = _tables(root, labels) if labels in ("class", "text") else {}
    turns: dict[int, Split] = {8: "dev", 9: "test"}
    items = []
    for number, file in enumerate(files):
        name = file.relative_to(root)
        split = FOLDERS.get(name.parts[0].lower()) if named else turns.get(number % 10, "train")
        if split is None:
            continue  # beside the folders of splits: not part of them
        try:
            text = _label(file, root, labels, tables).strip()
            if not text:
                raise DataError(str(file), "its label is empty", "Write one, or remove it")
        except DataError as error:
            faults.add(error)
            continue
        words = tuple(text.split())
        if labels in ("folder", "class"):
            words = (text,)
        elif units == "characters":
            words = tuple(" ".join(words))
        items.append(Item(file, _readable(str(name)), split, words))
    for each in SPLITS:
        if not any(item.split == each for item in items):
            raise ConfigError(
                "data.path",
                f"{root} has no recordings for {each}",
                "Ten recordings at least are needed, or folders train, dev and test",
            )
    return items


def _readable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 (from another system) as \\xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _label(file: Path, root: Path, labels: str, tables: dict[Path, str]) -> str:
    """What is written of a recording. Raises DataError where there is nothing."""
    if labels == "folder":
        if file.parent == root or file.parent.name.lower() in FOLDERS:
            raise DataError(str(file), "it lies in no folder of a class", "Move it into one")
        return _readable(file.parent.name)
    if labels == "txt":
        try:
            return file.with_suffix(".txt").read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise DataError(str(file), "its TXT file is missing", "Write one, or remove it") from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(str(file.with_suffix(".txt")), f"cannot be read ({error})", "Mend it") from error
    if file.resolve() not in tables:
        raise DataError(str(file), f"no {TABLE} above it names it", "Add a line, or remove it")
    return tables[file.resolve()]


def _tables(root: Path, column: str) -> dict[Path, str]:
    """The labels in all metadata.csv below `root`, by file."""
    found: dict[Path, str] = {}
    files = sorted(root.rglob(TABLE))
    if not files:
        raise ConfigError("data.labels", f"there is no {TABLE} in {root}", "Write one, or data.labels=folder")
    for path in files:
        try:
            with open(path, encoding="utf-8-sig", newline="") as lines:  # spreadsheets begin it by a mark
                rows = list(csv.DictReader(lines))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(str(path), f"cannot be read ({error})", "Mend it") from error
        for number, row in enumerate(rows, 2):
            if row.get("file_name") is None or row.get(column) is None:
                raise DataError(f"{path}:{number}", f"no file_name and {column} in it", "Name both columns")
            found[(path.parent / row["file_name"]).resolve()] = row[column]
    return found


def _row(item: Item, index: dict[str, int], texts: bool, shape: tuple[int, bool]) -> dict[str, Any]:
    """What the table holds of a recording. Raises DataError for one that cannot be used."""
    strange = sorted(set(item.labels) - set(index))
    if strange:
        raise DataError(str(item.file), f"its label '{strange[0]}' does not occur in training", "Mend it")
    x = features.fbank(read_audio(item.file), *shape)
    if not len(x):
        raise DataError(str(item.file), "shorter than one window of 25 ms", "Remove it")
    if not bool(x.isfinite().all()):
        raise DataError(str(item.file), "its samples are too large to be sound", "Mend or remove it")
    numbers = [index[each] for each in item.labels]
    if texts and frames_needed(numbers) > len(x):
        cause = f"its {len(numbers)} labels need {frames_needed(numbers)} frames or more, it has {len(x)}"
        raise DataError(str(item.file), cause, "Is this its text?")
    y = np.full(len(x), -1, dtype=np.int16)
    if not texts:
        y[-1] = numbers[0]
    return {
        "id": item.name,
        "speaker": str(Path(item.name).parent),
        "frames": len(x),
        "x": x.reshape(-1).numpy(),
        "y": y,
        "targets": numbers,
    }


def read_audio(path: Path) -> Tensor:
    """Samples [n] float32 at 16 kHz in int16 range, channels averaged. DataError for what is no audio."""
    data, rate = read_sound(path, "float32", "Mend or remove it")
    if not np.isfinite(data).all():
        step = int(np.flatnonzero(~np.isfinite(data).all(1))[0])
        raise DataError(str(path), f"sample {step} is not a number", "Mend or remove it")
    return torch.from_numpy(resample(data.mean(1), rate) * np.float32(32768))


def resample(wave: np.ndarray, rate: int) -> np.ndarray:
    """A wave [n] at 16 kHz, [round(n * 16000 / rate)] float32: its spectrum, cut or continued by zeros."""
    if rate == features.SAMPLE_RATE:
        return wave.astype(np.float32)
    samples = max(1, round(len(wave) * features.SAMPLE_RATE / rate))
    spectrum = np.fft.rfft(wave)[: samples // 2 + 1]
    return (np.fft.irfft(spectrum, samples) * (samples / len(wave))).astype(np.float32)
