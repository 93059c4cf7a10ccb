"""`memory`, `memory_chunk` and `overlap` from the command line: the same training, and what runs is in the
plan.
"""

import json
from math import isclose

from tests.train.test_cli import TINY


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_recompute_and_chunks_train_alike(cli, tmp_path):
    found = []
    options = {"a": [], "b": ["memory=recompute"], "c": ["memory_chunk=5"], "d": ["overlap=3"]}
    for name, more in options.items():
        code, _, err = cli(*TINY, *more, f"run_dir={name}")
        assert code == 0, err
        found.append(losses(tmp_path / name))
    assert found[0]
    for other in found[1:]:
        assert all(isclose(x, y, rel_tol=1e-5) for x, y in zip(found[0], other, strict=True))
    assert "memory = recompute" in (tmp_path / "b" / "plan.txt").read_text()
    assert "chunk = 5" in (tmp_path / "c" / "plan.txt").read_text()
    assert "overlap = 3 parts" in (tmp_path / "d" / "plan.txt").read_text()


def test_mistakes_are_told_before_anything_is_written(cli, tmp_path):
    for option, message in (
        ("memory=forget", "memory: 'forget'"),
        ("memory_chunk=0", "memory_chunk: 0 is"),
        ("overlap=1", "overlap: 1"),
    ):
        code, _, err = cli(*TINY, option)
        assert code == 2
        assert message in err
    assert not (tmp_path / "runs").exists()
