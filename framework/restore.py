"""A trained network back from its checkpoint, for the scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from framework import checkpoint
from framework.assemble import Parts, assemble
from framework.config import checked_run, find_checkpoint, saved_config
from framework.errors import ConfigError, UserError
from framework.mistakes import near


def restore(path: Path, changes: Iterable[str] = ()) -> Parts:
    """The parts of a run with the weights of its checkpoint `path`; `changes` as in data.root=/elsewhere.

    Raises ConfigError, GraphError or DataError.
    """
    values = checked_run(saved_config(path, changes))
    parts = assemble(
        model=values["model"],
        data=values["data"],
        cell=values["cell"],
        cell_name=values["choices"].get("cell", ""),
        task=values["task"],
        task_options=values["task_options"],
        runner=values["runner"],
        parallel=values["parallel"],
        products=values["products"],
        memory=values["memory"],
        memory_chunk=values["memory_chunk"],
        together=values["together"],
        overlap=values["overlap"],
        tuning=values["tuning"],
        seed=values["seed"],
        device=values["train"]["device"],
        threads=values["train"]["threads"],
    )
    content, note = checkpoint.load(path)
    if note:
        print(note, file=sys.stderr)
    checkpoint.put_weights(parts.net, checkpoint.evaluated_weights(content), str(path))
    parts.net.eval()
    return parts


def arguments(given: Iterable[str], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A script's KEY=VALUE arguments with the types of their defaults, and the changes of the run's config.

    What has a dot (data.root=...) is a change. `checkpoint` is needed and becomes a path. Raises ConfigError.
    """
    options, changes = dict(defaults), []
    for each in given:
        key, equals, value = each.partition("=")
        if equals and "." in key:
            changes.append(each)
        elif not equals or (key not in defaults and key != "checkpoint"):
            raise ConfigError(key, "there is no such option", near(key, ["checkpoint", *defaults]))
        else:
            options[key] = value if key == "checkpoint" else _typed(key, value, defaults[key])
    if "checkpoint" not in options:
        raise ConfigError("checkpoint", "which one is not said", "Give checkpoint=runs/NAME/best.pt.")
    target = options["checkpoint"]
    if Path(target).is_dir() and (Path(target) / "best.pt").exists():
        target = str(Path(target) / "best.pt")
    options["checkpoint"] = find_checkpoint(target, Path("runs"), "checkpoint")
    return options, changes


def _typed(key: str, value: str, default: Any) -> Any:
    """`value` as the type of `default`."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[value.lower()]
        return type(default)(value)
    except (ValueError, KeyError) as error:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise ConfigError(key, f"'{value}' is not {kind}", f"Give {kind}.") from error


def command(main: Callable[[list[str]], None], help_text: str) -> int:
    """Run a script's `main` on its arguments; returns the exit code, 2 after a mistake of the user."""
    given = sys.argv[1:]
    if not given or given[0] in ("-h", "--help"):
        print(help_text.strip())
        return 0 if given else 2
    try:
        main(given)
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0
