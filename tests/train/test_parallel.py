"""Two processes compute what one does with the same batches, and a killed one is no loss."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from framework.parallel import ALONE
from tests.train.parallel_cases import WORLD, equal_cases, goes_on

ROOT = Path(__file__).resolve().parents[2]


def close(a, b, what, rel=2e-5):
    """Equal numbers of records, to the rounding of sums in another order."""
    assert len(a) == len(b) > 0, what
    for x, y in zip(a, b, strict=True):
        assert x["kind"] == y["kind"] and x.keys() == y.keys(), what
        assert list(x.values())[1:] == pytest.approx(list(y.values())[1:], rel=rel, abs=1e-6), what


def same_weights(a, b, what, exact=False):
    for name, view in a.items():
        # Adam divides by the root of a squared gradient: a rounding of one that is nearly 0 moves more.
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(view, b[name], msg=lambda m, n=name: f"{what}, {n}: {m}", **tolerance)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="names threads by /proc")
def test_no_thread_of_a_group_outlives_it(tmp_path):
    """One that does may abort the interpreter on its way down, when all work is done."""
    code = f"""
import pathlib
from framework.parallel import Workers
from framework.parallel_place import Place

def threads():
    return [p.read_text() for p in pathlib.Path("/proc/self/task").glob("*/comm") if "gloo" in p.read_text()]

group = Workers(Place(0, 1, 0, 1, "file://{tmp_path}/meeting"), "cpu")
import torch.distributed.nn.functional  # torch does so by itself, when a network is compiled, for one
assert group.sum(1.0) == [1.0] and threads()
group.close()
assert not threads(), threads()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("one_thread")
def test_two_processes_do_what_one_does(tmp_path):
    command = [sys.executable, "-m", "tests.train.parallel_cases", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(WORLD))

    # Losses, norms, rates and metrics of every update, and the weights in the end.
    alone = equal_cases(ALONE, tmp_path)
    for name, one in alone.items():
        two = first["cases"][name]
        close(two["records"], one["records"], name)
        same_weights(two["weights"], one["weights"], name)
        same_weights(two["weights"], second["cases"][name]["weights"], name, exact=True)
        assert two["frames"] == one["frames"] == second["cases"][name]["frames"]
        assert not second["cases"][name]["records"], "one process writes"

    # Each process drops other units; a resumed run repeats them, bit for bit.
    assert not torch.equal(first["masks"], second["masks"])
    for name, (whole, again) in first["resumed"].items():
        assert again["records"] == whole["records"], name
        same_weights(again["weights"], whole["weights"], name, exact=True)

    # What two left behind goes on in one: lanes of state and windows are those of the whole batch.
    rest = goes_on(ALONE, tmp_path / "stopped", "windows", first["stopped"])
    close(rest["records"], alone["windows"]["records"], "from two to one")

    # Parameters: of both, of none, of both, of the second process alone (last to first).
    early, grads = first["buckets"]
    assert early == 2, "full buckets leave while the backward still runs, in their order"
    assert torch.equal(grads[0], torch.full((2, 2), 2.0)) and grads[1] is None
    assert second["buckets"][0] >= 2 and all(
        torch.equal(a, b) for a, b in zip(grads[2:], second["buckets"][1][2:], strict=True)
    )

    assert first["sums"] == second["sums"] == ([3.0, 1.0], {"a": 1.0, "b": 2.0})
    texts = [f"data.path: worker {rank} does not find it. Look again." for rank in (1, 0, 1)]
    assert first["mistakes"] == [("ConfigError", text) for text in texts]
    assert [kind for kind, _ in second["mistakes"]] == ["Ended"] * 3
    assert "weights are not the same any more" in first["drifted"] and not second["drifted"]

    # One of two worked for 0.2 s: its part of the time of both, the same in both.
    (mean, seconds), (same, others) = first["used"], second["used"]
    assert mean == same and 0.2 / (seconds + others) <= mean < 1
