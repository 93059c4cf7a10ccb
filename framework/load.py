"""YAML (or a dict) -> Graph. The only entry to the language: `load_graph`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from framework.build import Builder, references
from framework.errors import GraphError, GraphWarning
from framework.expand import CELL_KEYS, Definition, Expander, RawNode, Surroundings, read_size
from framework.graph import Graph, Input, Node, Weight
from framework.names import check_keys, check_name, known
from framework.scope import Leaf, Scope
from framework.template import fill, params_env
from framework.yamlfile import read_yaml

CONF = Path(__file__).resolve().parent.parent / "conf"
GRAPH_KEYS = ("inputs", "nodes", "outputs", "cells", "init", "params")


def load_graph(source: str | Path | Mapping[str, Any], /, *, cell_dirs: Iterable[str | Path] = (),
               **params: Any) -> Graph:
    """Read a graph from a YAML file, a YAML text (with a line break in it) or a dict of the same form.

    `params` override the graph's own; `cell_dirs` are searched for cells before conf/cell. A name without a
    suffix, such as "blstm", is a model of conf/model. Raises GraphError with the YAML path, the cause and
    a fix; warns with GraphWarning about an input that nobody reads. The language: docs/language.md.
    """
    spec = _read(source)
    check_keys(spec, GRAPH_KEYS, "")
    env = params_env(spec.get("params"), params, {}, "", "params")
    scope = Scope("", "graph")
    inputs = _inputs(spec.get("inputs"), env, scope)
    expander = Expander(_Cells(spec.get("cells"), env, cell_dirs).find)
    expander.expand(Surroundings(scope, env, None, "", ()), spec.get("nodes"), spec.get("init"))
    for inside, name, alias in expander.aliases:
        inside.find(name, alias.place)  # a wrong `in:` is an error even where the cell never reads it
    _apply_init(expander)
    outputs = _outputs(fill(spec.get("outputs"), env, "outputs"), scope, inputs)

    builder = Builder(inputs, sizes := {raw.name: raw.size for raw in expander.nodes.values() if raw.size})
    early = _infer_sizes(expander.nodes, builder, sizes)
    nodes = {}
    weights: dict[str, Weight] = {}
    for raw in expander.nodes.values():
        expr = early[raw.name] if raw.name in early else builder.build(raw)
        nodes[raw.name] = Node(raw.name, sizes[raw.name], expr, raw.init, raw.where)
        if raw.init == "learned":
            name = f"{raw.name}:init"
            builder.weights[name] = Weight(name, (sizes[raw.name],), "init")
    weights = builder.weights
    notes = tuple(f"inputs.{name}: nobody reads it. Use it in a node, or remove it."
                  for name in inputs if name not in builder.read)
    for note in notes:
        warnings.warn(note, GraphWarning, stacklevel=2)
    return Graph(inputs, nodes, outputs, weights, notes)


def _read(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    if isinstance(source, str) and "\n" in source:
        return read_yaml(source, "text")
    path = Path(source)
    if not path.is_file() and not path.suffix and len(path.parts) == 1:
        path = CONF / "model" / f"{source}.yaml"
    if not path.is_file():
        raise GraphError(str(source), "no such file", known("Shared models", str(source), _names(CONF / "model")))
    return read_yaml(path.read_text(encoding="utf-8"), str(source))


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _inputs(spec: object, env: Mapping[str, Any], scope: Scope) -> dict[str, Input]:
    if not isinstance(spec, Mapping) or not spec:
        raise GraphError("inputs", "no inputs" if not spec else f"must be a mapping, not {spec!r}",
                         "Write inputs: {x: {size: 80}}.")
    inputs = {}
    for key, entry in spec.items():
        at = f"inputs.{key}"
        name, entry = check_name(fill(key, env, at), at, "input"), fill(entry, env, at)
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise GraphError(at, f"{entry!r} is no input", "Write {size: 80} for vectors or {vocab: 96} for indices.")
        check_keys(entry, ("size", "vocab"), at)
        (kind, number), = entry.items()
        number = read_size(number, f"{at}.{kind}")
        inputs[name] = Input(name, number) if kind == "size" else Input(name, 0, number)
        scope.add(name, Leaf(name, is_node=False), at)
    return inputs


def _outputs(spec: object, scope: Scope, inputs: Mapping[str, Input]) -> dict[str, str]:
    names = [spec] if isinstance(spec, str) else spec
    if not isinstance(names, (list, tuple)) or not names:
        raise GraphError("outputs", "no outputs" if not names else f"must be a list of nodes, not {spec!r}",
                         "Write outputs: [logits].")
    outputs: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or name in outputs:
            raise GraphError("outputs", f"{name!r} is there twice" if name in outputs else f"{name!r} is no name",
                             "List each node once.")
        full, _ = scope.find(name.strip(), "outputs")
        if full in inputs:
            raise GraphError("outputs", f"{name!r} is an input", "Name a node; a copy is {size: N, is: " + name + "}.")
        outputs[name.strip()] = full
    return outputs


def _apply_init(expander: Expander) -> None:
    """Inner settings come first in the list, so that the outer ones win."""
    for setting in expander.settings:
        full, _ = setting.scope.find(setting.path, setting.place)
        if full not in expander.nodes:
            raise GraphError(setting.place, f"{setting.path!r} is an input and has no start value of its own",
                             "Its past is zero; make a node {is: " + setting.path + "} and set that one's.")
        expander.nodes[full].init = setting.value


def _infer_sizes(nodes: Mapping[str, RawNode], builder: Builder, sizes: dict[str, int]) -> dict[str, Any]:
    """Build the nodes without a size (joined inputs, both directions), each after those it reads."""
    built: dict[str, Any] = {}
    for start in nodes.values():
        stack = [start] if start.name not in sizes else []
        while stack:
            raw = stack[-1]
            if raw.name in sizes:
                stack.pop()
                continue
            reads = references(builder.parse(raw), raw.scope, raw.at)
            missing = [name for name in reads if name in nodes and name not in sizes]
            if missing:
                stack.extend(nodes[name] for name in missing)
                continue
            expr = builder.build(raw)
            built[raw.name] = replace(expr)
            sizes[raw.name] = raw.size = expr.size
    return built


class _Cells:
    """Finds cells: the graph's own, then the folders given, then conf/cell. Each file is read once."""

    def __init__(self, local: object, env: Mapping[str, Any], folders: Iterable[str | Path]):
        if local is not None and not isinstance(local, Mapping):
            raise GraphError("cells", f"must be a mapping, not {local!r}", "Write cells: {mine: {out: h, nodes: ...}}.")
        self.local: Mapping[str, Any] = local or {}
        self.env = env
        self.folders = [*map(Path, folders), CONF / "cell"]
        self.found: dict[str, Definition] = {}

    def find(self, name: str, place: str) -> Definition:
        """The cell's definition; GraphError with the cells there are."""
        if name not in self.found:
            self.found[name] = self._look(name, place)
        return self.found[name]

    def _look(self, name: str, place: str) -> Definition:
        if name in self.local:
            spec, path, env = self.local[name], f"cells.{name}.", self.env
        else:
            files = (folder / f"{name}.yaml" for folder in self.folders)
            file = next((file for file in files if file.is_file()), None)
            if file is None:
                there = [*map(str, self.local), *(n for folder in self.folders for n in _names(folder))]
                raise GraphError(place, f"no cell {name!r}", known("Cells", name, dict.fromkeys(there)))
            spec, path, env = read_yaml(file.read_text(encoding="utf-8"), file.name), f"{file.name}:", {}
        if not isinstance(spec, Mapping):
            raise GraphError(path.rstrip(".:"), f"a cell must be a mapping, not {spec!r}", "Write {out: h, nodes: ...}.")
        check_keys(spec, CELL_KEYS, path.rstrip(".:"))
        return Definition(name, spec, path, env)
