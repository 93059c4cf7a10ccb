"""Mistakes on the command line as one line each: the option, what is wrong with it, what there is instead."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from framework.errors import ConfigError
from framework.names import near
from framework.options import CONF, GROUPS, Config, LoggerConfig, TaskConfig, TrainConfig, options

KINDS: dict[str, type] = {"train": TrainConfig, "logger": LoggerConfig, "task": TaskConfig}
# The flags of Hydra (1.3, https://hydra.cc/docs/advanced/hydra-command-line-flags/).
FLAGS = (
    *(
        "--help",
        "-h",
        "--hydra-help",
        "--version",
        "--cfg",
        "-c",
        "--resolve",
        "--package",
        "-p",
        "--run",
        "-r",
    ),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
)
# What a user can do about a launcher that is not there.
LAUNCHERS = "pip install 'intrastream[sweep]' brings joblib and submitit."


def explain(error: HydraException | OmegaConfBaseException, arguments: Iterable[str] = ()) -> ConfigError:
    """A composition error of Hydra as one of ours: one line with the place, the cause and a fix."""
    text = str(error)
    if match := re.search(r"Could not find '(hydra/\w+)/([^']*)'", text):
        known = re.findall(r"^\t(\S+)$", text, re.MULTILINE)  # also those of plugins
        fix = near(match[2], known)
        if match[1] == "hydra/launcher":
            fix += f" {LAUNCHERS}"
        return ConfigError(match[1], f"there is no '{match[2]}'", fix)
    if match := re.search(r"Could not load '(hydra/launcher)/([^']*)'", text):
        return ConfigError(match[1], f"it needs '{match[2]}', which is not installed", LAUNCHERS)
    several = r"(?:Ambiguous value for argument|Sweep parameters) '([^=']+)=(.*?)'(?: |$)"
    if match := re.search(several, text, re.MULTILINE):
        key, values = match[1].lstrip("+~"), match[2]
        fix = f"A run for each: python train.py -m '{key}={values}'. As one text: \"{key}='{values}'\"."
        return ConfigError(key, f"'{values}' is several values, and a run takes one", fix)
    if match := re.search(r"Could not find '(\w+)/([^']*)'", text):
        group, choice = match[1], match[2]
        return ConfigError(
            group, f"there is no '{choice}'", near(choice, options(group), f"Choices of {group}")
        )
    if match := re.search(r"Could not override '([\w./@-]+)'", text):
        return unknown_key(match[1], dict(each.split("=", 1) for each in arguments if "=" in each))
    if match := re.search(r"Error merging override (\S+)", text):
        return ConfigError(match[1].lstrip("+~").split("=")[0], *value_error(error.__cause__ or error))
    first = " ".join(text.split("\nSee ")[0].split())
    return ConfigError(
        "command line",
        first,
        "Options look like train.epochs=3; a value with commas or = signs "
        "needs quotes: \"data.path='a=b.txt'\".",
    )


def unknown_key(key: str, choices: Mapping[str, str]) -> ConfigError:
    """An option that does not exist, with those that do. `choices`: which file of a group was chosen."""
    group, _, rest = key.partition(".")
    if not rest and group not in GROUPS and (places := _inside(key, choices)):
        return ConfigError(key, "it stands in a group", f"Write {' or '.join(places)}.")
    if not rest or group not in GROUPS:
        return ConfigError(key, "there is no such option", near(group, top_level()))
    if group in KINDS:
        return ConfigError(
            key,
            "there is no such option",
            near(rest, [each.name for each in dataclasses.fields(KINDS[group])]),
        )
    chosen, content = _chosen(group, choices)
    known = list(content)
    place = f"{group}={chosen}" if chosen else group
    if rest.startswith("params.") and "params" in known:
        known = list(content["params"] or ())
        return ConfigError(key, f"{place} has no such param", near(rest.split(".")[1], known))
    return ConfigError(key, f"{place} has no such option", near(rest, known) if known else "")


def _inside(name: str, choices: Mapping[str, str]) -> list[str]:
    """Where a name without its group is an option: train.epochs for epochs."""
    found = {group: [each.name for each in dataclasses.fields(kind)] for group, kind in KINDS.items()}
    for group in ("data", "optimizer", "model", "cell"):
        known = _chosen(group, choices)[1]
        if group in ("model", "cell"):
            found[f"{group}.params"] = list(known.get("params") or ())
        else:
            found[group] = list(known)
    return [f"{place}.{name}" for place, names in found.items() if name in names and name != "name"]


def check_arguments(arguments: Iterable[str]) -> None:
    """Raise ConfigError for what Hydra would not refuse as one of ours: --epochs and other flags that it does
    not know, params of a model that the data fill.
    """
    for each in arguments:
        flag = each.split("=", 1)[0]
        if re.match(r"\+*model\.params\.(input|classes)\b", flag):
            raise ConfigError(flag, "the data fill this param", "Leave it out, or choose other data.")
        if not flag.startswith("-") or flag in FLAGS:
            continue
        places = _inside(flag.lstrip("-").replace("-", "_"), {})
        fix = f"Write {places[0]}=VALUE." if places else "Options are written KEY=VALUE: train.epochs=3."
        raise ConfigError(flag, "there is no such flag", fix + " See python train.py --help.")


def top_level() -> list[str]:
    """Everything that may stand before the first = or dot."""
    alone = [each.name for each in dataclasses.fields(Config) if each.name not in (*GROUPS, "choices")]
    return [*GROUPS, *alone]


def _chosen(group: str, choices: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """What is chosen of a group, by conf/config.yaml if not by `choices`; and the content of its file."""
    chosen = choices.get(group)
    if not chosen:
        defaults = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
        chosen = next(
            (each[group] or "" for each in defaults if isinstance(each, dict) and group in each), ""
        )
    file = Path(chosen) if chosen.endswith((".yaml", ".yml")) else CONF / group / f"{chosen}.yaml"
    return chosen, yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}


def value_error(error: BaseException) -> tuple[str, str]:
    """Cause and fix of a value of the wrong type."""
    text = str(error).splitlines()[0]
    if match := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text):
        kind = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}.get(
            match[2], match[2]
        )
        return f"'{match[1]}' is not {kind}", f"Give {kind}."
    if "is not a ListConfig" in text:
        return "it is no list", "Write numbers in brackets: [0.9,0.999]."
    if "is not a subclass of" in text or "Cannot assign" in text:
        return "this is a group of options, not a value", "Set the options in it, e.g. train.epochs=3."
    return text.rstrip("."), ""
