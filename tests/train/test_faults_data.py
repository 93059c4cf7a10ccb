"""Faults of data and of the cache: each is named, or left out where that was asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from framework.data import make_dataset
from framework.data.cache import cached
from framework.data.scratch import sweep
from framework.errors import ConfigError, DataError
from tests.train.disks import full_disk

ROOT = Path(__file__).resolve().parents[2]


def sources(tmp_path):
    """Options of small data of each kind that is cached."""
    import numpy as np
    import soundfile

    for name, hertz in (("low", 200), ("high", 800)):
        (tmp_path / "audio" / name).mkdir(parents=True)
        wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(2000) / 16_000)
        for i in range(10):
            soundfile.write(tmp_path / "audio" / name / f"{i:02}.wav", wave, 16_000)
    rows = "".join(f"{i % 7},{i % 5}\n" for i in range(200))
    (tmp_path / "t.csv").write_text("a,b\n" + rows)
    return {
        "synth_speech": {"train_speakers": 1, "dev_speakers": 1, "test_speakers": 1, "sentences": 1},
        "audio_folder": {"path": str(tmp_path / "audio")},
        "table": {"path": str(tmp_path / "t.csv"), "batch_size": 2, "chunk": 8},
    }


@pytest.mark.parametrize("name", ["synth_speech", "audio_folder", "table"])
def test_every_file_of_a_cache_that_is_cut_or_gone_is_named(tmp_path, name):
    def read():
        return make_dataset(name, cache_dir=str(tmp_path / "cache"), **options)

    options = sources(tmp_path)[name]
    read()
    [folder] = (tmp_path / "cache").iterdir()
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert len(files) >= 5
    for file in files:
        whole = file.read_bytes()
        for cut in (1, len(whole), None):
            file.unlink() if cut is None else file.write_bytes(whole[:-cut])
            with pytest.raises(DataError) as error:
                read()
            text = str(error.value)
            assert text.startswith(f"{file}: the cached data cannot be read (") and "\n" not in text
            assert text.endswith(f". Delete {folder}: it is made again")
        file.write_bytes(whole)
    read()


def test_a_flipped_bit_in_cached_tensors_is_named(tmp_path):
    options = sources(tmp_path)["synth_speech"]
    make_dataset("synth_speech", cache_dir=str(tmp_path / "cache"), **options)
    [file] = (tmp_path / "cache").rglob("dev.pt")
    broken = bytearray(file.read_bytes())
    broken[len(broken) // 2] ^= 1
    file.write_bytes(broken)
    with pytest.raises(DataError, match=r"dev\.pt: the cached data .* is not what was written"):
        make_dataset("synth_speech", cache_dir=str(tmp_path / "cache"), **options)


MAKER = """
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("scratch", "framework/data/scratch.py")  # without torch
scratch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scratch)
with scratch.scratch(Path(sys.argv[1]), "kind") as work:
    (work / "half").write_text("...")
    print("half", flush=True)
    sys.stdin.readline()
    print((work / "half").read_text())
"""


@pytest.fixture
def maker(tmp_path):
    """Processes that have made half of what they are to make, and wait for a line."""
    started = []

    def start():
        made = subprocess.Popen(
            [sys.executable, "-c", MAKER, str(tmp_path)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(made)
        assert made.stdout is not None and made.stdout.readline() == "half\n"
        return made

    yield start
    for made in started:
        made.kill()
        made.communicate()


def test_what_a_killed_process_left_in_the_cache_is_removed_and_what_one_makes_now_is_not(tmp_path, maker):
    killed, at_work = maker(), maker()
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.glob(".kind-*"))) == 4, "two folders and their locks"
    folder = cached(tmp_path, "other", {}, lambda work: (work / "whole").write_text("x"))
    assert sorted(p.name for p in folder.iterdir()) == ["files.json", "key.json", "whole"]
    [left] = [p for p in tmp_path.glob(".*") if p.is_dir()]
    assert {p.name for p in tmp_path.iterdir()} == {folder.name, left.name, f"{left.name}.lock"}
    said, _ = at_work.communicate("\n", timeout=100)
    assert said == "...\n" and at_work.returncode == 0, "it lost nothing"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_lock_of_another_machine_is_given_a_day(tmp_path, maker):
    """Some network disks keep locks to the machine that has them."""
    killed = maker()
    killed.kill()
    killed.wait()
    [lock] = tmp_path.glob(".*.lock")
    lock.write_text("elsewhere")
    sweep(tmp_path)
    assert lock.exists() and lock.with_suffix("").exists()
    day_ago = lock.stat().st_mtime - 2 * 86400
    os.utime(lock, (day_ago, day_ago))
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sound_past_all_measure_is_named_and_silence_is_not(tmp_path):
    """One such file made mean and deviation of all features infinite."""
    import numpy as np
    import soundfile

    options = sources(tmp_path)["audio_folder"] | {"cache_dir": str(tmp_path / "cache")}
    file = tmp_path / "audio" / "low" / "03.wav"
    soundfile.write(file, 1e30 * np.sin(np.arange(2000.0)), 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"03\.wav: its samples are too large to be sound"):
        make_dataset("audio_folder", **options)
    soundfile.write(file, np.zeros(2000), 16_000)
    data = make_dataset("audio_folder", **options)
    assert bool(data.mean.isfinite().all()) and bool((data.deviation > 0).all())


def test_a_number_past_float32_in_a_table_is_named_or_the_series_is_cut_there(tmp_path, capfd):
    options = sources(tmp_path)["table"] | {"cache_dir": str(tmp_path / "cache")}
    lines = (tmp_path / "t.csv").read_text().splitlines()
    lines[51] = "1,1e39"
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"row 51: column 'b' holds a number too large .*\(1e\+39\)"):
        make_dataset("table", **options)
    data = make_dataset("table", on_error="skip", **options)
    assert "1 of 200 rows hold no number" in capfd.readouterr().err
    assert len(data.tracks["train"]) == 2
    assert all(bool(b.x.isfinite().all()) for b in data.batches("train", 0))


def test_names_and_marks_of_other_systems(tmp_path):
    """A file's name that is no UTF-8, and the mark before a table that a spreadsheet wrote."""
    options = sources(tmp_path)["audio_folder"] | {"cache_dir": str(tmp_path / "cache")}
    audio = tmp_path / "audio"
    try:
        os.rename(audio / "low" / "03.wav", os.fsencode(audio / "low") + b"/caf\xe9.wav")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    data = make_dataset("audio_folder", **options)
    assert "low/caf\\xe9.wav" in [name for part in data.parts.values() for name in part.ids]
    os.rename(os.fsencode(audio / "low") + b"/caf\xe9.wav", audio / "low" / "03.wav")
    rows = "".join(f"{p.relative_to(audio)},{p.parent.name}\n" for p in sorted(audio.rglob("*.wav")))
    (audio / "metadata.csv").write_text("file_name,class\n" + rows, encoding="utf-8-sig")
    assert make_dataset("audio_folder", labels="class", **options).labels == ("high", "low")
    text = tmp_path / "t.txt"
    text.write_text("to be or not to be " * 200, encoding="utf-8-sig")
    assert "\ufeff" not in make_dataset("text", path=str(text), batch_size=2, chunk=8).labels


@pytest.mark.parametrize("name", ["synth_speech", "audio_folder", "table"])
def test_a_cache_on_a_full_disk_is_named_and_leaves_nothing(tmp_path, name):
    options = sources(tmp_path)[name]
    with full_disk(700), pytest.raises(ConfigError) as error:
        make_dataset(name, cache_dir=str(tmp_path / "cache"), **options)
    assert str(error.value).startswith(f"data.cache_dir: cannot write to {tmp_path}/cache (File too large")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []
