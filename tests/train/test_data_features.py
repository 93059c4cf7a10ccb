import math

import numpy as np
import pytest
import torch

from framework.data.features import Segment, add_deltas, fbank, frame_count, frame_labels


def _wave(samples: int, seed: int = 0) -> torch.Tensor:
    """A sum of gliding tones, clicks and noise in int16 range."""
    random = np.random.default_rng(seed)
    t = np.arange(samples) / 16_000
    wave = 3000 * np.sin(2 * np.pi * (200 + 900 * t) * t) + 1000 * np.sin(2 * np.pi * 3100 * t)
    wave += random.normal(0, 300, samples)
    wave[::1600] += 8000
    return torch.from_numpy(np.round(wave)).to(torch.int16)


@pytest.mark.parametrize("n_mels", [23, 40, 80])
@pytest.mark.parametrize("samples", [400, 559, 560, 16_000])
@pytest.mark.parametrize("energy", [False, True])
def test_fbank_is_kaldis(n_mels, samples, energy):
    import kaldi_native_fbank as knf

    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = 16_000
    options.mel_opts.num_bins = n_mels
    options.use_energy = energy
    kaldi = knf.OnlineFbank(options)
    wave = _wave(samples)
    kaldi.accept_waveform(16_000, wave.to(torch.float32).tolist())
    kaldi.input_finished()
    theirs = np.stack([kaldi.get_frame(i) for i in range(kaldi.num_frames_ready)])
    ours = fbank(wave, n_mels, energy)
    assert ours.shape == theirs.shape == (frame_count(samples), n_mels + energy)
    assert np.abs(ours.numpy() - theirs).max() < 1e-3


def test_fbank_of_less_than_a_window_and_of_silence():
    assert fbank(torch.zeros(399), 40).shape == (0, 40)
    assert fbank(torch.zeros(399), 40, energy=True).shape == (0, 41)
    floor = math.log(torch.finfo(torch.float32).eps)
    assert torch.allclose(fbank(torch.zeros(800), 40), torch.full((3, 40), floor))


def test_deltas_of_a_line_and_of_a_parabola():
    t = torch.arange(20.0).unsqueeze(1)
    x, first, second = add_deltas(torch.cat([3 * t, t * t], 1), 2).split(2, 1)
    inner = slice(4, 16)  # frames that see no repeated edge
    assert torch.equal(x[:, :1], 3 * t)
    assert torch.allclose(first[inner, 0], torch.full((12,), 3.0), atol=1e-5)
    assert torch.allclose(first[inner, 1], 2 * t[inner, 0], atol=1e-4)
    assert torch.allclose(second[inner, 0], torch.zeros(12), atol=1e-5)
    assert torch.allclose(second[inner, 1], torch.full((12,), 2.0), atol=1e-4)


def test_deltas_repeat_the_edges():
    x = torch.tensor([[1.0], [2.0], [4.0]])
    first = add_deltas(x, 1)[:, 1]
    # t=0: (x1 - x0 + 2 (x2 - x0)) / 10
    assert torch.allclose(first, torch.tensor([(1 + 2 * 3) / 10, (3 + 2 * 3) / 10, (2 + 2 * 3) / 10]))
    assert torch.allclose(add_deltas(x[:1], 2), torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-6)


def test_labels_are_those_at_frame_centres():
    # centres at 200, 360, 520, 680
    segments = [Segment(0, 360, "a"), Segment(360, 521, "b"), Segment(600, 640, "c")]
    y = frame_labels(segments, 4, {"a": 0, "b": 1, "c": 2}, -100)
    assert y.tolist() == [0, 1, 1, -100]
    assert frame_labels(segments, 4, {"a": 0}, -100).tolist() == [0, -100, -100, -100]
