"""Recordings of a user's own: classes, texts, splits, rates, and everything that can be wrong with one."""

import shutil

import numpy as np
import pytest
import torch

from framework.data import make_dataset
from framework.data.audio_folder import read_audio, resample
from framework.errors import ConfigError, DataError
from framework.task import make_task

TONES = {"low": 300.0, "high": 2000.0}


def write(path, hertz, seconds=0.3, rate=16_000, channels=1, subtype="PCM_16", seed=0):
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * hertz * t) + np.random.default_rng(seed).normal(0, 0.01, len(t))
    soundfile.write(path, np.stack([wave] * channels, 1).squeeze(), rate, subtype=subtype)
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Twenty recordings of two classes, with texts beside them and in a table."""
    root = tmp_path_factory.mktemp("tones")
    lines = ["file_name,text,class"]
    for i in range(20):
        kind = ("low", "high")[i % 2]
        file = write(root / kind / f"{i:02}.wav", TONES[kind], 0.3 + 0.01 * i, seed=i)
        file.with_suffix(".txt").write_text(f" {kind}  tone\n")
        lines.append(f'{kind}/{i:02}.wav,"{kind} {kind}",{kind}')
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "tones")


def read(path, tmp_path, **options):
    return make_dataset("audio_folder", path=str(path), cache_dir=str(tmp_path / "cache"), **options)


def said(data, split):
    return {
        name: [data.labels[i] for i in batch.targets[lane] if i >= 0]
        for batch in data.batches(split, 0)
        for lane, name in enumerate(batch.ids)
    }


def test_classes_by_folder_and_by_table(folder, tmp_path):
    for labels in ("folder", "class"):
        data = read(folder, tmp_path, labels=labels)
        assert data.labels == ("high", "low") and data.tasks == ("framewise",)
        assert [len(data.parts[split].ids) for split in ("train", "dev", "test")] == [16, 2, 2]
        for batch in data.batches("train", 0):
            for lane, name in enumerate(batch.ids):
                last = int(batch.lengths[lane]) - 1
                assert data.labels[batch.y[last, lane]] == name.split("/")[0]
                assert (batch.y[:last, lane] == -100).all() and (batch.y[last + 1 :, lane] == -100).all()
    frames = torch.cat([b.x[: b.lengths[i], i] for b in data.batches("train", 0) for i in range(len(b.ids))])
    assert torch.allclose(frames.mean(0), torch.zeros(40), atol=1e-3)
    assert make_task("auto", data).name == "framewise"


def test_texts_by_file_and_by_table(folder, tmp_path):
    data = read(folder, tmp_path, labels="txt")
    assert data.labels == ("high", "low", "tone") and make_task("auto", data).name == "ctc"
    for split in ("train", "dev", "test"):
        assert all(text == [name.split("/")[0], "tone"] for name, text in said(data, split).items())
    data = read(folder, tmp_path, labels="text")
    assert all(text == [name.split("/")[0]] * 2 for name, text in said(data, "train").items())
    data = read(folder, tmp_path, labels="txt", units="characters")
    assert set("".join(data.labels)) == set("high low tone")
    assert {"".join(text) for text in said(data, "train").values()} == {"high tone", "low tone"}
    with pytest.raises(ConfigError, match="'framewise' does not fit data=audio_folder, which serves ctc"):
        make_task("framewise", data)


def test_folders_of_splits(folder, tmp_path):
    for i, split in enumerate(("train", "validation", "test")):
        (folder / split).mkdir()
        for kind in TONES:
            (folder / split / kind).mkdir()
            for file in sorted((folder / kind).glob("*.wav"))[i * 2 : i * 2 + 2]:
                file.rename(folder / split / kind / file.name)
    data = read(folder, tmp_path)
    assert [len(data.parts[split].ids) for split in ("train", "dev", "test")] == [4, 4, 4]
    shutil.rmtree(folder / "test")
    with pytest.raises(ConfigError, match="has no recordings for test"):
        read(folder, tmp_path)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100])
def test_any_rate_and_channels_sound_the_same(tmp_path, rate):
    file = write(tmp_path / "a.wav", 1000.0, 0.5, rate, channels=2)
    wave = read_audio(file)
    assert wave.shape == (8000,) and wave.dtype == torch.float32
    spectrum = torch.fft.rfft(wave).abs()
    assert int(spectrum.argmax()) * 2 == 1000
    assert float(wave[1000:7000].abs().max()) == pytest.approx(0.3 * 32768, rel=0.15)


def test_resampling_of_a_sine_is_exact():
    t = np.arange(4410) / 44_100
    wave = np.sin(2 * np.pi * 200 * t).astype(np.float32)
    wanted = np.sin(2 * np.pi * 200 * np.arange(1600) / 16_000)
    assert np.abs(resample(wave, 44_100) - wanted).max() < 1e-5


def nan(path):
    import soundfile

    wave = np.full(4000, 0.1, dtype=np.float32)
    wave[17] = np.nan
    soundfile.write(path, wave, 16_000, subtype="FLOAT")


FAULTS = {
    "noise": (lambda p: p.write_bytes(b"noise"), "txt", "cannot read the audio"),
    "empty file": (lambda p: p.write_bytes(b""), "txt", "cannot read the audio"),
    "length 0": (lambda p: write(p, 1.0, 0.0), "txt", "there is no sound in it"),
    "short": (lambda p: write(p, 1.0, 0.02), "txt", "shorter than one window of 25 ms"),
    "nan": (nan, "txt", "sample 17 is not a number"),
    "no label": (lambda p: p.with_suffix(".txt").unlink(), "txt", "its TXT file is missing"),
    "empty label": (lambda p: p.with_suffix(".txt").write_text(" \n"), "txt", "its label is empty"),
    "bytes": (lambda p: p.with_suffix(".txt").write_bytes(b"\xff\xfe\xff"), "txt", "cannot be read"),
    "long label": (
        lambda p: p.with_suffix(".txt").write_text("low " * 40),
        "txt",
        "its 40 labels need 79 frames",
    ),
    "no row": (lambda p: p.rename(p.with_name("new.wav")), "text", "no metadata.csv above it names it"),
    "no class": (lambda p: p.rename(p.parent.parent / "x.wav"), "folder", "it lies in no folder of a class"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_recording_that_cannot_be_used_is_named_or_left_out(folder, tmp_path, capfd, fault):
    spoil, labels, words = FAULTS[fault]
    spoil(folder / "low" / "02.wav")
    with pytest.raises(DataError, match=words) as caught:
        read(folder, tmp_path, labels=labels)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert not [p for p in (tmp_path / "cache").glob("*") if p.is_dir()], "nothing half made is kept"
    for _ in range(2):
        data = read(folder, tmp_path, labels=labels, on_error="skip")
        (line,) = capfd.readouterr().err.splitlines()
        assert words in line and line.startswith("warning: ") and line.endswith("(data.on_error=skip)")
        assert sum(len(part.ids) for part in data.parts.values()) == 19
        assert "1 left out as broken." in data.describe()


def test_a_label_that_training_has_not_is_refused(folder, tmp_path):
    name = next(iter(said(read(folder, tmp_path, labels="txt"), "test")))
    (folder / name).with_suffix(".txt").write_text("loud tone")
    with pytest.raises(DataError, match="its label 'loud' does not occur in training"):
        read(folder, tmp_path, labels="txt")


def test_options_are_checked(folder, tmp_path):
    (tmp_path / "none").mkdir()
    for path, options, words in (
        (folder, {"labels": "names"}, r"data\.labels: 'names' is not known"),
        (folder, {"units": "phones"}, r"data\.units: 'phones' is not known"),
        (tmp_path / "none", {}, r"data\.path: .*none holds no \.wav"),
        (tmp_path / "no", {}, r"data\.path: there is no folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(path, tmp_path, **options)
    with pytest.raises(ConfigError, match=r"data\.path: no folder is given"):
        make_dataset("audio_folder")
    (folder / "metadata.csv").write_text("file_name,words\nlow/00.wav,x\n")
    with pytest.raises(DataError, match=r"metadata\.csv:2: no file_name and text in it"):
        read(folder, tmp_path, labels="text")
    (folder / "metadata.csv").unlink()
    with pytest.raises(ConfigError, match=r"data\.labels: there is no metadata\.csv"):
        read(folder, tmp_path, labels="text")


def test_it_trains(folder, tmp_path, cli):
    code, out, err = cli(
        "data=audio_folder",
        f"data.path={folder}",
        "data.labels=txt",
        f"data.cache_dir={tmp_path / 'cache'}",
        "model=blstm",
        "model.params.size=4",
        "model.params.layers=1",
        "train.threads=1",
        "train=smoke",
        "logger=none",
    )
    assert code == 0, err
    assert "task ctc" in err and "deletions" in out
