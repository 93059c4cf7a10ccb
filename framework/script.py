"""What the scripts share: how KEY=VALUE arguments are read, and how a mistake is told. It needs no torch."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from framework.errors import ConfigError, UserError
from framework.names import near


def options(given: Iterable[str], defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """KEY=VALUE arguments with the types of their defaults; and, in order, those that are none of them.

    Raises ConfigError for a value of the wrong type.
    """
    found, rest = dict(defaults), []
    for each in given:
        key, equals, text = each.partition("=")
        if equals and key in defaults:
            found[key] = _typed(key, text, defaults[key])
        else:
            rest.append(each)
    return found, rest


def folder_and_options(given: Iterable[str], defaults: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The one folder of runs that is given, and the options beside it. Raises ConfigError."""
    found, rest = options(given, defaults)
    for each in rest:
        if "=" in each and not Path(each).is_dir():
            raise no_option(each, defaults)
    if len(rest) != 1:
        cause = f"{len(rest)} are given" if rest else "which one is not said"
        raise ConfigError("folder", cause, "Give the one that holds the runs: runs/NAME.")
    return Path(rest[0]), found


def out_folder(path: Path) -> Path:
    """`path`, made where it is not there, for what a script writes. Raises ConfigError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = f"the folder {path} cannot be made: {error.strerror}"
        raise ConfigError("out", cause, "Give another one: out=FOLDER.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError("out", f"nothing can be written in {path}", "Give another one: out=FOLDER.")
    return path


def no_option(word: str, known: Iterable[str]) -> ConfigError:
    """What to raise for an argument that is none of the `known` options."""
    return ConfigError(word.partition("=")[0], "there is no such option", near(word.partition("=")[0], known))


def _typed(key: str, text: str, default: Any) -> Any:
    """`text` as the type of `default`."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(default)(text)
    except (ValueError, KeyError) as error:
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise ConfigError(key, f"'{text}' is not {kind}", f"Give {kind}.") from error


def tell(error: UserError) -> None:
    """A mistake as one line on stderr."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)


def guarded(main: Callable[[list[str]], None], given: list[str]) -> int:
    """Run a script's `main`; returns the exit code: 2 after a mistake of the user, which is told, 130 after
    Ctrl-C.
    """
    try:
        main(given)
    except UserError as error:
        tell(error)
        return 2
    except KeyboardInterrupt:  # asked for: no traceback
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def command(main: Callable[[list[str]], None], help_text: str | None, given: list[str] | None = None) -> int:
    """`guarded` on the command line's arguments (or those `given`); without any, or for help, the help."""
    given = sys.argv[1:] if given is None else given
    if not given or {"-h", "--help"} & set(given):
        print((help_text or "").strip())
        return 0 if given else 2
    return guarded(main, given)
