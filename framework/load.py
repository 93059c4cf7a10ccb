"""YAML (or a dict) -> Graph. The only entry to the language: `load_graph`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framework.build import Builder
from framework.cells import CONF, CellLibrary, yaml_names
from framework.errors import GraphError, GraphWarning
from framework.expand import Expander, RawNode, Surroundings
from framework.expr import Expr
from framework.fields import read_size
from framework.graph import Graph, Input, Node, Weight
from framework.names import check_keys, check_name, known
from framework.pause import no_garbage_collection
from framework.reading import Reader
from framework.scope import Leaf, Scope
from framework.template import fill, params_env
from framework.yamlfile import read_yaml

GRAPH_KEYS = ("inputs", "nodes", "outputs", "cells", "init", "params")


def load_graph(source: str | Path | Mapping[str, Any], /, *, cell_dirs: Iterable[str | Path] = (),
               **params: Any) -> Graph:
    """Read a graph from a YAML file, a YAML text (with a line break in it) or a dict of the same form.

    `params` override the graph's own; `cell_dirs` are searched for cells before conf/cell. A name without a
    suffix, such as "blstm", is a model of conf/model. Raises GraphError with the YAML path, the cause and
    a fix; warns with GraphWarning about an input that nobody reads. The language: docs/language.md.
    """
    with no_garbage_collection():
        graph = _load(_read(source), cell_dirs, params)
    for note in graph.warnings:
        warnings.warn(note, GraphWarning, stacklevel=2)
    return graph


def _load(spec: Mapping[str, Any], cell_dirs: Iterable[str | Path], params: Mapping[str, Any]) -> Graph:
    check_keys(spec, GRAPH_KEYS, "")
    env = params_env(spec.get("params"), params, {}, "", "params")
    scope = Scope("", "graph")
    inputs = _inputs(spec.get("inputs"), env, scope)
    expander = Expander(CellLibrary(spec.get("cells"), env, cell_dirs).find)
    expander.expand(Surroundings(scope, env, None, "", ()), spec.get("nodes"), spec.get("init"))
    for inside, name, alias in expander.aliases:
        inside.find(name, alias.place)  # a wrong `in:` is an error even where the cell never reads it
    _apply_init(expander)
    outputs = _outputs(fill(spec.get("outputs"), env, "outputs"), scope, inputs)
    nodes, weights, read = _build(expander.nodes, inputs)
    notes = tuple(f"inputs.{name}: nobody reads it. Use it in a node, or remove it."
                  for name in inputs if name not in read)
    return Graph(inputs, nodes, outputs, weights, notes)


def _read(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    if isinstance(source, str) and "\n" in source:
        return read_yaml(source, "graph")
    path = Path(source)
    if not path.suffix and len(path.parts) == 1 and not path.is_file():
        path = CONF / "model" / f"{source}.yaml"
    if not path.is_file():
        raise GraphError(str(source), "no such file",
                         known("Shared models", str(source), yaml_names(CONF / "model")))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise GraphError(str(source), "is no text in UTF-8", "A graph is a YAML file.") from None
    return read_yaml(text, path.name)


def _inputs(spec: object, env: Mapping[str, Any], scope: Scope) -> dict[str, Input]:
    if not isinstance(spec, Mapping) or not spec:
        raise GraphError("inputs", f"must be a mapping, not {spec!r}" if spec else "no inputs",
                         "Write inputs: {x: {size: 80}}.")
    inputs = {}
    for key, entry in spec.items():
        at = f"inputs.{key}"
        name, entry = check_name(fill(key, env, at), at, "input"), fill(entry, env, at)
        fix = "Write {size: 80} for vectors or {vocab: 96} for indices."
        if not isinstance(entry, Mapping):
            raise GraphError(at, f"{entry!r} is no input", fix)
        check_keys(entry, ("size", "vocab"), at)
        if len(entry) != 1:
            raise GraphError(at, "needs one of size and vocab", fix)
        (kind, number), = entry.items()
        number = read_size(number, f"{at}.{kind}")
        inputs[name] = Input(name, number) if kind == "size" else Input(name, 0, number)
        scope.add(name, Leaf(name, is_node=False), at)
    return inputs


def _outputs(spec: object, scope: Scope, inputs: Mapping[str, Input]) -> dict[str, str]:
    names = [spec] if isinstance(spec, str) else spec
    if not isinstance(names, (list, tuple)) or not names:
        raise GraphError("outputs", f"must be a list of nodes, not {spec!r}" if names else "no outputs",
                         "Write outputs: [logits].")
    outputs: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str):
            raise GraphError("outputs", f"{name!r} is no name of a node", "Write outputs: [logits].")
        if name in outputs:
            raise GraphError("outputs", f"{name!r} is there twice", "List each node once.")
        outputs[name], _ = scope.find(name, "outputs")
        if outputs[name] in inputs:
            raise GraphError("outputs", f"{name!r} is an input", f'A copy of it is a node: {{is: "{name}"}}.')
    return outputs


def _apply_init(expander: Expander) -> None:
    """Set start values; those of inner cells stand first in the list, so the outer ones win."""
    for setting in expander.settings:
        full, _ = setting.scope.find(setting.path, setting.place)
        if full not in expander.nodes:
            raise GraphError(setting.place, f"{setting.path!r} is an input, whose past is zero",
                             f'Make a node {{is: "{setting.path}"}} and set its start value.')
        expander.nodes[full].init = setting.value


def _build(raw_nodes: Mapping[str, RawNode], inputs: Mapping[str, Input]
           ) -> tuple[dict[str, Node], dict[str, Weight], set[str]]:
    """All nodes in file order, their weights, and the names that are read."""
    sizes = {raw.name: raw.size for raw in raw_nodes.values() if raw.size is not None}
    builder = Builder(inputs, sizes)
    inferred = _infer_sizes(raw_nodes, builder, sizes)
    nodes = {}
    for raw in raw_nodes.values():
        expr = inferred.get(raw.name) or builder.build(raw)
        nodes[raw.name] = Node(raw.name, sizes[raw.name], expr, raw.init, raw.where)
        if raw.init == "learned":
            name = f"{raw.name}:init"
            builder.weights[name] = Weight(name, (sizes[raw.name],), "init")
    return nodes, builder.weights, builder.read


def _infer_sizes(nodes: Mapping[str, RawNode], builder: Builder, sizes: dict[str, int]) -> dict[str, Expr]:
    """Build the nodes without a size (joined inputs, both directions), each after those it reads."""
    built: dict[str, Expr] = {}
    for start in nodes.values():
        stack = [] if start.name in sizes else [start]
        waiting: set[str] = set()  # names on the stack whose sources were asked for
        while stack:
            raw = stack[-1]
            if raw.name not in sizes:
                reader = Reader(raw)
                reads = reader.references(reader.tree())
                missing = [name for name in reads if name in nodes and name not in sizes]
                if missing:
                    if raw.name in waiting:
                        raise GraphError(raw.at, "its size depends on itself", "Give it a node with a size.")
                    waiting.add(raw.name)
                    stack.extend(nodes[name] for name in missing)
                    continue
                built[raw.name] = expr = builder.build(raw)
                sizes[raw.name] = expr.size
            stack.pop()
    return built
