"""Whatever stands in a graph, the answer is a graph or a GraphError: nothing else escapes."""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from framework.errors import GraphError, GraphWarning
from framework.load import load_graph

CONF = Path(__file__).parents[2] / "conf"
ODD: list[Any] = [
    None, True, 0, -1, 1.5, 10**40, "", " ", "x", "t", "{", "{size}", "{x y}", "l1/c", "x[t-1]", "x[",
    "full(x)", "tanh", "bias()", "a/b/c", "1..3", "l in 1..3", "learned", [], ["x"], [["x"]], [1], {},
    {"size": 3}, {"x": None}, {1: 2}, {"cell": "lstm"}, {"is": "x"}, {"for": 1}, float("nan")]
PIECES = [*"()[]t-+*/,':{}#1.= xh", '"', "**", "\n", "\\", "\x00", "\u00e9", "\u01c0", "full", "bias",
          "concat", "dropout", "lambda", "if"]


def places(thing: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a tree of dicts and lists."""
    keys = list(thing) if isinstance(thing, dict) else range(len(thing)) if isinstance(thing, list) else ()
    found = [(thing, key) for key in keys]
    return found + [place for key in keys for place in places(thing[key])]


def mutate(spec: dict[Any, Any], rng: random.Random) -> dict[Any, Any]:
    spec = copy.deepcopy(spec)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = places(spec)
        if not found:
            break
        box, key = rng.choice(found)
        value = box[key]
        action = rng.randrange(5)
        if action == 0:
            box[key] = copy.deepcopy(rng.choice(ODD))
        elif action == 1 and isinstance(box, dict):
            box[rng.choice([*PIECES[:9], *ODD[:8], "size", "in", "init", "for", "layers"])] = value
        elif action == 2:
            del box[key]
        elif isinstance(value, str):
            at = rng.randint(0, len(value))
            box[key] = value[:at] + rng.choice(PIECES) + value[at + rng.randint(0, 2):]
        else:
            box[key] = copy.deepcopy(rng.choice(ODD))
    return spec


def sources() -> list[dict[Any, Any]]:
    models = [yaml.safe_load(path.read_text()) for path in sorted((CONF / "model").glob("*.yaml"))]
    cells = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CONF / "cell").glob("*.yaml"))}
    for name, cell in cells.items():
        inputs = cell.get("inputs", ["x"])
        node = {"cell": name, "size": 4, "in": dict.fromkeys(inputs, "x"), "layers": 2}
        models.append({"inputs": {"x": {"size": 4}}, "outputs": ["l"], "cells": {name: cell},
                       "nodes": {"l": node}})
    return models


def test_unchanged_they_load():
    for spec in sources():
        load_graph(spec)


@pytest.mark.parametrize("seed", range(20))
def test_only_graph_errors(seed):
    rng = random.Random(seed)
    refused = 0
    for spec in sources() * 4:
        broken = mutate(spec, rng)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GraphWarning)
                str(load_graph(broken))
        except GraphError as error:
            assert error.place and error.cause and error.fix, f"seed {seed}: {error} for {broken}"
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error} for {broken}") from error
    assert refused > 50, f"seed {seed}: only {refused} refused: the changes test little"


@pytest.mark.parametrize("seed", range(10))
def test_only_graph_errors_from_texts(seed):
    rng = random.Random(seed)
    for path in [*(CONF / "model").glob("*.yaml"), *(CONF / "cell").glob("*.yaml")]:
        text = path.read_text()
        for _ in range(3):
            at = rng.randint(0, len(text))
            text = text[:at] + rng.choice(PIECES) + text[at + rng.randint(0, 3):]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GraphWarning)
                load_graph(text + "\n")
        except GraphError:
            pass
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error} for {text!r}") from error
