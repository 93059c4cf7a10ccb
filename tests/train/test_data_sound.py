"""Sound files of every kind, whole and cut anywhere: what is missing is said, what is whole is read."""

import random
import struct

import numpy as np
import pytest

from framework.data.sound import read_sound
from framework.errors import DataError

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def wave():
    draw = np.random.default_rng(0)
    return (0.3 * np.sin(np.arange(40_000) / 20) + 0.05 * draw.normal(size=40_000)).astype(np.float32)


def read(path):
    return read_sound(path, "float32", "Mend it")


# How many samples may be lost without a word: see LITTLE and FRAME; a cut in the words behind the sound.
@pytest.mark.parametrize(
    ("kind", "lost"), [("wav", 32), ("aiff", 32), ("ogg", 0), ("flac", 0), ("mp3", 5 * 1152)]
)
def test_a_file_that_is_cut_anywhere_is_named(tmp_path, wave, kind, lost, capfd):
    if kind.upper() not in soundfile.available_formats():
        pytest.skip(f"this libsndfile has no {kind}")
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, wave, 16_000)
    whole = path.read_bytes()
    data, rate = read(path)
    assert rate == 16_000 and abs(len(data) - len(wave)) <= 1152 * (kind == "mp3")
    seed = 3
    print("seed", seed)
    draw = random.Random(seed)
    named = 0
    for cut in (0, 1, 30, len(whole) // 2, *(draw.randrange(len(whole)) for _ in range(25))):
        path.write_bytes(whole[:cut])
        try:
            found, _ = read(path)
        except DataError as error:
            text = str(error)
            assert text.startswith(f"{path}: ") and text.endswith(". Mend it") and "\n" not in text
            assert "cut short: " in text or "cannot read the audio: " in text or "no sound" in text
            named += 1
        else:
            assert len(found) >= len(data) - lost, f"{cut} of {len(whole)} bytes"
    assert named >= 20
    path.write_bytes(whole)
    assert np.array_equal(read(path)[0], data)


def test_what_is_missing_is_said(tmp_path, wave):
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, 16_000)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10_000])
    with pytest.raises(DataError, match=r"a\.wav: cut short: 70000 of 80000 bytes of sound are there\. Mend"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot read the audio: it is empty"):
        read(path)
    soundfile.write(path, wave[:0], 16_000)
    with pytest.raises(DataError, match=r"there is no sound in it"):
        read(path)
    with pytest.raises(DataError, match=r"none\.wav: cannot read the audio: "):
        read(tmp_path / "none.wav")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0])
def test_a_file_that_was_written_into_a_pipe_is_whole(tmp_path, wave, size):
    """Its header was written before anybody knew the size."""
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, 16_000)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"data") + 4
    assert struct.unpack_from("<I", whole, at) == (80_000,)
    struct.pack_into("<I", whole, at, size)
    path.write_bytes(whole)
    if size:
        assert len(read(path)[0]) == len(wave)
    else:  # libsndfile takes the header at its word
        with pytest.raises(DataError, match="no sound"):
            read(path)


def test_chunks_before_and_behind_the_sound(tmp_path, wave):
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, 16_000)
    whole = path.read_bytes()
    note = b"LIST" + struct.pack("<I", 5) + b"INFO!\0"  # an odd size is filled up
    path.write_bytes(whole[:12] + note + whole[12:] + note)
    assert np.array_equal(read(path)[0], soundfile.read(path, always_2d=True)[0].astype(np.float32))
    path.write_bytes((whole[:12] + note + whole[12:])[:-5_000])
    with pytest.raises(DataError, match="cut short: 75000 of 80000"):
        read(path)
