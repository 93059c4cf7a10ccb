"""Made data kept on disk, by a digest of everything it is made from; safe for several processes at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from framework.errors import ConfigError


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/intrastream, or ~/.cache/intrastream."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "intrastream"


def source_digest(*modules: ModuleType) -> str:
    """Digest of the modules' source, so that data made by older code is not taken for today's."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def cached(root: str | Path | None, kind: str, key: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """Return the folder that `build(folder)` fills, made once for each content of `key` (JSON values).

    A folder appears under its name only when complete (renamed into place). Two processes that make it at the
    same time both work; the later one drops its own copy. ConfigError where the cache folder cannot be
    written.
    """
    base = Path(root).expanduser() if root else default_cache_dir()
    text = json.dumps(key, sort_keys=True, separators=(",", ":"))
    folder = base / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    if folder.is_dir():
        return folder
    try:
        base.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=base))
    except OSError as error:
        raise ConfigError(
            "data.cache_dir",
            f"cannot write to {base} ({error.strerror})",
            "Give a folder: data.cache_dir=/path",
        ) from error
    try:
        build(work)
        (work / "key.json").write_text(text + "\n", encoding="utf-8")
        try:
            work.rename(folder)
        except OSError:
            if not folder.is_dir():  # not the other process's folder in the way: a true failure
                raise
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(base)):
            raise  # not about the cache
        raise ConfigError(
            "data.cache_dir",
            f"cannot write to {base} ({error.strerror or error})",
            "Free space or give another folder: data.cache_dir=/path",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)  # gone already when it was renamed
    return folder
