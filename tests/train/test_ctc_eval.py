"""CTC from the command line: a few updates, then scripts/eval.py with kinds of errors and the matrix."""

import importlib.util
from pathlib import Path

import pytest
import torch

from framework.confusion import label_confusion
from framework.ctc import Ctc
from framework.data import Batch

ROOT = Path(__file__).resolve().parents[2]
SMALL = [f"data.{split}_speakers=1" for split in ("train", "dev", "test")] + ["data.sentences=2"]


def test_train_and_evaluate(cli, tmp_path, capfd):
    code, out, err = cli(
        "experiment=synth_ctc",
        *SMALL,
        f"data.cache_dir={tmp_path / 'cache'}",
        "model.params.size=4",
        "train.epochs=0",
        "train.max_steps=2",
        "train.log_steps=1",
        "logger=none",
        "run_dir=run",
    )
    assert code == 0, err
    assert "task ctc" in err and "per" in out
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"deletions"' in log and '"per"' in log
    spec = importlib.util.spec_from_file_location("eval_main", ROOT / "scripts" / "eval.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(["checkpoint=run", "split=test", "task.beam=3"])
    out = capfd.readouterr().out
    (rates,) = (line.split() for line in out.splitlines() if " per " in line)
    (counts,) = (line.split() for line in out.splitlines() if " substituted, " in line)
    labels, wrong = int(counts[1]), [int(counts[k]) for k in (3, 5, 7)]
    assert float(rates[rates.index("per") + 1]) == pytest.approx(sum(wrong) / labels, abs=1e-4)
    assert "(none)" in out and " times, " in out
    assert (tmp_path / "run" / "confusion_test.png").stat().st_size > 20_000


class Given(torch.nn.Module):
    """A network that answers what its input says: x [T, B, 1] is the class of each frame."""

    def forward(self, x, state=None, lengths=None, resets=None):
        return 9.0 * torch.nn.functional.one_hot(x[..., 0].long(), 4).float(), None


class Two:
    """Two utterances of three labels a, b, c, the last of which is folded away."""

    name, labels, fold, fold_labels, classes, carry = "two", ("a", "b", "c"), (0, 1, -1), ("a", "b"), 3, False

    def batches(self, split, epoch):
        frames = [[0, 3, 0, 2, 1], [1, 1, 3, 1, 3]]  # a a c b, and b b; 3 is the blank
        wanted = torch.tensor([[0, 1, 1, -100], [2, 1, 0, -100]])
        x = torch.tensor(frames, dtype=torch.float32).T.unsqueeze(-1)
        yield Batch(x, torch.full((5, 2), -100), torch.tensor([5, 5]), None, ("u", "v"), wanted)


def test_the_matrix_counts_aligned_labels():
    counts, errors = label_confusion(Given(), Two(), Ctc(3, (0, 1, -1)), "test")
    # u: a b b against a a b: one substitution; v: b a against b b: one substitution
    assert (errors.labels, errors.substitutions, errors.deletions, errors.insertions) == (5, 2, 0, 0)
    assert counts.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert int(counts.sum()) == errors.labels, "nothing was inserted"
