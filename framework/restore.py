"""A trained network back from its checkpoint, for the scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framework import checkpoint
from framework.assemble import Parts, assemble
from framework.config import checked_run, find_checkpoint, saved_config
from framework.errors import ConfigError
from framework.script import no_option, options


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
    defaults = {"checkpoint": "", **defaults}
    found, changes = options(given, defaults)
    for each in changes:
        key, equals, _ = each.partition("=")
        if not equals or "." not in key:
            raise no_option(each, defaults)
    target = found["checkpoint"]
    if not target:
        raise ConfigError("checkpoint", "which one is not said", "Give checkpoint=runs/NAME/best.pt.")
    if Path(target).is_dir() and (Path(target) / "best.pt").exists():
        target = str(Path(target) / "best.pt")
    path = find_checkpoint(target, Path("runs"), "checkpoint")
    if target == "auto" and (best := path.with_name("best.pt")).exists():
        path = best  # what a folder stands for, too
    found["checkpoint"] = path
    return found, changes
