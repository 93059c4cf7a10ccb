"""`tuning` from the command line: a file of measurements, checked before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from framework.assemble import assemble
from framework.errors import ConfigError
from kernels import tuning
from kernels.tuning import Tuning, save

NET = {"inputs": {"x": "{input}"}, "nodes": {"y": {"size": "{classes}", "is": "full(x)"}}, "outputs": ["y"]}
MODEL = {"params": {"input": {"size": 5}, "classes": 3}, **NET}
DATA = {"name": "memory", "task": "adding", "length": 5, "train": 4, "dev": 2, "test": 2, "batch": 2}


def test_a_file_is_taken_for_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    used: list[object] = []
    monkeypatch.setattr("framework.assemble.use_tuning", used.append)
    monkeypatch.setattr("framework.assemble.make_dataset", stop)
    for given in (str(tmp_path / "mine.json"), None):
        with pytest.raises(Stop):
            assemble(model=MODEL, data=DATA, tuning=given)
    assert used == [str(tmp_path / "mine.json"), None]


class Stop(Exception):
    """Nothing after this is of interest."""


def stop(*_: object, **__: object) -> None:
    raise Stop


def test_what_is_no_file_is_told(tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"other\.json: there is no such file\. scripts/tune\.py writes one"
    ):
        assemble(model=MODEL, data=DATA, tuning=str(tmp_path / "other.json"))
    save(Tuning(), tmp_path / "mine.json")
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(ConfigError, match="it is not of format 1"):
        assemble(model=MODEL, data=DATA, tuning=str(tmp_path / "mine.json"))
    tuning.use(None)
