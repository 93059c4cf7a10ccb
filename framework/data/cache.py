"""Made data kept on disk, by a digest of everything it is made from; safe for several processes at once."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from framework.data.scratch import scratch
from framework.errors import ConfigError, DataError

FILES = "files.json"  # sizes of all files of a folder, by name


def default_cache_dir() -> Path:
    """$XDG_CACHE_HOME/intrastream, or ~/.cache/intrastream. Raises ConfigError for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "intrastream"
    except RuntimeError as error:
        raise ConfigError(
            "data.cache_dir", "this user has no home folder", "Give a folder: data.cache_dir=/path"
        ) from error


def source_digest(*modules: ModuleType) -> str:
    """Digest of the modules' source, so that data made by older code is not taken for today's."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def cached(root: str | Path | None, kind: str, key: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """Return the folder that `build(folder)` fills, made once for each content of `key` (JSON values).

    A folder appears under its name only when complete (renamed into place). Two processes that make it at the
    same time both work; the later one drops its own copy. What a killed one left is removed. ConfigError
    where the cache folder cannot be written; DataError names a file of a found folder that is not as long as
    it was.
    """
    base = Path(root).expanduser() if root else default_cache_dir()
    text = json.dumps({"cache": 2, **key}, sort_keys=True, separators=(",", ":"))  # 2: with sizes
    folder = base / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
    if folder.is_dir():
        _check_sizes(folder)
        return folder
    try:
        base.mkdir(parents=True, exist_ok=True)
        with scratch(base, kind) as work:
            build(work)
            (work / "key.json").write_text(text + "\n", encoding="utf-8")
            files = {p.relative_to(work): p for p in sorted(work.rglob("*")) if p.is_file()}
            sizes = {str(name): path.stat().st_size for name, path in files.items()}
            (work / FILES).write_text(json.dumps(sizes), encoding="utf-8")
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
    return folder


def _check_sizes(folder: Path) -> None:
    """What a full disk, a broken copy or a careless hand does to a file nearly always shows in its size."""
    try:
        sizes = json.loads((folder / FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(folder / FILES, folder, str(error)) from error
    for name, size in sizes.items():
        file = folder / name
        found = file.stat().st_size if file.exists() else None
        if found != size:
            why = "it is gone" if found is None else f"{found} bytes instead of {size}"
            raise damaged(file, folder, why)


def damaged(path: Path, folder: Path, why: str) -> DataError:
    """The DataError of `path` in the folder of `cached` that is not what was written."""
    why = " ".join(why.split())[:200].rstrip(". ")
    return DataError(
        str(path), f"the cached data cannot be read ({why})", f"Delete {folder}: it is made again"
    )


def save_tensors(content: Any, path: Path) -> None:
    """torch.save in a `build`: the OSError of a full disk stays one (torch makes it a RuntimeError)."""
    memory = io.BytesIO()
    torch.save(content, memory)
    path.write_bytes(memory.getbuffer())


def load_tensors(path: Path) -> Any:
    """What save_tensors wrote into a folder of `cached`. Raises DataError where it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the sums in the file
            if (broken := archive.testzip()) is not None:
                raise ValueError(f"{broken} is not what was written")
        return torch.load(path, weights_only=True)
    except Exception as error:  # of zipfile, pickle and torch: a damaged file raises nearly every kind
        raise damaged(path, path.parent, str(error) or type(error).__name__) from error
