"""Scopes: what a name means inside a graph or a cell instance."""

from __future__ import annotations

from dataclasses import dataclass, field

from framework.errors import GraphError
from framework.names import known


@dataclass(slots=True)
class Leaf:
    """A graph input or a node, by its full name such as `l1/c`."""

    full: str
    is_node: bool = True


@dataclass(slots=True)
class Alias:
    """A cell's input: another name, read in the scope of the node that passes it, `shift` steps away."""

    scope: Scope
    name: str
    shift: int
    place: str


@dataclass(slots=True)
class Scope:
    """A graph, a cell instance or a pair of directions. `path` is "" or such as "l1/"."""

    path: str
    what: str  # "graph", or "cell lstm" in errors
    mirror: bool = False  # time shifts written here are read with the other sign
    parent: Scope | None = None
    out: str = ""
    names: dict[str, Leaf | Alias | Scope] = field(default_factory=dict)

    def add(self, name: str, target: Leaf | Alias | Scope, place: str) -> None:
        """Bind a name; GraphError when it is taken."""
        if name in self.names:
            raise GraphError(place, f"the name {name!r} is used twice in this {self.what.split()[0]}",
                             f"Rename one. {known('Names here', '', self.names)}")
        self.names[name] = target

    def find(self, path: str, place: str) -> tuple[str, int]:
        """The full name and time shift that `path` stands for here; GraphError if there is none."""
        target: Leaf | Alias | Scope | None
        scope, shift = self, 0
        at = place
        while True:
            parts = path.split("/")
            target = scope.names.get(parts[0])
            for part in parts[1:]:
                target = target.names.get(part) if isinstance(target, Scope) else None
            while isinstance(target, Scope):  # a cell node's name reads its out
                inner = target
                for part in inner.out.split("/"):
                    assert isinstance(inner, Scope)
                    target = inner.names[part]
                    inner = target if isinstance(target, Scope) else inner
            if isinstance(target, Leaf):
                return target.full, shift
            if target is None:
                raise scope.unknown(path, at)
            scope, path, at = target.scope, target.name, target.place
            shift += target.shift

    def is_path(self, parts: list[str], place: str) -> bool:
        """Whether l1/c is a node seen from here rather than a division; GraphError when it could be both."""
        target = self.names.get(parts[0])
        for part in parts[1:]:
            target = target.names.get(part) if isinstance(target, Scope) else None
        if target is None:  # l1/typo: no division either, so that the error names the cell
            inside = isinstance(self.names.get(parts[0]), Scope)
            return inside and parts[1] != "bias" and parts[1] not in self.names
        if all(part in self.names for part in parts[1:]):
            path = "/".join(parts)
            raise GraphError(place, f"{path!r} may be the node {path} or {' divided by '.join(parts)}",
                             f"Rename the node {parts[-1]!r}, or divide as"
                             f" {parts[0]} * {' * '.join(f'reciprocal({part})' for part in parts[1:])}.")
        return True

    def unknown(self, path: str, place: str) -> GraphError:
        """The error for a name that means nothing here."""
        head, _, last = path.rpartition("/")
        inner: object = self
        for part in head.split("/") if head else ():
            inner = inner.names.get(part) if isinstance(inner, Scope) else None
        if head and isinstance(inner, Scope):
            return GraphError(place, f"no node {last!r} in {head!r}", known("Its nodes", last, inner.names))
        first = path.split("/")[0]
        if head and first in self.names:
            return GraphError(place, f"{first!r} in {path!r} has no nodes inside", "Only a cell node has.")
        fix = known(f"Names in {self.what}" if self.parent else "Nodes here", path, self.names)
        outer = self.parent
        while outer is not None and first not in outer.names:
            outer = outer.parent
        if outer is not None:
            fix += f" A cell sees only its own names: to pass it, write in: {{name: {first}}}."
        return GraphError(place, f"no node {path!r}", fix)
