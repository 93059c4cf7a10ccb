"""The first thing a new user runs, whole: slow."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_quickstart_learns_unseen_speakers(cli, tmp_path):
    code, out, err = cli("experiment=quickstart", "logger=offline", f"data.cache_dir={tmp_path / 'cache'}")
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    end = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert end["kind"] == "end" and end["accuracy"] > 0.78, out
    assert list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert Path(folder / "curves.png").stat().st_size > 5000
