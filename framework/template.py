"""Params: `"{name}"` and `"{depth + 1}"` in the strings of a graph or a cell, and `for: l in 2..depth`."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from framework.errors import GraphError
from framework.names import check_name, known

_BRACES = re.compile(r"\{([^{}]*)\}")
_FOR = re.compile(r"\s*([A-Za-z_]\w*)\s+in\s+(.+?)\s*\.\.\s*(.+?)\s*\Z")
_ALLOWED = "A template may use params, loop variables, whole numbers, + - * // and brackets."
Env = Mapping[str, Any]


def fill(value: Any, env: Env, place: str) -> Any:
    """Replace the templates in every string of `value` (keys of mappings are left to the caller).

    A string that is one template becomes the value itself, of any type; inside a longer string the value
    must be a number or a string. Raises GraphError for an unknown param or an expression that is not allowed.
    """
    if isinstance(value, str):
        return _fill_text(value, env, place) if "{" in value or "}" in value else value
    if isinstance(value, Mapping):
        return {k: fill(v, env, f"{place}.{k}" if place else str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [fill(v, env, place) for v in value]
    return value


def _fill_text(text: str, env: Env, place: str) -> Any:
    whole = _BRACES.fullmatch(text.strip())
    if whole:
        return evaluate(whole[1], env, place)

    def piece(match: re.Match[str]) -> str:
        value = evaluate(match[1], env, place)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise GraphError(place, f"{match[0]} is {value!r}, which cannot stand inside a longer text",
                             "Only a number or a text can.")
        return str(value)

    filled = _BRACES.sub(piece, text)
    if "{" in _BRACES.sub("", text) or "}" in _BRACES.sub("", text):
        raise GraphError(place, f"unpaired curly bracket in {text!r}", "Write a param as {name}.")
    return filled


def evaluate(text: str, env: Env, place: str) -> Any:
    """The value of a template's inside, by `ast` and never `eval`."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise GraphError(place, f"cannot read the template {{{text}}}", _ALLOWED) from None
    return _value(tree, text, env, place)


def _value(tree: ast.expr, text: str, env: Env, place: str) -> Any:
    match tree:
        case ast.Name(id=name):
            if name not in env:
                raise GraphError(place, f"no param {name!r}", known("Params here", name, env))
            return env[name]
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_number(inner, text, env, place)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.FloorDiv() as op, right=right):
            a, b = _number(left, text, env, place), _number(right, text, env, place)
            if isinstance(op, ast.Add):
                return a + b
            if isinstance(op, ast.Sub):
                return a - b
            if isinstance(op, ast.Mult):
                return a * b
            if b == 0:
                raise GraphError(place, f"division by zero in {{{text}}}", "Check the params.")
            return a // b
    raise GraphError(place, f"{{{text}}} is more than a template can say", _ALLOWED)


def _number(tree: ast.expr, text: str, env: Env, place: str) -> int | float:
    value = _value(tree, text, env, place)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise GraphError(place, f"{ast.unparse(tree)} is {value!r} in {{{text}}}, which is no number",
                         "Only numbers can be added, subtracted, multiplied or divided.")
    return value


def params_env(defaults: object, given: Env, outer: Env, place: str, prefix: str) -> dict[str, Any]:
    """The params of a graph or cell: `outer`, then `defaults` (which may use earlier ones), then `given`.

    `place` is where the values were given, `prefix` the YAML path of the defaults.
    """
    if defaults is None:
        defaults = {}
    if not isinstance(defaults, Mapping):
        raise GraphError(prefix, f"must be a mapping of names to values, not {defaults!r}",
                         "Write params: {depth: 3}.")
    for name in given:
        if name not in defaults:
            at = f"{place}.{name}" if place else str(name) or "params"
            raise GraphError(at, f"no param {name!r}", known("Params", name, map(str, defaults)))
    env = dict(outer)
    for name, value in defaults.items():
        check_name(name, f"{prefix}.{name}", "param")
        env[name] = given[name] if name in given else fill(value, env, f"{prefix}.{name}")
    return env


def loop(spec: object, env: Env, place: str) -> tuple[str, range]:
    """`l in 2..depth` -> ("l", range(2, depth + 1)). The range may be empty."""
    match = _FOR.match(spec) if isinstance(spec, str) else None
    if not match:
        raise GraphError(place, f"cannot read {spec!r} as a loop", "Write it as: for: l in 2..depth.")
    name = check_name(match[1], place, "loop variable")
    ends = [evaluate(text, env, place) for text in match.groups()[1:]]
    if any(isinstance(end, bool) or not isinstance(end, int) for end in ends):
        raise GraphError(place, f"{spec!r} runs from {ends[0]!r} to {ends[1]!r}",
                         "Both must be whole numbers.")
    if ends[1] - ends[0] >= 100_000:
        raise GraphError(place, f"{spec!r} has {ends[1] - ends[0] + 1} steps", "Write at most 100000.")
    return name, range(ends[0], ends[1] + 1)
