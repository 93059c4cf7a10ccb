"""series: a generated sensor, trained on while it is healthy; the test part holds known faults."""

from __future__ import annotations

import numpy as np

from framework.data.batch import Split
from framework.data.bearing import FAULTS, Condition, vibration
from framework.data.options import at_least
from framework.data.series_streams import Series, Track, forecast

PLACE: dict[Split, int] = {"train": 1, "dev": 2, "test": 3}


def series(
    *,
    rate: int = 4096,
    train_seconds: float = 60.0,
    dev_seconds: float = 8.0,
    test_seconds: float = 16.0,
    severity: float = 0.6,
    series_seed: int = 0,
    horizon: int = 1,
    batch_size: int = 32,
    chunk: int = 256,
    rank: int = 0,
    world: int = 1,
    seed: int = 0,
) -> Series:
    """Make vibration of a bearing (framework.data.bearing) at `rate` Hz; to forecast, `horizon` steps ahead.

    train and dev are healthy. test has as many seconds of faults as of health, the three faults by turns, in
    recordings of a second; `truth` knows. Every recording has a load, a speed and phases of its own, drawn
    by `series_seed`; `severity` is the height of a fault's strikes against the shaft's vibration of 1.
    """
    for option, value, least in (
        ("rate", rate, 3000),  # the resonance must lie below half of it
        ("train_seconds", train_seconds, 1),
        ("dev_seconds", dev_seconds, 1),
        ("test_seconds", test_seconds, 4),
        ("severity", severity, 0),
        ("series_seed", series_seed, 0),
        ("horizon", horizon, 1),
        ("batch_size", batch_size, 1),
        ("chunk", chunk, 1),
        ("seed", seed, 0),
        ("world", world, 1),
        ("rank", rank, 0),
    ):
        at_least(option, value, least)
    sizes: dict[Split, float] = {"train": train_seconds, "dev": dev_seconds, "test": test_seconds}
    tracks: dict[Split, list[Track]] = {}
    for split, seconds in sizes.items():
        count = max(1, round(seconds))
        steps = round(seconds * rate / count)
        tracks[split] = []
        for i in range(count):
            condition: Condition = "healthy"
            if split == "test" and i % 2:
                condition = FAULTS[i // 2 % len(FAULTS)]
            random = np.random.default_rng([series_seed, PLACE[split], i])
            wave = vibration(condition, steps + horizon, rate, severity, random)
            x, y = forecast(wave[:, None], [0], horizon)
            truth = np.full(len(x), condition != "healthy")
            tracks[split].append(Track(f"{split}/{i:03d} {condition}", x, y, truth))
    return Series(
        "series",
        tracks,
        ("acceleration",),
        (f"acceleration in {horizon} step{'s' * (horizon > 1)}",),
        batch_size,
        chunk,
        seed,
        rank,
        world,
        note=f"Generated vibration of a bearing at {rate} Hz (series_seed {series_seed}); faults in test.",
    )
