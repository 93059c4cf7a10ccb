"""The cache: made once per content, complete or not there, by several processes at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from framework.data import make_dataset
from framework.data.cache import cached, default_cache_dir
from framework.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"train_speakers": 2, "dev_speakers": 1, "test_speakers": 1, "sentences": 2}


def test_made_once_for_each_content(tmp_path):
    made = []

    def build(folder: Path) -> None:
        made.append(folder)
        (folder / "x").write_text("data")

    first = cached(tmp_path, "kind", {"a": 1, "b": [2]}, build)
    assert cached(tmp_path, "kind", {"b": [2], "a": 1}, build) == first
    assert cached(tmp_path, "kind", {"a": 1, "b": [3]}, build) != first
    assert len(made) == 2 and (first / "x").read_text() == "data"
    assert len(list(tmp_path.iterdir())) == 2, "no work folder stays behind"


def test_what_fails_leaves_nothing_behind(tmp_path):
    def build(folder: Path) -> None:
        (folder / "half").write_text("...")
        raise DataError("file.wav", "bad", "mend it")

    with pytest.raises(DataError):
        cached(tmp_path, "kind", {}, build)

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device", str(folder / "x"))

    with pytest.raises(ConfigError, match=r"data\.cache_dir: cannot write to .*No space left"):
        cached(tmp_path, "kind", {}, full)
    assert list(tmp_path.iterdir()) == []


def test_the_default_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "intrastream"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "intrastream"

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(ConfigError, match=r"data\.cache_dir: this user has no home folder"):
        default_cache_dir()


def test_a_damaged_cache_is_named(tmp_path):
    make_dataset("synth_speech", cache_dir=str(tmp_path), **SMALL)
    [folder] = tmp_path.iterdir()
    (folder / "dev.pt").write_bytes(b"cut")
    with pytest.raises(
        DataError, match=rf"{folder}/dev\.pt: the cached data cannot be read .*Delete {folder}"
    ):
        make_dataset("synth_speech", cache_dir=str(tmp_path), **SMALL)


@pytest.mark.parametrize("name", ["synth_speech", "timit"])
def test_processes_at_the_same_time(tmp_path, name):
    """Two processes make one cache; all read the same data, one folder stays."""
    options: dict = {"cache_dir": str(tmp_path / "cache")}
    if name == "synth_speech":
        options |= SMALL
    else:
        from scripts.make_timit_tree import write_tree

        write_tree(tmp_path / "tree", speakers=1, test=2, sentences=1, seed=0)
        options["root"] = str(tmp_path / "tree")
    script = (
        "import sys, time\n"
        "from framework.data import make_dataset\n"
        "if sys.argv[1] == 'timit':\n    import datasets\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"  # all start together
        f"data = make_dataset(sys.argv[1], **{options!r})\n"
        "print(sum(float(b.x.double().sum()) for b in data.batches('train', 0)))\n"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-c", script, name],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for run in runs:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    answers = [run.communicate(timeout=250) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    data = make_dataset(name, **options)
    total = sum(float(b.x.double().sum()) for b in data.batches("train", 0))
    assert {float(out) for out, _ in answers} == {total}
    assert len(list((tmp_path / "cache").iterdir())) == 1
