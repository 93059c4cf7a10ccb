"""A formant synthesiser and the corpus it speaks: waves [samples] with their phone segments, by numpy alone.

Source and filter (Fant 1960; Klatt, J. Acoust. Soc. Am. 67, 1980): a pulse train with a falling spectrum and
white noise are shaped, short frame by short frame in the frequency domain, by resonances that glide between
the phones' targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from framework.data.features import HOP, SAMPLE_RATE, Segment
from framework.data.phones import CODAS, NUCLEI, ONSETS, PHONES

STEP = 80  # samples between synthesis frames: 5 ms
FRAME = 320  # samples of a synthesis frame: 20 ms, four-fold overlap
SMOOTH_MS = 18.0  # deviation of the Gaussian that turns steps of formant targets into transitions
BANDWIDTHS = np.array([70.0, 100.0, 150.0, 250.0])  # Hz, F1..F4 (Klatt 1980, table I, typical)
F4 = 3500.0  # Hz, the same for every phone
WORDS = 160  # size of the lexicon that all speakers share
SYLLABLES = (1, 1, 2, 2, 2, 3)  # syllables of a word, drawn from these


@dataclass(frozen=True)
class Speaker:
    """A voice.

    Formants are divided by `tract` (length of the vocal tract, 1 is an average male's) and multiplied by
    `accent`; f0 is in Hz; `rate` 2 halves the durations; `tilt` is in dB per octave on top of the source's
    own; `noise` in dB below the speech.
    """

    name: str
    tract: float
    f0: float
    rate: float
    tilt: float
    noise: float
    accent: tuple[float, float, float]


@dataclass(frozen=True)
class Utterance:
    """A wave [samples] int16 at 16 kHz, its segments without gaps, and the words' phones as text."""

    name: str
    speaker: str
    wave: np.ndarray
    segments: tuple[Segment, ...]
    text: str


def make_speaker(name: str, random: np.random.Generator) -> Speaker:
    """Draw a voice: long tracts go with low pitch, as in people."""
    tract = random.uniform(0.82, 1.06)
    f0 = 120 * (1.06 / tract) ** 2.6 * random.uniform(0.85, 1.15)
    f1, f2, f3 = (float(a) for a in random.normal(1.0, 0.025, 3))
    return Speaker(
        name,
        tract,
        f0,
        random.uniform(0.85, 1.2),
        random.uniform(-2, 2),
        random.uniform(22, 38),
        (f1, f2, f3),
    )


def make_lexicon(seed: int) -> list[tuple[str, ...]]:
    """Return the words: tuples of phones. Flaps (dx) stand where t or d fall between vowels inside a word."""
    random = np.random.default_rng([seed, 0])
    words: list[tuple[str, ...]] = []
    while len(words) < WORDS:
        phones: list[str] = []
        for _ in range(random.choice(SYLLABLES)):
            for part in (random.choice(ONSETS), random.choice(NUCLEI), random.choice(CODAS)):
                phones += str(part).split()
        for i in range(1, len(phones) - 1):
            vowels = PHONES[phones[i - 1]].kind == PHONES[phones[i + 1]].kind == "vowel"
            if phones[i] in ("t", "d") and vowels:
                phones[i] = "dx"
        if all(a != b for a, b in pairwise(phones)) and tuple(phones) not in words:
            words.append(tuple(phones))
    return words


def speak(
    speaker: Speaker, name: str, lexicon: list[tuple[str, ...]], random: np.random.Generator
) -> Utterance:
    """Say a few words of the lexicon with a pause now and then: 1.5 to 4 seconds as a rule."""
    likely = 1.0 / (np.arange(len(lexicon)) + 10.0)  # a flattened Zipf law
    words = random.choice(len(lexicon), size=random.integers(3, 6), p=likely / likely.sum())
    phones = ["sil"]
    for word in words:
        phones += lexicon[word]
        if random.random() < 0.15 and phones[-1] != "sil":
            phones.append("sil")
    if phones[-1] != "sil":
        phones.append("sil")
    phones = [p for i, p in enumerate(phones) if i == 0 or p != phones[i - 1]]  # a doubled phone is said once
    ms = np.array([PHONES[p].ms for p in phones]) / speaker.rate * random.gamma(16.0, 1 / 16.0, len(phones))
    edges = np.concatenate([[0], np.cumsum(np.maximum(np.round(ms * SAMPLE_RATE / 1000), HOP))]).astype(int)
    wave = _synthesise(speaker, phones, edges, random)
    segments = tuple(
        Segment(int(a), int(b), p) for a, b, p in zip(edges[:-1], edges[1:], phones, strict=True)
    )
    return Utterance(name, speaker.name, wave, segments, " ".join("-".join(lexicon[w]) for w in words))


def _synthesise(
    speaker: Speaker, phones: list[str], edges: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    samples = int(edges[-1])
    at = np.arange(0, samples + FRAME, STEP)  # centres of the frames
    formants, voice, hiss, breath, peak, width = _tracks(speaker, phones, edges, at)
    f0 = _pitch(speaker, samples, random)
    pulses = _pulses(f0, random)
    noise = random.normal(0.0, 1.0, samples) * 0.35
    hertz, window = _grid()
    octaves = np.log2(np.maximum(hertz, 100) / 100)
    tilt = 10 ** (-(6 - speaker.tilt) / 20 * octaves)  # the source falls by 6 dB per octave, give or take
    throat = _resonances(formants, hertz) * 10.0
    friction = np.exp(-0.5 * ((hertz - peak[:, None]) / np.maximum(width[:, None], 1) * 2) ** 2)
    spectrum = _spectra(pulses, at, window) * throat * tilt * voice[:, None]
    spectrum += _spectra(noise, at, window) * (
        throat * tilt * breath[:, None] + 4.0 * friction * hiss[:, None]
    )
    wave = _overlap_add(spectrum, at, window, samples)
    loud = np.sqrt(np.mean(wave**2))
    room = random.normal(0.0, loud * 10 ** (-speaker.noise / 20), samples)  # noise of the room
    wave = (wave + room) * random.uniform(0.7, 1.3) * 1500 / loud
    return np.clip(np.round(wave), -32768, 32767).astype(np.int16)


def _tracks(speaker: Speaker, phones: list[str], edges: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, ...]:
    """Per frame: formants [n, 4] in Hz; voice, frication, breath, frication's peak and width, each [n]."""
    n = len(at)
    formants = np.zeros((n, 3))
    voice, hiss, breath, peak, width = (np.zeros(n) for _ in range(5))
    targets = _targets(phones)
    owner = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(phones) - 1)
    for i, name in enumerate(phones):
        phone, mine = PHONES[name], np.flatnonzero(owner == i)
        done = (at[mine] - edges[i]) / max(edges[i + 1] - edges[i], 1)  # 0..1 through the phone
        start, end = targets[i]
        formants[mine] = start + np.clip(done, 0, 1)[:, None] * (end - start)
        peak[mine], width[mine] = phone.peak * (1 + 1 / speaker.tract) / 2, phone.width
        if phone.kind == "stop":  # closure (a voice bar at most), burst, breath until the voice sets in
            burst = done > (0.5 if phone.ms > 100 else 0.62)
            voice[mine] = np.where(burst, phone.voice, phone.voice * 0.35)
            hiss[mine] = np.where(burst, phone.hiss, 0.0)
            breath[mine] = np.where(burst & (phone.voice == 0), 0.35, 0.0)
        else:
            voice[mine], hiss[mine] = phone.voice, phone.hiss
            breath[mine] = 0.6 if name == "hh" else 0.0
    formants = _smooth(formants, SMOOTH_MS)
    formants = formants * np.array(speaker.accent) / speaker.tract
    formants = np.concatenate([formants, np.full((n, 1), F4 / speaker.tract)], 1)
    soft = [_smooth(track[:, None], 4.0)[:, 0] for track in (voice, hiss, breath)]
    return formants, *soft, peak, width


def _targets(phones: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Start and end formants [3] of each phone, drawn towards its neighbours by its `pull`."""
    targets = []
    for i, name in enumerate(phones):
        phone = PHONES[name]
        before = PHONES[phones[i - 1]].end if i else phone.start
        after = PHONES[phones[i + 1]].start if i + 1 < len(phones) else phone.end
        pull = phone.pull
        targets.append(
            (
                (1 - pull) * np.array(phone.start) + pull * np.array(before),
                (1 - pull) * np.array(phone.end) + pull * np.array(after),
            )
        )
    return targets


def _smooth(track: np.ndarray, ms: float) -> np.ndarray:
    """Blur [n, k] over time with a Gaussian of `ms` deviation, edges repeated."""
    step_ms = 1000 * STEP / SAMPLE_RATE
    reach = int(np.ceil(3 * ms / step_ms))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step_ms / ms) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(track, ((reach, reach), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], 1)


def _pitch(speaker: Speaker, samples: int, random: np.random.Generator) -> np.ndarray:
    """f0 in Hz per sample: falling over the sentence, with slow random bends."""
    t = np.linspace(0, 1, samples)
    bends = np.interp(t, np.linspace(0, 1, 8), random.normal(0, 0.07, 8))
    return speaker.f0 * (1.1 - 0.25 * t + bends)


def _pulses(f0: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One pulse a period; one between two samples is shared by both, so that the pitch does not jitter."""
    phase = np.cumsum(f0 / SAMPLE_RATE) + random.random()
    beats = np.flatnonzero(np.diff(np.floor(phase))) + 1
    step = phase[beats] - phase[beats - 1]
    late = (phase[beats] - np.floor(phase[beats])) / step  # samples since the beat, 0..1
    area = np.sqrt(SAMPLE_RATE / f0[beats]) * random.normal(1.0, 0.03, len(beats))
    pulses = np.zeros(len(f0))
    np.add.at(pulses, beats, area * (1 - late))
    np.add.at(pulses, beats - 1, area * late)
    return pulses


def _resonances(formants: np.ndarray, hertz: np.ndarray) -> np.ndarray:
    """Gain [n, bins] of a cascade of second-order resonators, each 1 at 0 Hz."""
    gain = np.ones((len(formants), len(hertz)))
    square = hertz**2
    for k, band in enumerate(BANDWIDTHS):
        pole = formants[:, k : k + 1] ** 2 + (band / 2) ** 2
        gain *= pole / np.sqrt((pole - square) ** 2 + square * band**2)
    return gain


@lru_cache(maxsize=1)
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Frequencies [bins] of a synthesis frame and its window: the root of a Hann window, used twice."""
    return np.fft.rfftfreq(2 * FRAME, 1 / SAMPLE_RATE), np.sqrt(
        0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    )


def _spectra(signal: np.ndarray, at: np.ndarray, window: np.ndarray) -> np.ndarray:
    padded = np.pad(signal, (FRAME // 2, 2 * FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[at]  # frame i is centred on sample at[i]
    return np.fft.rfft(frames * window, 2 * FRAME, axis=1)


def _overlap_add(spectrum: np.ndarray, at: np.ndarray, window: np.ndarray, samples: int) -> np.ndarray:
    frames = np.fft.irfft(spectrum, axis=1)[:, :FRAME] * window / (FRAME / STEP / 2)
    out = np.zeros(at[-1] + 2 * FRAME)
    for shift in range(FRAME // STEP):  # frames shift, shift + 4, ... do not overlap: one copy each
        part = frames[shift :: FRAME // STEP]
        begin = at[shift]
        out[begin : begin + part.size] += part.reshape(-1)
    return out[FRAME // 2 : FRAME // 2 + samples]
