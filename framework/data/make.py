"""Datasets by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml

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

# The types of options, as a person writes them.
KINDS: Mapping[type, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text",
    list: "a list such as [a,b]", NoneType: "null",
}  # fmt: skip


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
            kinds = [KINDS.get(kind, kind.__name__) for kind in get_args(wanted) or (wanted,)]
            default = yaml.safe_dump(known[option].default, default_flow_style=True).split("\n")[0]
            raise ConfigError(
                f"data.{option}", f"{value!r} is not {' or '.join(kinds)}", f"The default is {default}"
            )
    return make(**options)
