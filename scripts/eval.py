"""Metrics of a trained network, and which classes it confuses.

    python scripts/eval.py checkpoint=runs/NAME/best.pt [split=dev,test] [out=FOLDER] [pairs=10]
                           [data.root=DIR]

Prints the task's metrics for each split; for classes it also draws the confusion matrix of the last split
into FOLDER/confusion_<split>.png (default: beside the checkpoint) and lists the pairs most often confused.
split: one of train, dev, test, or several with commas. Options with a dot change the run's config, as
data.root=/elsewhere/TIMIT, train.device=cpu or, for task=ctc, task.beam=100: prefixes that decoding follows.
There the matrix counts aligned labels; `(none)` stands for what was not there, or was not heard.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from framework.confusion import (
    confusion,
    confusion_labels,
    draw_confusion,
    label_confusion,
    most_confused,
)
from framework.ctc import Ctc
from framework.data import SPLITS
from framework.errors import ConfigError
from framework.evaluate import evaluate
from framework.restore import arguments, restore
from framework.script import command, out_folder

NOTHING = "(none)"


def main(given: list[str]) -> None:
    """Evaluate as the arguments say."""
    options, changes = arguments(given, {"split": "dev,test", "out": "", "pairs": 10})
    splits = options["split"].split(",")
    for split in splits:
        if split not in SPLITS:
            raise ConfigError("split", f"there is no split '{split}'", f"There are {', '.join(SPLITS)}.")
    parts = restore(options["checkpoint"], changes)
    print(parts.dataset.describe())
    for split in splits:
        found = evaluate(parts.net, parts.dataset, parts.task, split, device=parts.device)
        print(f"{split:>5}: " + "  ".join(f"{key} {value:.4f}" for key, value in found.items()))
    if parts.dataset.kind == "classes":
        out = out_folder(Path(options["out"]) if options["out"] else options["checkpoint"].parent)
        picture = out / f"confusion_{splits[-1]}.png"
        labels = confusion_labels(parts.dataset)
        unit = "characters" if hasattr(parts.dataset, "decode") else "frames"
        if isinstance(parts.task, Ctc):
            labels, unit = (*labels, NOTHING), "times"
            counts, errors = label_confusion(
                parts.net, parts.dataset, parts.task, splits[-1], device=parts.device
            )
            print(
                f"{splits[-1]:>5}: {errors.labels} labels, {errors.substitutions} substituted, "
                f"{errors.deletions} deleted, {errors.insertions} inserted"
            )
        else:
            counts = confusion(parts.net, parts.dataset, splits[-1], device=parts.device)
        draw_confusion(
            counts, labels, picture, f"{parts.dataset.name}, {splits[-1]}: share of the true class"
        )
        print(f"most confused in {splits[-1]}:")
        print("\n".join(most_confused(counts, labels, options["pairs"], unit)) or "  nothing")
        print(f"confusion matrix: {picture}")


if __name__ == "__main__":
    sys.exit(command(main, __doc__))
