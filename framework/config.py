"""The config edge: what `train.py` accepts, checked before anything starts.

Nothing below this module and train.py sees a config object. Groups (model, cell, data, ...) are files in
conf/; their types are the dataclasses of options.py. `model` and `cell` are graphs and checked by the
language; `data` by the dataset itself; `optimizer` against the dataclass of its name.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from framework.errors import ConfigError
from framework.mistakes import top_level, unknown_key, value_error
from framework.names import near
from framework.options import GROUPS, OPTIMIZERS, Config, LoggerConfig, TaskConfig, TrainConfig, options
from framework.yamlfile import read_yaml

OWN_FILES: dict[str, str] = {}  # choices that `with_own_files` has made -> the arguments that they were

PLUGINS = str(Path(__file__).parent / "plugins")


def register() -> None:
    """Make the types and our sweeper known to Hydra; called before its main function runs."""
    ConfigStore.instance().store(name="schema", node=Config)
    # Hydra takes sweepers from a package `hydra_plugins` alone. Processes that a launcher starts read
    # PYTHONPATH: they load the sweeper's class, too.
    if PLUGINS not in sys.path:
        sys.path.append(PLUGINS)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), PLUGINS)))


def with_own_files(arguments: Iterable[str]) -> list[str]:
    """Arguments for Hydra, where `model=path/to/mine.yaml` (or cell=) has become a choice `model=mine`.

    Raises ConfigError when there is no such file, or a shared one has its name, GraphError for one that is no
    YAML or has a key twice.
    """
    found = []
    for argument in arguments:
        match = re.fullmatch(r"(model|cell)=(.+\.ya?ml)", argument)
        if match:
            group, path = match[1], Path(match[2])
            if not path.is_file():
                raise ConfigError(
                    group, f"there is no file '{path}'", f"Shared ones: {', '.join(options(group))}."
                )
            if path.stem in options(group):
                raise ConfigError(group, f"'{path}' has the name of a shared one", "Rename your file.")
            try:
                node = read_yaml(path.read_text(encoding="utf-8"), str(path))
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    group, f"cannot read {path}: {error}", "Give a text file in UTF-8."
                ) from error
            ConfigStore.instance().store(group=group, name=path.stem, node=dict(node))
            OWN_FILES[f"{group}={path.stem}"] = argument
            argument = f"{group}={path.stem}"
        found.append(argument)
    return found


# ---- checks


def checked(place: str, schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the types of a dataclass, e.g. "3" as 3, and its defaults for what is not given.

    Raises ConfigError naming `place`.key for an unknown key or a value of another type.
    """
    known = [each.name for each in dataclasses.fields(schema)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{place}.{key}", "there is no such option", near(key, known))
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), dict(values))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{place}.{getattr(error, 'full_key', '') or ''}", *value_error(error)) from error
    return _plain(merged)


def _plain(cfg: Any) -> dict[str, Any]:
    """A config as an ordinary dict; raises ConfigError for a value that was never given."""
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(getattr(error, "full_key", "")), *value_error(error)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


# ---- a run's config


def checked_run(cfg: DictConfig) -> dict[str, Any]:
    """The plain values of a composed config, checked as far as it goes without data: arguments of `run`.

    Raises ConfigError naming the option.
    """
    for key in cfg:
        if key not in {each.name for each in dataclasses.fields(Config)}:
            raise ConfigError(str(key), "there is no such option", near(str(key), top_level()))
    values = _plain(cfg)
    optimizer, task, logger, train = (values.pop(key) for key in ("optimizer", "task", "logger", "train"))
    values.pop("resume")
    name = optimizer.get("name")
    if name not in OPTIMIZERS:
        raise ConfigError("optimizer.name", f"there is no optimizer '{name}'", near(str(name), OPTIMIZERS))
    values["optimizer"] = checked("optimizer", OPTIMIZERS[name], optimizer)
    values["train"] = checked("train", TrainConfig, train)
    values["logger"] = checked("logger", LoggerConfig, logger)
    values["task_options"] = checked("task", TaskConfig, task)
    values["task"] = values["task_options"].pop("name")
    values["run_dir"] = Path(values["run_dir"]) if values["run_dir"] else None
    _check_ranges(values)
    return values


def _check_ranges(values: Mapping[str, Any]) -> None:
    train, optimizer = values["train"], values["optimizer"]
    least = {"log_steps": 1, "accumulate": 1} | {
        key: 0
        for key in (
            "epochs",
            "max_steps",
            "max_minutes",
            "patience",
            "clip",
            "warmup",
            "bptt",
            "weight_noise",
            "ema",
            "plateau_patience",
            "min_lr",
            "eval_steps",
            "eval_batches",
            "save_minutes",
            "progress_seconds",
            "threads",
            "gpus",
            "workers",
            "restarts",
        )
    }
    for key, value in least.items():
        if not train[key] >= value:
            raise ConfigError(f"train.{key}", f"{train[key]} is too small", f"Give {value} or more.")
    if not 0 < train["plateau_factor"] < 1:
        raise ConfigError(
            "train.plateau_factor", f"{train['plateau_factor']} lowers nothing", "Give 0.5, say."
        )
    if not train["ema"] < 1:
        raise ConfigError("train.ema", f"an average of decay {train['ema']} never moves", "Give 0.999, say.")
    if train["rollback"] and train["schedule"] != "plateau":
        cause = f"train.schedule={train['schedule']} never lowers the rate because of the metric"
        raise ConfigError("train.rollback", cause, "Set train.schedule=plateau.")
    if not any(train[key] for key in ("epochs", "max_steps", "max_minutes", "patience")):
        raise ConfigError(
            "train",
            "nothing would ever end this run",
            "Set one of train.epochs, train.max_steps, train.max_minutes, train.patience.",
        )
    for place, value, known in (
        ("train.schedule", train["schedule"], ("constant", "plateau", "cosine")),
        ("train.dtype", train["dtype"], ("float32", "bfloat16")),
        ("logger.mode", values["logger"]["mode"], ("none", "auto", "online", "offline")),
    ):
        if value not in known:
            raise ConfigError(place, f"'{value}' is not known", near(value, known))
    if not optimizer["lr"] > 0:
        raise ConfigError("optimizer.lr", f"{optimizer['lr']} is no learning rate", "Give a number above 0.")
    if train["min_lr"] > optimizer["lr"]:
        cause = f"{train['min_lr']} is above the rate it ends at, optimizer.lr={optimizer['lr']}"
        raise ConfigError("train.min_lr", cause, "Give less, or 0.")


def find_checkpoint(target: str, runs: Path, option: str = "resume") -> Path:
    """The checkpoint that `resume=target` means: a .pt file, last.pt of a folder or of the newest run (auto).

    `option` is what a mistake calls it. Raises ConfigError when there is none.
    """
    if target == "auto":
        found = [*runs.glob("*/last.pt"), *runs.glob("*/*/last.pt")]
        if not found:
            raise ConfigError(
                option, f"there is no run in {runs}/", f"Start one, or give its folder: {option}=FOLDER."
            )
        return max(found, key=lambda path: path.stat().st_mtime)
    path = Path(target)
    if path.suffix != ".pt":
        path = path / "last.pt"
    if not path.exists() and not path.with_name(path.name + ".prev").exists():
        fix = "Give a run folder, a .pt file, or auto."
        if inside := sorted(each.parent for each in Path(target).glob("*/last.pt")):  # a sweep, or runs/
            fix = f"It holds runs: give one of them, e.g. {option}={inside[0]}."
        raise ConfigError(option, f"there is no checkpoint {path}", fix)
    return path


def saved_config(path: Path, changes: Iterable[str]) -> DictConfig:
    """The config of an earlier run out of its checkpoint, with `changes` like train.epochs=20.

    Raises ConfigError for a change of something that a run keeps, an unknown option or a wrong value.
    """
    from framework.checkpoint import load  # lazily: torch

    content = load(path)[0]
    if "config" not in content:  # of a Trainer in a program of one's own
        raise ConfigError(str(path), "it holds no config of train.py", "Load it in your program.")
    cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(content["config"]))
    assert isinstance(cfg, DictConfig)
    OmegaConf.set_struct(cfg, True)
    for change in changes:
        key, equals, _ = change.partition("=")
        if not equals or key.startswith("-"):
            raise ConfigError(change, "a resumed run takes only KEY=VALUE", "E.g. train.epochs=20.")
        if key in (*GROUPS, "runner", "parallel", "products", "seed", "run_dir"):
            more = "logger.mode=none" if key == "logger" else "train.epochs=20"
            raise ConfigError(key, "a resumed run keeps it", f"Start a new run, or change an option: {more}.")
        try:
            cfg.merge_with_dotlist([change])
        except OmegaConfBaseException as error:
            if isinstance(error, ConfigKeyError | ConfigAttributeError):
                raise unknown_key(key, cfg.choices) from error
            raise ConfigError(key, *value_error(error)) from error
    return cfg
