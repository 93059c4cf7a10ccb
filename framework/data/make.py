"""Datasets by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from framework.data.audio_folder import audio_folder
from framework.data.batch import Dataset
from framework.data.hub_text import hub_text
from framework.data.memory_tasks import adding, copy
from framework.data.series import series
from framework.data.synth_speech import synth_speech
from framework.data.table import table
from framework.data.text import text
from framework.data.timit import timit
from framework.errors import ConfigError
from framework.names import near

DATASETS: Mapping[str, Callable[..., Dataset]] = {
    "synth_speech": synth_speech,
    "timit": timit,
    "audio_folder": audio_folder,
    "text": text,
    "hub_text": hub_text,
    "adding": adding,
    "copy": copy,
    "series": series,
    "table": table,
}


def make_dataset(name: str, **options: Any) -> Dataset:
    """Return the dataset `name` with its options (see DATASETS[name]).

    ConfigError for an unknown name or option, a value of the wrong type, and whatever keeps the data from
    being there.
    """
    if name not in DATASETS:
        raise ConfigError("data", f"no dataset '{name}'", near(name, DATASETS))
    make = DATASETS[name]
    known, types = inspect.signature(make).parameters, get_type_hints(make)
    for option, value in options.items():
        if option not in known:
            raise ConfigError(
                f"data.{option}",
                f"{name} has no such option",
                near(option, known, "It has"),
            )
        wanted = types[option]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            options[option] = value = float(value)
        if (isinstance(value, bool) and wanted is not bool) or not isinstance(value, wanted):
            shown = getattr(wanted, "__name__", str(wanted))
            raise ConfigError(
                f"data.{option}", f"{value!r} is not {shown}", f"The default is {known[option].default!r}"
            )
    return make(**options)
