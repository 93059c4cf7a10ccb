"""MODEL.md: what a run knows of its best checkpoint, and nothing that it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from framework.card import GENERATED, PYTHON, UNKNOWN, Card, card, licence

START = {
    "kind": "start", "step": 0, "choices": {"model": "stack", "cell": "mgu"}, "task": "framewise",
    "data": "synth_speech: 24 speakers.", "weights": 12345, "seed": 7, "device": "cpu", "threads": 2,
    "torch": "2.13.0", "python": "3.11.7",
}  # fmt: skip
END = {
    "kind": "end",
    "split": "test",
    "step": 30,
    "why": "",
    "loss": 0.75,
    "phone_error": 0.25,
    "seconds": 90.0,
}
CONFIG = yaml.safe_dump({"data": {"name": "synth_speech"}, "train": {"ema": 0.0}, "seed": 7})


def evaluated(step: int, loss: float, best: bool) -> dict[str, Any]:
    return {"kind": "eval", "split": "dev", "step": step, "epoch": 0, "loss": loss, "phone_error": loss / 4,
            "seconds": 1.0, "best": best}  # fmt: skip


def test_the_best_evaluation_and_its_test_are_shown():
    records = [START, evaluated(10, 2.0, True), evaluated(20, 1.5, True), evaluated(30, 1.75, False)]
    text = card([*records, END | {"best_step": 20}], CONFIG, "THE PLAN")
    assert text is not None
    assert "# stack mgu on synth_speech" in text and "12,345 numbers, float32, in `best.pt` under `w" in text
    assert "| loss | 1.5000 | 0.7500 |" in text and "| phone error | 0.3750 | 0.2500 |" in text
    assert "20 updates until" in text and "90 s" in text
    assert "2.0000" not in text and "1.7500" not in text and "not yet" not in text
    assert f"Licence: {GENERATED}." in text and "synth_speech: 24 speakers." in text
    assert "```\nTHE PLAN\n```" in text and f"```yaml\n{CONFIG.rstrip()}\n```" in text


def test_a_test_of_earlier_weights_is_not_of_these():
    """A run that was over goes on and finds better weights: the old test does not count."""
    records = [
        START,
        evaluated(10, 2.0, True),
        END | {"best_step": 10},
        START | {"kind": "resume", "step": 10},
    ]
    text = card([*records, evaluated(40, 1.0, True)], CONFIG, "")
    assert text is not None and "not yet" in text and "0.7500" not in text and "| loss | 1.0000 |" in text


def test_no_card_before_the_first_evaluation():
    assert card([START], CONFIG, "") is None


def test_averages_are_named():
    config = yaml.safe_dump({"data": {"name": "text"}, "train": {"ema": 0.99}})
    text = card([START, evaluated(1, 1.0, True)], config, "")
    assert text is not None and "under `averages`" in text


@pytest.mark.parametrize(
    ("data", "known"),
    [
        ({"name": "copy"}, GENERATED),
        ({"name": "timit", "root": "/corpora"}, "LDC93S1"),
        ({"name": "text", "path": None}, PYTHON),
        ({"name": "text", "path": "mine.txt"}, UNKNOWN),
        ({"name": "hub_text", "path": "user/set"}, "https://huggingface.co/datasets/user/set"),
        ({"name": "hub_text", "path": str(Path(__file__).parent)}, UNKNOWN),
        ({"name": "audio_folder", "path": "there"}, UNKNOWN),
        ({"name": "table", "path": "there"}, UNKNOWN),
    ],
)
def test_licences(data: dict[str, Any], known: str):
    assert known in licence(data)


def test_every_dataset_was_thought_of():
    names = {path.stem for path in (Path(__file__).parents[2] / "conf" / "data").glob("*.yaml")}
    foreign = {"text", "hub_text", "audio_folder", "table"}  # which may read anything
    assert {n for n in names if licence({"name": n, "path": "x"}) == UNKNOWN} == foreign - {"hub_text"}


def test_a_card_that_cannot_be_written_is_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, [START, evaluated(1, 1.0, True)])))
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "plan.txt").write_text("")
    (tmp_path / "MODEL.md").mkdir()
    Card(tmp_path).write(evaluated(1, 1.0, True))
    assert "MODEL.md cannot be written" in capfd.readouterr().err
    assert not list(tmp_path.glob(".MODEL*"))


def test_beside_the_best_checkpoint_of_a_run(cli, tmp_path: Path):
    code, _, err = cli(
        "model=lstm", "data=adding", "data.train=50", "data.dev=50", "data.test=50", "data.length=24",
        "model.params.size=4", "train.max_steps=1", "logger=none", "run_dir=run",
    )  # fmt: skip
    assert code == 0, err
    text = (tmp_path / "run" / "MODEL.md").read_text()
    log = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    dev, test = (each for each in log if each["kind"] in ("eval", "end"))
    assert f"| loss | {dev['loss']:.4f} | {test['loss']:.4f} |" in text
    assert "checkpoint=run/best.pt" in text
    assert (tmp_path / "run" / "config.yaml").read_text().rstrip() in text
    assert (tmp_path / "run" / "plan.txt").read_text().rstrip() in text
