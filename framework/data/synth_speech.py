"""synth_speech: a generated corpus in the shape of TIMIT, 39 phones, test speakers not heard in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from framework.data import features, phones, synthesis
from framework.data.batch import SPLITS, UNSCORED, Split
from framework.data.cache import cached, load_tensors, save_tensors, source_digest
from framework.data.options import at_least
from framework.data.phones import PHONES
from framework.data.streams import Streams, streamed
from framework.data.synthesis import Speaker, Utterance
from framework.data.utterances import Part, Utterances, moments

PREFIX: dict[Split, str] = {"train": "t", "dev": "d", "test": "e"}


def make_corpus(
    split: Split, speakers: int, sentences: int, corpus_seed: int
) -> list[tuple[Speaker, list[Utterance]]]:
    """Speak one split: `speakers` voices of its own, `sentences` utterances each, from one shared lexicon.

    Every speaker has own random numbers: more speakers or sentences leave the others as they are.
    """
    lexicon = synthesis.make_lexicon(corpus_seed)
    corpus = []
    for i in range(speakers):
        random = np.random.default_rng([corpus_seed, 1 + SPLITS.index(split), i])
        speaker = synthesis.make_speaker(f"{PREFIX[split]}{i:03d}", random)
        said = [
            synthesis.speak(speaker, f"{speaker.name}/u{k:02d}", lexicon, random) for k in range(sentences)
        ]
        corpus.append((speaker, said))
    return corpus


def synth_speech(
    *,
    train_speakers: int = 24,
    dev_speakers: int = 4,
    test_speakers: int = 8,
    sentences: int = 10,
    corpus_seed: int = 0,
    n_mels: int = 40,
    energy: bool = False,
    deltas: int = 0,
    batch_size: int = 16,
    streams: int = 0,
    eval_streams: int = 0,
    chunk: int = 128,
    seed: int = 0,
    cache_dir: str | None = None,
) -> Utterances | Streams:
    """Make the corpus, or read it from the cache: one of 39 phones for each frame of 10 ms, and in a row.

    x is [T, B, (n_mels + energy) * (deltas + 1)]. `sentences` is per speaker; `corpus_seed` draws lexicon,
    voices and sentences; `seed` only the order of batches.
    """
    sizes: dict[Split, int] = {"train": train_speakers, "dev": dev_speakers, "test": test_speakers}
    for split, speakers in sizes.items():
        at_least(f"{split}_speakers", speakers, 1)
    for option, value, least in (
        ("sentences", sentences, 1),
        ("n_mels", n_mels, 2),
        ("deltas", deltas, 0),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
        ("corpus_seed", corpus_seed, 0),
    ):
        at_least(option, value, least)
    key = {
        "sizes": sizes,
        "sentences": sentences,
        "corpus_seed": corpus_seed,
        "n_mels": n_mels,
        "energy": energy,
        "columns": ["ids", "speakers", "x", "y", "targets"],
        "source": source_digest(features, phones, synthesis),
    }

    def build(folder: Path) -> None:
        for split in SPLITS:
            corpus = make_corpus(split, sizes[split], sentences, corpus_seed)
            save_tensors(
                _features([u for _, said in corpus for u in said], n_mels, energy), folder / f"{split}.pt"
            )

    folder = cached(cache_dir, "synth_speech", key, build)
    parts: dict[Split, Part] = {split: _part(folder / f"{split}.pt", deltas) for split in SPLITS}
    mean, deviation = moments(parts["train"])
    whole = Utterances(
        "synth_speech",
        parts,
        tuple(PHONES),
        mean,
        deviation,
        batch_size,
        seed,
        note=f"Generated (corpus_seed {corpus_seed}); dev and test speakers are not heard in training.",
    )
    return streamed(whole, streams, eval_streams, chunk)


def _features(said: list[Utterance], n_mels: int, energy: bool) -> dict[str, object]:
    index = {name: i for i, name in enumerate(PHONES)}
    x = [features.fbank(torch.from_numpy(u.wave), n_mels, energy) for u in said]
    y = [
        features.frame_labels(list(u.segments), len(frames), index, UNSCORED)
        for u, frames in zip(said, x, strict=True)
    ]
    targets = [[index[s.label] for s in u.segments] for u in said]
    speakers = [u.speaker for u in said]
    return {"ids": [u.name for u in said], "speakers": speakers, "x": x, "y": y, "targets": targets}


def _part(file: Path, deltas: int) -> Part:
    data = load_tensors(file)
    x = [features.add_deltas(frames, deltas) for frames in data["x"]]
    y = data["y"]
    return Part(
        tuple(data["ids"]),
        tuple(data["speakers"]),
        tuple(len(frames) for frames in x),
        lambda i: (x[i], y[i]),
        tuple(tuple(labels) for labels in data["targets"]),
    )
