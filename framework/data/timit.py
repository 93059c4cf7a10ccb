"""timit: phones, by frame or in a row, of the real corpus (LDC93S1) or its public sample, through arrow."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from framework.data import features, sound, timit_tables, timit_tree
from framework.data.batch import SPLITS, UNSCORED, Split
from framework.data.cache import cached, load_tensors, source_digest
from framework.data.faults import Faults
from framework.data.options import at_least, one_of
from framework.data.speech_table import COLUMNS, read_part, write_tables
from framework.data.streams import Streams, streamed
from framework.data.timit_tables import fold_to_39, phone_set, relabel
from framework.data.timit_tree import Recording, find, read_phn, read_wav
from framework.data.utterances import Part, Utterances
from framework.errors import ConfigError, DataError


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
        "source": source_digest(features, sound, timit_tables, timit_tree),
    }

    def build(work: Path) -> None:
        row = partial(_row, n_mels=n_mels, energy=energy)
        write_tables(work, tree.splits, row, deltas, Faults(on_error))

    folder = cached(cache_dir, "timit", key, build)
    faults.load(folder)
    classes = torch.tensor([*relabel(phones, UNSCORED), UNSCORED])  # the last, at -1: frames without label
    parts: dict[Split, Part] = {split: read_part(folder / split, deltas, classes) for split in SPLITS}
    scale = load_tensors(folder / "moments.pt")
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
