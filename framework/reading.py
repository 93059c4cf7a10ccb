"""How one node's text reads other nodes: full names, time shifts, and the text that weight names carry."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

from framework.expand import RawNode
from framework.parse import parse, path_of, time_shift


class Reader:
    """Resolves the names in the text of one node."""

    def __init__(self, node: RawNode):
        self.node, self.scope = node, node.scope

    def tree(self) -> ast.expr:
        """The node's text, parsed. Trees are shared between nodes of equal text: never change one."""
        return parse(self.node.text, self.scope.is_path, self.node.at)

    def references(self, tree: ast.expr) -> Iterator[str]:
        """Full names of the nodes and inputs that the tree reads."""
        calls = {id(part.func) for part in ast.walk(tree) if isinstance(part, ast.Call)}
        for part in ast.walk(tree):
            if isinstance(part, ast.Name) and id(part) not in calls and part.id not in ("t", "bias"):
                yield self.scope.find(path_of(part), self.node.at)[0]

    def find(self, name: ast.Name, shift: int = 0) -> tuple[str, int]:
        """Full name and shift of `s[t+shift]`, with the cell's direction and shifts in `in:` counted in."""
        full, more = self.scope.find(path_of(name), self.node.at)
        return full, (-shift if self.scope.mirror else shift) + more

    def text(self, tree: ast.expr) -> str:
        """The tree as text with full names and shifts without blanks, e.g. `l1/r * l1/h[t-1]`."""
        simple = self.reference_text(tree)
        return simple if simple is not None else ast.unparse(_Resolve(self).visit(copy.deepcopy(tree)))

    def reference_text(self, tree: ast.expr) -> str | None:
        """The text of `s` or `s[t-d]`; None for any other tree."""
        if isinstance(tree, ast.Name):
            full, shift = ("bias", 0) if tree.id == "bias" else self.find(tree)
        else:
            written = shift_of(tree)
            if written is None:
                return None
            full, shift = self.find(*written)
        return full if shift == 0 else f"{full}[t{shift:+d}]"


def shift_of(tree: ast.expr) -> tuple[ast.Name, int] | None:
    """(s, -d) of `s[t-d]` where s is a name, else None."""
    if isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name):
        shift = time_shift(tree.slice)
        if shift is not None:
            return tree.value, shift
    return None


def written(tree: ast.expr) -> str:
    """The tree as the user wrote it, names as they are."""
    return ast.unparse(_Paths().visit(copy.deepcopy(tree)))


class _Paths(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(path_of(node))


class _Resolve(ast.NodeTransformer):
    """Puts full names with their shifts in the place of names; functions keep theirs."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(self.reader.reference_text(node) or "")

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        text = self.reader.reference_text(node)
        return ast.Name(text) if text is not None else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        node.args = [self.visit(arg) for arg in node.args]
        return node
