"""Hugging Face datasets: imported late, quiet, and off the network unless it is asked for."""

from __future__ import annotations

import os
from types import ModuleType


def offline_datasets() -> ModuleType:
    """The module `datasets`, off the network and quiet; imported late, since it takes over a second."""
    for variable in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(variable, "1")
    import datasets

    datasets.disable_progress_bars()
    return datasets
