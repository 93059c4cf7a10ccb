"""The folder of a run: where a new one goes, and taking one for a run alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from framework.assemble import check_writable
from framework.errors import ConfigError
from framework.logging import JsonLog

FIX = "Make room, or give another one: run_dir=FOLDER."


def new_folder(runs: Path, stamp: str, choices: Mapping[str, str], run_dir: Path | None) -> Path:
    """Where a new run goes: `run_dir`, or runs/<stamp>_<model>_<data> with -2, -3, ... while it is taken.

    The latter is made at once, so that runs of the same second have folders of their own. Raises ConfigError
    when run_dir holds a run already, or nothing can be written there.
    """
    if run_dir is not None:
        if any((run_dir / name).exists() for name in ("last.pt", "last.pt.prev")):
            fix = f"Go on with resume={run_dir}, or give another folder."
            raise ConfigError("run_dir", f"{run_dir} holds a run already", fix)
        if (run_dir / "metrics.jsonl").exists():
            cause = f"{run_dir} holds a run that ended before its first checkpoint"
            raise ConfigError("run_dir", cause, "Remove the folder, or give another one.")
        check_writable(run_dir)
        return run_dir
    name, number = "_".join([stamp, choices.get("model", "model"), choices.get("data", "data")]), 1
    check_writable(runs / name)
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise _refused(folder, error) from error
        else:
            return folder


def take_folder(folder: Path, texts: Mapping[str, str], position: int = 0) -> JsonLog:
    """Make the folder if need be, lock it for this run, write `texts` (by file name) into it; its log.

    `position` is that of JsonLog. A text is there whole, or as it was before. Raises ConfigError when another
    run is writing there, when the log lost lines, and when something cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error) from error
    log = JsonLog(folder / "metrics.jsonl", position)
    for name, text in texts.items():
        partial = folder / f".{name}.partial"
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, folder / name)
        except OSError as error:
            log.close()
            raise _refused(folder / name, error) from error
    return log


def _refused(path: Path, error: OSError) -> ConfigError:
    return ConfigError("run_dir", f"{path} cannot be written ({error.strerror or error})", FIX)
