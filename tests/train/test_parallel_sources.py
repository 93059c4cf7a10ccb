"""Every kind of data and task in two processes: the numbers of one, whatever the lengths of lanes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from framework.parallel import ALONE
from tests.train.parallel_cases import WORLD, fit
from tests.train.parallel_sources import SOURCES, trainer, whole, write_files
from tests.train.test_parallel import close, same_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("one_thread")
def test_two_processes_do_what_one_does_on_every_kind_of_data(tmp_path, monkeypatch):
    write_files(tmp_path)
    command = [sys.executable, "-m", "tests.train.parallel_sources", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(WORLD))
    monkeypatch.chdir(tmp_path)
    alone = whole(ALONE)
    for name, (task, data, options) in SOURCES.items():
        one, two = alone[name], first["whole"][name]
        # CTC in float32 takes exp of differences of logarithms near 1000, which are known to 6e-5.
        rel = 2e-4 if task == "ctc" else 2e-5
        close(two["records"], one["records"], name, rel)
        same_weights(two["weights"], one["weights"], name)
        same_weights(two["weights"], second["whole"][name]["weights"], name, exact=True)
        assert two["frames"] == one["frames"] > 0

        # What two left in the middle of an epoch goes on in one.
        made = trainer(ALONE, tmp_path / f"broken {name}", task, data, options)
        content = first["broken"][name]
        assert content["position"]["batch"], "not at the end of an epoch"
        made.load(content, "last.pt")
        close(fit(made, content["log_bytes"])["records"], one["records"], f"{name}, in one", rel)
