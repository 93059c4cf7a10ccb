"""Speech features in plain torch: Kaldi's log-mel filterbank, deltas, and labels of frames.

The definitions are Kaldi's (feat/feature-window.cc, feat/mel-computations.cc, feat/feature-functions.cc) with
dither off; the numbers are compared with kaldi-native-fbank under test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
WINDOW = 400  # samples: 25 ms
HOP = 160  # samples: 10 ms
FFT = 512  # the next power of two
PREEMPHASIS = 0.97
LOW_HZ = 20.0  # Kaldi's default lower edge of the mel bank; the upper one is half the sample rate
DELTA_REACH = 2  # frames on either side that a delta looks at, as in Kaldi and HTK


@dataclass(frozen=True)
class Segment:
    """A labelled stretch of samples, `begin` included, `end` not."""

    begin: int
    end: int
    label: str


def frame_count(samples: int) -> int:
    """Return the number of whole windows in so many samples (Kaldi's snip_edges)."""
    return 0 if samples < WINDOW else 1 + (samples - WINDOW) // HOP


def fbank(wave: Tensor, n_mels: int = 40, energy: bool = False) -> Tensor:
    """Log energies [frames, n_mels] of a wave [samples] in int16 range, float32.

    With `energy` a first column holds the logarithm of the frame's own energy, taken before pre-emphasis and
    window (Kaldi's use_energy with raw_energy): [frames, 1 + n_mels].

    Per frame: mean removed, pre-emphasis, Povey window, power spectrum, triangles on the mel scale
    1127 ln(1 + f/700), natural logarithm with float32's epsilon as the floor.
    """
    if wave.numel() < WINDOW:
        return torch.zeros(0, n_mels + energy)
    frames = wave.to(torch.float32).unfold(0, WINDOW, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    raw = frames.square().sum(1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], 1)  # the first sample is its own predecessor
    frames = (frames - PREEMPHASIS * before) * _window()
    power = torch.fft.rfft(frames, n=FFT).abs().square()  # [frames, FFT/2 + 1]
    bank = power @ _mel_bank(n_mels)
    columns = torch.cat([raw, bank], 1) if energy else bank
    return columns.clamp_min(torch.finfo(torch.float32).eps).log()


@lru_cache(maxsize=1)
def _window() -> Tensor:
    n = torch.arange(WINDOW, dtype=torch.float64)
    return (0.5 - 0.5 * torch.cos(2 * math.pi * n / (WINDOW - 1))).pow(0.85).to(torch.float32)


@lru_cache(maxsize=8)
def _mel_bank(n_mels: int) -> Tensor:
    """Triangles [FFT/2 + 1, n_mels], straight on the mel scale; the last FFT bin is left out, as in Kaldi."""
    bins = torch.arange(FFT // 2 + 1, dtype=torch.float64) * (SAMPLE_RATE / FFT)
    edges = torch.linspace(_mel(LOW_HZ), _mel(SAMPLE_RATE / 2), n_mels + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mel = (1127.0 * torch.log1p(bins / 700.0)).unsqueeze(1)
    rise, fall = (mel - left) / (centre - left), (right - mel) / (right - centre)
    bank = torch.minimum(rise, fall).clamp_min(0.0)
    bank[-1] = 0.0
    return bank.to(torch.float32)


def _mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)


def add_deltas(x: Tensor, order: int) -> Tensor:
    """Append `order` time derivatives: [frames, F] -> [frames, F * (order + 1)].

    A delta is the regression slope sum_n n (x[t+n] - x[t-n]) / (2 sum_n n^2) over n = 1, 2, edges repeated;
    the second one is Kaldi's: the slope's filter applied twice to x, so that only x itself is repeated at the
    edges.
    """
    slope = torch.arange(-DELTA_REACH, DELTA_REACH + 1, dtype=torch.float64)
    slope = slope / slope.square().sum()
    parts, taps = [x], torch.ones(1, dtype=torch.float64)
    for _ in range(order):
        taps = _convolve(taps, slope)
        reach = len(taps) // 2
        at = torch.arange(x.shape[0]).unsqueeze(1) + torch.arange(-reach, reach + 1)  # [frames, taps]
        window = x[at.clamp(0, max(x.shape[0] - 1, 0))]  # [frames, taps, F]
        parts.append(torch.einsum("tkf,k->tf", window, taps.to(x.dtype)))
    return torch.cat(parts, 1)


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    out = a.new_zeros(len(a) + len(b) - 1)
    for i, value in enumerate(a):
        out[i : i + len(b)] += value * b
    return out


def frame_labels(segments: list[Segment], frames: int, index: dict[str, int], nothing: int) -> Tensor:
    """Class [frames] int64 of the segment at each frame's centre, which is sample HOP*t + WINDOW/2.

    It is `nothing` where there is no segment, or one whose label `index` lacks. Where segments overlap the
    later one counts.
    """
    y = torch.full((frames,), nothing, dtype=torch.int64)
    for s in segments:
        first, last = (-(-(edge - WINDOW // 2) // HOP) for edge in (s.begin, s.end))  # ceiling
        y[max(first, 0) : max(last, 0)] = index.get(s.label, nothing)
    return y
