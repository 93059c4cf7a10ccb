"""Finding and reading the files of a TIMIT tree: LDC layout in either case, or the flat public sample."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from framework.data.batch import Split
from framework.data.faults import Faults
from framework.data.features import SAMPLE_RATE, Segment
from framework.data.sound import read_sound
from framework.data.timit_tables import core_test_speakers, dev_speakers, phone_map
from framework.errors import ConfigError, DataError

DIALECT = re.compile(r"dr[1-8]")
FLAT = re.compile(r"(dr[1-8])-([a-z0-9]+)")
# samples that labels may end behind the audio: 0.1 s; the public sample's end 1 sample behind at most
OVERHANG = 1600


@dataclass(frozen=True)
class Recording:
    """One sentence: `name` is drN-speaker/sentence in lower case, whatever the case of the files."""

    name: str
    speaker: str
    wav: Path
    phn: Path


@dataclass(frozen=True)
class Tree:
    """Recordings per split, without SA sentences, and one sentence on how they were split."""

    splits: dict[Split, tuple[Recording, ...]]
    note: str


def find(root: Path, faults: Faults | None = None) -> Tree:
    """Find the recordings under `root` (or its folder TIMIT) and split them by speaker.

    LDC layout: TRAIN, and of TEST the official development and core test speakers; where TEST has none of
    those (a tree that is not the corpus), its speakers by turns. Flat layout: sorted by folder, the last
    eighth of the speakers is the test, the eighth before it dev, the rest train. ConfigError where there is
    no such tree; DataError where a file is missing, unless `faults` skips it.
    """
    faults = faults or Faults()
    for base in (root, *_children(root, "timit")):
        train, test = _children(base, "train"), _children(base, "test")
        if train and test:
            return _official(_ldc(train[0], faults), _ldc(test[0], faults), root)
        flat = _flat(base, faults)
        if flat:
            return _eighths(flat, root)
    raise ConfigError(
        "data.root",
        f"{root} has neither TRAIN and TEST nor drN-speaker folders",
        "Point to the folder of LDC93S1 with TRAIN and TEST, or take the generated corpus: data=synth_speech",
    )


def _children(folder: Path, name: str = "") -> list[Path]:
    """Folders in `folder`, by name in lower case; only those called `name` if given."""
    if not folder.is_dir():
        return []
    inside = [p for p in folder.iterdir() if p.is_dir() and (not name or p.name.lower() == name)]
    return sorted(inside, key=lambda p: (p.name.lower(), p.name))


def _ldc(folder: Path, faults: Faults) -> list[Recording]:
    found: list[Recording] = []
    for dialect in _children(folder):
        if DIALECT.fullmatch(dialect.name.lower()):
            for speaker in _children(dialect):
                found += _recordings(speaker, dialect.name.lower(), speaker.name.lower(), faults)
    return found


def _flat(folder: Path, faults: Faults) -> list[Recording]:
    found: list[Recording] = []
    for speaker in _children(folder):
        match = FLAT.fullmatch(speaker.name.lower())
        if match:
            found += _recordings(speaker, match[1], match[2], faults)
    return found


def _recordings(folder: Path, dialect: str, speaker: str, faults: Faults) -> Iterator[Recording]:
    """Yield the recordings of a speaker but for SA: every .WAV needs its .PHN and the other way round."""
    by_kind: dict[str, dict[str, Path]] = {".wav": {}, ".phn": {}}
    for path in folder.iterdir():
        stem, kind = path.stem.lower(), path.suffix.lower()
        if (
            kind in by_kind and "." not in stem and not stem.startswith("sa")
        ):  # a copy SX1.WAV.wav is not ours
            by_kind[kind][stem] = path
    waves, labels = by_kind[".wav"], by_kind[".phn"]
    for sentence in sorted(waves.keys() | labels.keys()):
        here = waves.get(sentence) or labels[sentence]
        missing = [kind[1:].upper() for kind, files in by_kind.items() if sentence not in files]
        if missing:
            cause = f"its {missing[0]} file is missing"
            faults.add(DataError(str(here), cause, "Copy it from the corpus, or remove this one"))
            continue
        yield Recording(f"{dialect}-{speaker}/{sentence}", speaker, waves[sentence], labels[sentence])


def _official(train: list[Recording], rest: list[Recording], root: Path) -> Tree:
    speakers = sorted({r.speaker for r in rest})
    dev, test = dev_speakers() & set(speakers), core_test_speakers() & set(speakers)
    if dev and test:
        trained = {r.speaker for r in train}
        complete = (len(trained), len(dev), len(test)) == (462, 50, 24)
        note = "Official split (training set, 50 development and 24 core test speakers), without SA"
        note += (
            "."
            if complete
            else f", but this copy has only {len(trained)}, {len(dev)}, {len(test)} speakers of them."
        )
    else:
        dev, test = frozenset(speakers[::2]), frozenset(speakers[1::2])
        note = (
            "Not the official split: TEST has none of its speakers, so dev and test take turns; without SA."
        )
    return _tree(
        train, [r for r in rest if r.speaker in dev], [r for r in rest if r.speaker in test], note, root
    )


def _eighths(found: list[Recording], root: Path) -> Tree:
    speakers = list(dict.fromkeys(r.speaker for r in found))  # in order of dialect and name
    share = max(1, len(speakers) // 8)
    parts = speakers[: -2 * share], speakers[-2 * share : -share], speakers[-share:]
    train, dev, test = ([r for r in found if r.speaker in set(part)] for part in parts)
    sizes = "/".join(str(len(part)) for part in parts)
    return _tree(
        train, dev, test, f"Flat sample, split {sizes} by speaker in order of folders; without SA.", root
    )


def _tree(train: list[Recording], dev: list[Recording], test: list[Recording], note: str, root: Path) -> Tree:
    splits: dict[Split, tuple[Recording, ...]] = {
        "train": tuple(train),
        "dev": tuple(dev),
        "test": tuple(test),
    }
    for split, recordings in splits.items():
        if not recordings:
            raise ConfigError(
                "data.root",
                f"{root} has no recordings for {split}",
                "Three speakers at least are needed, with .WAV and .PHN",
            )
    return Tree(splits, note)


def read_wav(path: Path) -> Tensor:
    """Samples [n] int16 of a 16 kHz mono file, SPHERE or RIFF. DataError for anything else."""
    again = "Copy it from the corpus again"
    if b"shorten" in _head(path):
        raise DataError(str(path), "shorten-compressed audio", "Decompress it (sph2pipe or w_decode)")
    data, rate = read_sound(path, "int16", again)
    if rate != SAMPLE_RATE or data.shape[1] != 1:
        raise DataError(
            str(path),
            f"{rate} Hz with {data.shape[1]} channels instead of 16000 Hz mono",
            "Convert it, or copy it again",
        )
    promised = re.search(rb"sample_count -i (\d+)", _head(path))
    if promised and int(promised[1]) > len(data) + OVERHANG:
        raise DataError(
            str(path),
            f"cut short: {len(data)} of {int(promised[1])} samples are there",
            again,
        )
    return torch.from_numpy(data[:, 0].copy())


def _head(path: Path) -> bytes:
    """Return the first kilobyte: a SPHERE header is there whole; nothing of a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(1024)
    except OSError:
        return b""  # the reader of the audio has its own words for that


def read_phn(path: Path, samples: int) -> list[Segment]:
    """Segments of a .PHN file: lines `begin end phone` in samples. DataError names the line that is wrong."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            str(path), f"cannot read the labels: {error}", "Copy it from the corpus again"
        ) from error
    segments = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if (
            len(words) != 3
            or not words[0].isdigit()
            or not words[1].isdigit()
            or int(words[0]) > int(words[1])
        ):
            raise DataError(
                f"{path}:{number}", f"{line!r} is not `begin end phone`", "Copy it from the corpus again"
            )
        label = words[2].lower()
        if label not in phone_map():
            raise DataError(
                f"{path}:{number}",
                f"'{label}' is none of TIMIT's 61 phones",
                "Map it to one of them in the file",
            )
        segments.append(Segment(int(words[0]), int(words[1]), label))
    if not segments:
        raise DataError(str(path), "there are no labels in it", "Copy it from the corpus again")
    if segments[-1].end > samples + OVERHANG:
        raise DataError(
            str(path),
            f"labels end at sample {segments[-1].end}, the audio has {samples}",
            "Are both of one sentence?",
        )
    return segments
