"""Text -> Python `ast`, with node paths such as `l1/c` read as one name. Nothing is ever evaluated."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable

from framework.errors import GraphError
from framework.names import quoted

ALLOWED = ("An expression is made of names, s[t-1], s[0:4], numbers, + - * / and functions"
           " such as full(x) or tanh(x).")
# Stands for the "/" of a path while Python parses: a letter to Python, and no name of a user can hold it.
_JOIN = "\u01c0"
_CHAIN = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\s*/\s*[A-Za-z_]\w*(?!\w*\s*\())+")


def parse(text: str, is_path: Callable[[list[str], str], bool], place: str) -> ast.expr:
    """Parse an expression; `is_path(["l1", "c"], place)`: is l1/c a node rather than a division?"""
    if "\n" in text:
        text = " ".join(line.split("#", 1)[0].strip() for line in text.splitlines())
    if "/" in text:
        text = _CHAIN.sub(lambda m: _join_paths(re.split(r"\s*/\s*", m[0]), is_path, place), text)
    tree = _parse(text.strip())
    if tree is None:
        raise GraphError(place, f"cannot read {quoted(text.replace(_JOIN, '/').strip())}", _syntax_fix(text))
    return tree


def _join_paths(parts: list[str], is_path: Callable[[list[str], str], bool], place: str) -> str:
    out, i = [], 0
    while i < len(parts):
        end = next((e for e in range(len(parts), i + 1, -1) if is_path(parts[i:e], place)), i + 1)
        out.append(_JOIN.join(parts[i:end]))
        i = end
    return " / ".join(out)


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _syntax_fix(text: str) -> str:
    if text.count("(") != text.count(")") or text.count("[") != text.count("]"):
        return f"Its brackets do not pair. {ALLOWED}"
    if not text.strip():
        return f"It is empty. {ALLOWED}"
    return f"It is too long: split it into nodes. {ALLOWED}" if len(text) > 2000 else ALLOWED


def path_of(name: ast.Name) -> str:
    """The name as the user wrote it, with "/" in paths."""
    return name.id.replace(_JOIN, "/")


def whole(tree: ast.expr) -> int | None:
    """The value of an integer literal with or without a minus sign, else None."""
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        inner = whole(tree.operand)
        return None if inner is None else -inner
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        return tree.value
    return None


def time_shift(index: ast.expr) -> int | None:
    """`t-1` -> -1, `t+2` -> 2, `t` -> 0; None for anything else."""
    if isinstance(index, ast.Name) and index.id == "t":
        return 0
    if (isinstance(index, ast.BinOp) and isinstance(index.left, ast.Name) and index.left.id == "t"
            and isinstance(index.op, (ast.Add, ast.Sub))):
        steps = whole(index.right)
        if steps is not None:
            return steps if isinstance(index.op, ast.Add) else -steps
    return None
