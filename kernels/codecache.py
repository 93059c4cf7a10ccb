"""Generated source as a module: a file of its own, because Triton reads the source of what it compiles."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType

_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child would wait for a thread that it does not have
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def default_folder() -> Path:
    """Where generated modules are kept: intrastream/cells in the user's cache folder; for a user without a
    home, a folder of this process.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return _temporary()
    return cache / "intrastream" / "cells"


@functools.cache
def _temporary() -> Path:
    """A folder that goes with this process."""
    folder, owner = tempfile.mkdtemp(prefix="intrastream-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not at the end of a fork
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)


def module_name(text: str, label: str) -> str:
    """The name of the module of this source: it is found by its content, `label` is for readers."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:20]
    return f"cell_{re.sub(r'[^A-Za-z0-9]+', '_', label).strip('_')[:40]}_{digest}"


def load(text: str, label: str = "cell", folder: Path | None = None) -> ModuleType:
    """The module with this source, made or found; registered in sys.modules.

    Many processes may ask at once: a file appears whole or not at all, and has one content. Where the user's
    cache folder cannot be written, the file lies in one of this process. Raises OSError where the given
    folder cannot be written, SyntaxError for source that is none.
    """
    name = module_name(text, label)
    with _lock:
        known = sys.modules.get(name)
        if known is not None:
            return known
        try:
            path = write(text, (folder or default_folder()) / f"{name}.py")
        except OSError:
            if folder is not None:
                raise
            path = write(text, _temporary() / f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None, path
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


def write(text: str, path: Path) -> Path:
    """Make `path` a file that holds `text`, by a rename; a file that holds something else is replaced."""
    with contextlib.suppress(FileNotFoundError):  # another process may remove it at any moment
        if path.read_bytes() == text.encode():
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
