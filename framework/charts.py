"""How the records of a run are called on a board with charts: learning/, speed/, memory/, result/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framework.history import numbers

MIB = 2**20
# Of step records: key -> chart and factor. What is not named here is a metric.
STEP = {
    "lr": ("learning/learning rate", 1.0),
    "grad_norm": ("learning/gradient norm", 1.0),
    "epoch": ("learning/epoch", 1.0),
    "frames_per_s": ("speed/frames per s", 1.0),
    "step_s": ("speed/us per update", 1e6),
    "hoisted_s": ("speed/us outside of the loops", 1e6),
    "loop_s": ("speed/us inside the loops", 1e6),
    "cpu_use": ("speed/CPU use", 1.0),
    "gpu_use": ("speed/GPU use", 1.0),
    "gpu_watts": ("speed/GPU watts", 1.0),
    "peak_bytes": ("memory/peak MiB, measured", 1 / MIB),
}
KEPT = "memory/kept for the backward MiB, predicted"
NO_CHART = ("step", "epoch", "seconds")


class Charts:
    """Names the numbers of records. What the first record predicts is put beside what later ones measure."""

    def __init__(self) -> None:
        self.bytes_per_frame = 0.0

    def of(self, record: Mapping[str, Any]) -> dict[str, float]:
        """Chart -> number, for one record; NaN and infinity are numbers."""
        kind, found = record["kind"], numbers(record)
        if kind in ("start", "resume"):
            self.bytes_per_frame = found.get("predicted_bytes_per_frame", 0.0)
            return {}
        if kind == "step":
            return self._step(found)
        names = {key: value for key, value in found.items() if key not in NO_CHART}
        if kind == "end":
            own = {"best": "result/best on dev", "best_step": "result/update of the best"}
            return {own.get(key, f"result/test {key}"): value for key, value in names.items()}
        made = {f"learning/{record.get('split', kind)} {key}": value for key, value in names.items()}
        return made | ({"speed/s per evaluation": found["seconds"]} if "seconds" in found else {})

    def _step(self, found: Mapping[str, float]) -> dict[str, float]:
        made = {}
        for key, value in found.items():
            name, factor = STEP.get(key, (f"learning/train {key}", 1.0))
            if key != "step":
                made[name] = value * factor
        frames = found.get("frames_per_s", 0.0)
        if frames > 0:
            made["speed/us per frame"] = 1e6 / frames
            if "gpu_watts" in found:
                made["speed/mJ per frame"] = 1e3 * found["gpu_watts"] / frames
        parts = [found[key] for key in ("hoisted_s", "loop_s") if key in found]
        if len(parts) == 2 and sum(parts) > 0:
            made["speed/part inside the loops"] = parts[1] / sum(parts)
        if self.bytes_per_frame and frames > 0 and "step_s" in found:
            made[KEPT] = self.bytes_per_frame * frames * found["step_s"] / MIB
        return made
