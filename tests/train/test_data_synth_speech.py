"""The generated corpus: shaped as it says, its speakers apart, and a task on which memory matters."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from framework.data import make_dataset
from framework.data.phones import PHONES
from framework.data.synth_speech import make_corpus
from framework.data.synthesis import make_lexicon


def test_the_phones_are_timits_39():
    from framework.data.timit_tables import phone_set

    assert tuple(PHONES) == phone_set(39)


def test_lexicon_words_are_distinct_and_speak_every_phone():
    words = make_lexicon(0)
    assert len(set(words)) == len(words) and words == make_lexicon(0) != make_lexicon(1)
    assert {p for word in words for p in word} == set(PHONES) - {"sil"}
    assert all(a != b for word in words for a, b in pairwise(word))


def test_utterances_are_whole_and_loud_enough():
    for speaker, said in make_corpus("train", 3, 4, 0):
        assert 80 < speaker.f0 < 300
        for u in said:
            assert u.wave.dtype == np.int16 and 500 < np.sqrt(np.mean(u.wave.astype(float) ** 2)) < 3000
            assert u.segments[0].begin == 0 and u.segments[-1].end == len(u.wave)
            assert all(a.end == b.begin for a, b in pairwise(u.segments))
            assert u.segments[0].label == u.segments[-1].label == "sil"
            silence = u.wave[: u.segments[0].end - 400].astype(float)
            assert np.sqrt(np.mean(silence**2)) < 0.15 * np.sqrt(np.mean(u.wave.astype(float) ** 2))


def test_more_speakers_and_sentences_leave_the_others_alone():
    few, many = make_corpus("dev", 2, 2, 7), make_corpus("dev", 3, 3, 7)
    for (a, said), (b, more) in zip(few, many, strict=False):
        assert a == b
        assert all(np.array_equal(u.wave, v.wave) for u, v in zip(said, more, strict=False))
    voices = [s for split in ("train", "dev", "test") for s, _ in make_corpus(split, 3, 1, 7)]
    assert len({v.name for v in voices}) == len({v.f0 for v in voices}) == 9, "no speaker is in two splits"


def test_a_vowel_has_its_formants():
    """The spectrum of a synthesised aa peaks where the table, scaled by the speaker's tract, says."""
    from framework.data.synthesis import Speaker, _synthesise

    speaker = Speaker("x", tract=1.0, f0=100.0, rate=1.0, tilt=0.0, noise=60.0, accent=(1.0, 1.0, 1.0))
    for phone in ("iy", "aa"):
        wave = _synthesise(speaker, [phone], np.array([0, 16_000]), np.random.default_rng(0)).astype(float)
        spectrum = np.abs(np.fft.rfft(wave[4000:12_000] * np.hanning(8000)))
        hertz = np.fft.rfftfreq(8000, 1 / 16_000)
        f1, f2, _ = PHONES[phone].start
        between = (f1 + f2) / 2
        low, high = (hertz > 150) & (hertz < between), (hertz > between) & (hertz < f2 + 400)
        assert abs(hertz[low][spectrum[low].argmax()] - f1) < 110  # the next harmonic is 100 Hz away
        assert abs(hertz[high][spectrum[high].argmax()] - f2) < 160


def _accuracy(data, model, output: int, epochs: int) -> float:
    torch.manual_seed(0)
    head = nn.Linear(output, data.classes)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 3e-3)

    def logits(x):
        y = model(x)
        return head(y[0] if isinstance(y, tuple) else y)

    for epoch in range(epochs):
        for batch in data.batches("train", epoch):
            y = batch.y.flatten()
            loss = nn.functional.cross_entropy(logits(batch.x).flatten(0, 1), y, ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    right = total = 0
    with torch.no_grad():
        for batch in data.batches("test", 0):
            scored = batch.y >= 0
            right += int((logits(batch.x).argmax(-1) == batch.y)[scored].sum())
            total += int(scored.sum())
    return right / total


@pytest.mark.slow
def test_memory_matters(tmp_path):
    """On unseen speakers a frame alone tells little, an LSTM much more, both directions most."""
    data = make_dataset("synth_speech", cache_dir=str(tmp_path))
    size = data.input["size"]
    linear = _accuracy(data, nn.Identity(), size, 8)
    lstm = _accuracy(data, nn.LSTM(size, 64), 64, 8)
    blstm = _accuracy(data, nn.LSTM(size, 64, bidirectional=True), 128, 8)
    print(f"linear {linear:.3f}, LSTM-64 {lstm:.3f}, BLSTM-64 {blstm:.3f}")
    assert linear + 0.1 < lstm and lstm + 0.05 < blstm
    assert lstm > 0.6
