"""Faults in a series by the error of its forecast: ROC-AUC against the known ones, and a picture.

    python scripts/anomaly.py checkpoint=runs/NAME/best.pt [split=test] [window=128] [skip=64] [out=FOLDER]

Forecasts a split, takes the mean squared error of windows of `window` steps as their scores (`skip` steps at
the beginning of each recording are left out), and says how well the scores tell faults from health: as area
under the curve, beside that of the signal's own power, and by threshold. Draws FOLDER/anomaly_<split>.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

from framework.anomaly import draw, forecasts, roc, roc_auc, windows
from framework.data import SPLITS
from framework.data.series_streams import Series
from framework.errors import ConfigError
from framework.regression import Regression
from framework.restore import arguments, restore
from framework.script import command, out_folder


def main(given: list[str]) -> None:
    """Score as the arguments say."""
    options, changes = arguments(given, {"split": "test", "window": 128, "skip": 64, "out": ""})
    split, window = options["split"], options["window"]
    if split not in SPLITS:
        raise ConfigError("split", f"there is no split '{split}'", f"There are {', '.join(SPLITS)}.")
    if window < 1 or options["skip"] < 0:
        raise ConfigError("window", "it is too small", "Give window=128 skip=64, say.")
    parts = restore(options["checkpoint"], changes)
    if not isinstance(parts.dataset, Series) or not isinstance(parts.task, Regression):
        raise ConfigError(
            "checkpoint", f"it was trained on data={parts.dataset.name}", "Train with data=series or table."
        )
    found = forecasts(parts.net, parts.dataset, parts.task, split, device=parts.device)
    if found.faulty is None:
        raise ConfigError(
            "data.truth", "these data do not say which steps are faulty", "Name a column: data.truth=NAME."
        )
    print(parts.dataset.describe())
    scores, places = windows(found.error, found.starts, window, options["skip"])
    power, _ = windows(found.truth.square(), found.starts, window, options["skip"])
    if not len(scores):
        raise ConfigError("window", f"no recording has {window} steps", "Give a smaller window=.")
    faulty = found.faulty[places[:, 0], places[:, 1]]
    area = roc_auc(scores, faulty)
    print(
        f"{split}: {len(scores)} windows of {window} steps, {int(faulty.sum())} of them faulty\n"
        f"{split}: ROC-AUC {area:.4f} by the forecast's error, "
        f"{roc_auc(power, faulty):.4f} by the signal's power"
    )
    alarms, hits = roc(scores, faulty)
    for least in (0.01, 0.05):
        print(f"{split}: {float(hits[alarms <= least].max()):.1%} of the faults at {least:.0%} false alarms")
    out = out_folder(Path(options["out"]) if options["out"] else options["checkpoint"].parent)
    picture = out / f"anomaly_{split}.png"
    draw(found, scores, places, window, picture, f"{parts.dataset.name}, {split}: ROC-AUC {area:.3f}")
    print(f"picture: {picture}")


if __name__ == "__main__":
    sys.exit(command(main, __doc__))
