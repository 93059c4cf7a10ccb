"""Names a user may give, and the helpful half of an error: what there is, and what was probably meant."""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Iterable

from framework.errors import GraphError
from framework.ops import POINTWISE

ARITY = {name: op.arity for name, op in POINTWISE.items()}
STRUCTURAL = ("full", "diag", "block", "bias", "norm", "softmax", "concat", "stop", "dropout", "zoneout")
FUNCTIONS = frozenset(ARITY) | frozenset(STRUCTURAL)
# What functions are called elsewhere.
ELSEWHERE = {
    "max": "maximum", "min": "minimum", "sigma": "sigmoid", "logistic": "sigmoid", "linear": "full",
    "dense": "full", "matmul": "full", "swish": "silu", "layer_norm": "norm", "layernorm": "norm",
    "cat": "concat", "detach": "stop",
}  # fmt: skip
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SHOWN = 24  # names listed in an error before "..."


def check_name(name: object, place: str, what: str) -> str:
    """Return `name` if it can name a node, input, cell or param; else raise GraphError at `place`."""
    a_what = f"an {what}" if what[0] in "aeiou" else f"a {what}"
    if not isinstance(name, str):
        raise GraphError(place, f"the {what} name {name!r} is no text",
                         "YAML reads yes, no, on, off and numbers as values: put the name in quotes.")
    if not _IDENTIFIER.match(name) or name.startswith("__"):
        raise GraphError(place, f"{name!r} cannot name {a_what}",
                         "Use letters, digits and _, not starting with a digit or with __.")
    if keyword.iskeyword(name):
        raise GraphError(place, f"{name!r} is a Python keyword and cannot name {a_what}", f"Try '{name}_'.")
    if name == "t":
        raise GraphError(place, f"'t' is the time step and cannot name {a_what}", "Choose another name.")
    if name in FUNCTIONS:
        raise GraphError(place, f"{name!r} is a function and cannot name {a_what}", f"Try '{name}_'.")
    return name


def quoted(text: str) -> str:
    """A piece of the user's text for an error, cut when it is long."""
    return repr(text if len(text) <= 80 else f"{text[:60]} ... {text[-16:]}")


def listing(names: Iterable[str]) -> str:
    """Names in order, cut after two dozen."""
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") or "(none)"


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """` Did you mean 'l1'?` for the nearest of `names`, or nothing."""
    names, text = list(names), str(name)
    close = [each for each in (ELSEWHERE.get(text),) if each in names] or [
        *difflib.get_close_matches(text, names, n=1), *difflib.get_close_matches(text.lower(), names, n=1)
    ]  # fmt: skip
    return f" Did you mean '{close[0]}'?" if close else ""


def known(what: str, name: object, names: Iterable[str]) -> str:
    """`Nodes here: x, l1. Did you mean 'l1'?`"""
    names = list(names)
    shown = listing(names)
    return f"{what}: {shown}{'' if shown.endswith('...') else '.'}{did_you_mean(name, names)}"


def near(name: object, names: Iterable[str], title: str = "There are") -> str:
    """As `known`, but all names are listed: for options, of which one wants to see each."""
    names = list(names)
    return f"{title}: {', '.join(names)}.{did_you_mean(name, names)}"


def check_keys(mapping: Iterable[object], allowed: Iterable[str], place: str) -> None:
    """Raise GraphError for the first key that is not allowed."""
    allowed = list(allowed)
    for key in mapping:
        if key not in allowed:
            at = f"{place}.{key}" if place else str(key) or "graph"
            raise GraphError(at, f"unknown key {key!r}", known("Keys here", key, allowed))
