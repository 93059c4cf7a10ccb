"""Cells -> nodes: each node with its text, its scope and its YAML path. No text is parsed here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from framework.errors import GraphError
from framework.fields import Init, joined, read_flag, read_init, read_inputs, read_layers, read_size
from framework.names import check_keys, check_name, known
from framework.scope import Alias, Leaf, Scope
from framework.template import fill, loop, params_env

NODE_KEYS = ("size", "is", "init", "for")
CELL_NODE_KEYS = ("cell", "size", "in", "for", "init", "backward", "bidirectional", "layers")
CELL_KEYS = ("inputs", "out", "nodes", "init", "params")
_SOURCE = re.compile(r"\s*([A-Za-z_]\w*(?:/[A-Za-z_]\w*)*)\s*(?:\[\s*t\s*(?:([+-])\s*(\d+)\s*)?\])?\s*\Z")


@dataclass(frozen=True, slots=True)
class Definition:
    """A cell as written: `place` is its YAML path, `env` the params of the graph it is local to."""

    name: str
    spec: Mapping[str, Any]
    place: str
    env: Mapping[str, Any]


@dataclass(slots=True)
class RawNode:
    """A node before its text is parsed. `size` None: that of its expression. `at`: where the text stands."""

    name: str
    scope: Scope
    text: str
    size: int | None
    where: str
    at: str
    init: Init = 0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """An entry of an `init:` mapping: `path` as seen from `scope`, the value, where it stands."""

    scope: Scope
    path: str
    value: Init
    place: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the nodes of one graph or cell have in common."""

    scope: Scope
    env: Mapping[str, Any]
    size: int | None
    place: str  # prefix of the YAML paths: "" or "nodes.l1 > cells.foo."
    stack: tuple[str, ...]  # the cells being expanded, outermost first


class Expander:
    """Collects the nodes of a graph in file order. `find_cell(name, place)` returns a cell's definition."""

    def __init__(self, find_cell: Callable[[str, str], Definition]):
        self.find_cell = find_cell
        self.nodes: dict[str, RawNode] = {}
        self.settings: list[Setting] = []
        self.aliases: list[tuple[Scope, str, Alias]] = []

    def expand(self, around: Surroundings, nodes: object, init: object) -> None:
        """Add the nodes of one graph or cell instance, and what its `init:` says."""
        place = f"{around.place}nodes"
        if not isinstance(nodes, Mapping) or not nodes:
            raise GraphError(place, f"must be a mapping, not {nodes!r}" if nodes else "no nodes",
                             'Write nodes: {h: "tanh(full(x) + full(h[t-1]) + bias)"}.')
        for key, entry in nodes.items():
            at = f"{place}.{key}"
            if isinstance(entry, Mapping) and "for" in entry:
                name, steps = loop(fill(entry["for"], around.env, f"{at}.for"), around.env, f"{at}.for")
                if name in around.env:
                    raise GraphError(f"{at}.for", f"{name!r} is a param, too", "Rename one of the two.")
                if not isinstance(key, str) or "{" not in key:
                    raise GraphError(at, f"a node repeated over {name!r} has one name only",
                                     f"Name it with the loop variable: {key}{{{name}}}.")
                rest = {k: v for k, v in entry.items() if k != "for"}
                for step in steps:
                    self._entry(around, key, rest, {**around.env, name: step})
            else:
                self._entry(around, key, entry, around.env)
        self._init_mapping(around.scope, init, around.env, f"{around.place}init")

    def _init_mapping(self, scope: Scope, init: object, env: Mapping[str, Any], place: str) -> None:
        if init is None:
            return
        init = fill(init, env, place)
        if not isinstance(init, Mapping):
            raise GraphError(place, f"must be a mapping of nodes to values, not {init!r}",
                             "Write init: {c: learned}.")
        for key, value in init.items():
            key = fill(key, env, place)
            at = f"{place}.{key}"
            self.settings.append(Setting(scope, str(key), read_init(value, at), at))

    def _entry(self, around: Surroundings, key: object, entry: Any, env: Mapping[str, Any]) -> None:
        place = f"{around.place}nodes"
        name = check_name(fill(key, env, f"{place}.{key}"), f"{place}.{key}", "node")
        at = f"{place}.{name}"
        entry = fill(entry, env, at)
        if isinstance(entry, Mapping):
            if "cell" in entry:
                self._layers(around, name, entry, at)
                return
            check_keys(entry, NODE_KEYS, at)
            if "is" not in entry:
                raise GraphError(at, "a node needs `is` or `cell`",
                                 'Write {size: 61, is: "full(x) + bias"} or {cell: lstm, size: 128, in: x}.')
            text, text_at = entry["is"], f"{at}.is"
            size = read_size(entry["size"], f"{at}.size") if "size" in entry else around.size
            init = read_init(entry["init"], f"{at}.init") if "init" in entry else 0.0
        else:
            text, text_at, size, init = entry, at, around.size, 0.0
        if isinstance(text, (int, float)) and not isinstance(text, bool):
            text = str(text)
        if not isinstance(text, str):
            raise GraphError(text_at, f"an expression must be a text, not {text!r}",
                             'Write for example "full(x) + bias", in quotes.')
        if size is None:
            raise GraphError(at, "no size", f'Write {name}: {{size: 61, is: "{text}"}}.')
        around.scope.add(name, Leaf(around.scope.path + name), at)
        self._add(RawNode(around.scope.path + name, around.scope, text, size, at, text_at, init))

    def _add(self, node: RawNode) -> None:
        assert node.name not in self.nodes
        self.nodes[node.name] = node

    def _layers(self, around: Surroundings, name: str, entry: Mapping[str, Any], at: str) -> None:
        layers = read_layers(entry.get("layers", 1), f"{at}.layers")
        definition = self._definition(entry, around, at)
        inputs = read_inputs(definition.spec, f"{definition.place}inputs")
        sources = self._sources(entry, inputs, definition.name, at)
        if layers == 1:
            self._direction(around, name, entry, definition, sources, at)
            return
        if not inputs:
            raise GraphError(f"{at}.layers", f"cell {definition.name!r} has no input", "Drop layers.")
        for layer in range(1, layers + 1):
            self._direction(around, f"{name}{layer}", entry, definition, sources, at)
            sources = {**sources, inputs[0]: (f"{name}{layer}", f"{at}.in")}
        around.scope.add(name, around.scope.names[f"{name}{layers}"], at)

    def _definition(self, entry: Mapping[str, Any], around: Surroundings, at: str) -> Definition:
        cell = entry["cell"]
        if not isinstance(cell, str):
            raise GraphError(f"{at}.cell", f"{cell!r} is no name of a cell", "Write cell: lstm.")
        definition = self.find_cell(cell, f"{at}.cell")
        if cell in around.stack:
            circle = " > ".join((*around.stack[around.stack.index(cell):], cell))
            raise GraphError(f"{at}.cell", f"a cell contains itself: {circle}", "Break the circle.")
        return definition

    def _sources(self, entry: Mapping[str, Any], inputs: list[str], cell: str, at: str
                 ) -> dict[str, tuple[str, str]]:
        """Each input of the cell -> (expression text, place)."""
        given, at = entry.get("in"), f"{at}.in"
        fix = f"Write in: {{{', '.join(f'{name}: ...' for name in inputs)}}}." if inputs else "Drop in."
        if isinstance(given, Mapping):
            for key in given:
                if key not in inputs:
                    raise GraphError(f"{at}.{key}", f"cell {cell!r} has no input {key!r}",
                                     known("Its inputs", key, inputs))
            missing = [name for name in inputs if name not in given]
            if missing:
                raise GraphError(at, f"cell {cell!r} needs its input {missing[0]!r}", fix)
            return {name: (joined(given[name], f"{at}.{name}"), f"{at}.{name}") for name in inputs}
        if given is None and inputs:
            raise GraphError(at, f"cell {cell!r} needs its input {inputs[0]!r}",
                             "Write in: NODE." if len(inputs) == 1 else fix)
        if given is not None and len(inputs) != 1:
            names = ", ".join(inputs) or "none"
            raise GraphError(at, f"cell {cell!r} has {len(inputs)} inputs: {names}", fix)
        return {name: (joined(given, at), at) for name in inputs}

    def _direction(self, around: Surroundings, name: str, entry: Mapping[str, Any], definition: Definition,
                   sources: dict[str, tuple[str, str]], at: str) -> None:
        """One layer: the cell once, or once forward and once backward with the two joined."""
        back, both = (read_flag(entry, key, at) for key in ("backward", "bidirectional"))
        if not both:
            self._cell(around, name, entry, definition, sources, at, back)
            return
        if back:
            raise GraphError(f"{at}.backward", "a bidirectional node has both directions already",
                             "Drop backward.")
        pair = Scope(f"{around.scope.path}{name}/", f"node {name}", around.scope.mirror, around.scope, "y")
        around.scope.add(name, pair, at)
        inside: dict[str, tuple[str, str]] = {}
        for key, (text, place) in sources.items():
            if key in ("fwd", "bwd", "y"):
                raise GraphError(f"{at}.bidirectional", f"the cell has an input named {key!r}",
                                 "Rename it: fwd, bwd and y are the nodes of a bidirectional node.")
            self._pass(pair, key, text, around.scope, place)
            inside[key] = (key, place)
        inner = Surroundings(pair, around.env, around.size, around.place, around.stack)
        self._cell(inner, "fwd", entry, definition, inside, at, False)
        self._cell(inner, "bwd", entry, definition, inside, at, True)
        pair.add("y", Leaf(f"{pair.path}y"), at)
        self._add(RawNode(f"{pair.path}y", pair, "concat(fwd, bwd)", None, at, at))

    def _pass(self, inside: Scope, name: str, text: str, outside: Scope, place: str) -> None:
        """Bind a cell's input: to another name if that is all it is, else to a node of its own."""
        match = _SOURCE.match(text)
        if match:
            shift = int(f"{match[2]}{match[3]}") if match[2] else 0
            alias = Alias(outside, match[1], -shift if outside.mirror else shift, place)
            inside.add(name, alias, place)
            self.aliases.append((inside, name, alias))
        else:
            inside.add(name, Leaf(inside.path + name), place)
            self._add(RawNode(inside.path + name, outside, text, None, place, place))

    def _cell(self, around: Surroundings, name: str, entry: Mapping[str, Any], definition: Definition,
              sources: dict[str, tuple[str, str]], at: str, back: bool) -> None:
        spec, place = definition.spec, f"{at} > {definition.place}"
        given = {key: value for key, value in entry.items() if key not in CELL_NODE_KEYS}
        for key in spec.get("params") or ():
            if key in CELL_NODE_KEYS:
                raise GraphError(f"{place}params.{key}", f"{key!r} is a key of every cell node",
                                 "Rename the param.")
        self._check_extra(given, spec, definition.name, at)
        size = read_size(entry["size"], f"{at}.size") if "size" in entry else around.size
        if size is None:
            raise GraphError(at, "no size", f"Write {{cell: {definition.name}, size: 128, ...}}.")
        env = params_env(spec.get("params"), given, {**definition.env, "size": size}, at, f"{place}params")
        scope = Scope(f"{around.scope.path}{name}/", f"cell {definition.name}",
                      around.scope.mirror != back, around.scope)
        around.scope.add(name, scope, at)
        for key, (text, source_at) in sources.items():
            self._pass(scope, key, text, around.scope, source_at)
        inner = Surroundings(scope, env, size, place, (*around.stack, definition.name))
        self.expand(inner, spec.get("nodes"), spec.get("init"))
        self._out(scope, spec, env, place, list(sources))
        self._init_mapping(scope, entry.get("init"), env, f"{at}.init")

    def _check_extra(self, given: Mapping[str, Any], spec: Mapping[str, Any], cell: str, at: str) -> None:
        names = [str(name) for name in spec.get("params") or ()]
        for key in given:
            if key not in names:
                raise GraphError(f"{at}.{key}", f"unknown key {key!r} of a node with cell {cell!r}",
                                 known("Keys here", key, [*CELL_NODE_KEYS, *names]))

    def _out(self, scope: Scope, spec: Mapping[str, Any], env: Mapping[str, Any], place: str,
             inputs: list[str]) -> None:
        nodes = [name for name in scope.names if name not in inputs]
        if "out" not in spec:
            raise GraphError(f"{place}out", "a cell must name the node that is its out",
                             f"Write out: {nodes[-1]}. {known('Its nodes', '', nodes)}")
        out = fill(spec["out"], env, f"{place}out")
        target: Any = scope
        for part in str(out).split("/"):
            target = target.names.get(part) if isinstance(target, Scope) else None
        if not isinstance(target, (Leaf, Scope)) or str(out) in inputs:
            raise GraphError(f"{place}out", f"no node {out!r}", known("Its nodes", out, nodes))
        scope.out = str(out)
