"""Print the plan of a network: what runs for all steps at once, what stays in a loop, and why.

    python scripts/show_plan.py model=lstm_variant [size=256 | model.params.size=256 ...] [cell=NAME]
                                [parallel=none] [runner=NAME] [products=triton] [memory=recompute] [--code]
                                [overlap=4] [together=false]
                                [device=cuda [chip=sm_90]] [dtype=bf16] [--svg FILE] [--png FILE]
                                [cost=true [steps=1024] [lanes=16] [passes=forward] [threads=1]]

model: a name of conf/model or a YAML file. cell: for a model with the param `cell` (model=stack), a name of
conf/cell or a YAML file. parallel=none plans everything step by step. device=cuda shows what a GPU would get,
also where there is none. cost=true adds what each step should take, what bounds it, and what other runners
would take: predicted, for a call over [steps, lanes], on a CPU with so many threads. Any other KEY=VALUE is a
param of the model; input={vocab: 96} and classes=96 take the place of what train.py gets from the data.
How to read the plan: docs/planner.md.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

import yaml

from framework import draw
from framework.cells import CONF, yaml_names
from framework.compose import with_cell
from framework.cost import PASSES, Passes
from framework.cost_text import cost_text
from framework.errors import ConfigError, GraphWarning
from framework.graph import Graph
from framework.load import load_graph
from framework.machine import machine
from framework.names import known
from framework.plan import Memory, Parallel, Plan, make_plan
from framework.plan_code import code
from framework.script import guarded
from framework.yamlfile import read_yaml

OPTIONS = {
    "model": "", "cell": "", "parallel": "intra", "runner": "auto", "products": "auto", "memory": "save",
    "device": "cpu", "chip": "", "dtype": "fp32", "cost": "false", "steps": "1024", "lanes": "16",
    "passes": "forward+backward", "threads": "1", "together": "true", "overlap": "null",
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are one line like all others."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for a wrong argument."""
        raise ConfigError("command line", message, "See show_plan.py --help.")


def parser() -> Parser:
    """What the command line takes."""
    p = Parser(
        usage=argparse.SUPPRESS, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="model=..., cell=..., params of a model")
    p.add_argument("--code", action="store_true", help="also print the source that runners make")
    p.add_argument("--svg", type=Path, metavar="FILE", help="draw the graph (needs graphviz)")
    p.add_argument("--png", type=Path, metavar="FILE", help="draw the graph (needs graphviz)")
    return p


def settings(
    given: Sequence[str], defaults: Mapping[str, str] = OPTIONS
) -> tuple[dict[str, str], dict[str, Any]]:
    """KEY=VALUE arguments as options (those of `defaults`) and params of the model, in train.py's spelling.

    Raises ConfigError.
    """
    options, params = dict(defaults), dict[str, Any]()
    for each in given:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise ConfigError(each or "''", "there is no value", "Options look like model=lstm or size=256.")
        if key in defaults:
            options[key] = text
            continue
        if key.startswith("model.") and not key.startswith("model.params."):
            raise ConfigError(key, "only params of a model can be changed", "Write model.params.size=256.")
        *path, last = key.removeprefix("model.params.").split(".")
        inside = params
        for part in path:
            inside[part] = inside = inside[part] if isinstance(inside.get(part), dict) else {}
        inside[last] = value(key, text)
    return options, params


def value(key: str, text: str) -> Any:
    """A number, a text or a mapping; {vocab:96} may stand without blanks, as on train.py's command line."""
    try:
        return yaml.safe_load(re.sub(r":(?=\S)", ": ", text) if text.startswith("{") else text)
    except yaml.YAMLError:
        raise ConfigError(key, f"'{text}' is no value", "Give a number, a name, or {vocab: 96}.") from None


def read(group: str, name: str) -> tuple[str, Mapping[str, Any]]:
    """(name, content) of a model or cell: a file, or a name of conf/. Raises ConfigError and GraphError."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = CONF / group / f"{name}.yaml"
    if not path.is_file():
        there = yaml_names(CONF / group)
        raise ConfigError(group, f"there is no '{name}'", known(f"Choices of {group}", name, there))
    try:
        return path.stem, read_yaml(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(group, f"cannot read {path}: {error}", "Give a text file in UTF-8.") from None


def graph(model: str, cell: str, params: Mapping[str, Any]) -> Graph:
    """The graph of a model with its params, and its cell where one is chosen; warnings go to stderr."""
    if not model:
        there = ", ".join(yaml_names(CONF / "model"))
        raise ConfigError("model", "which one is not said", f"Write model=NAME or model=FILE.yaml: {there}.")
    name, spec = read("model", model)
    given = dict(params)
    if cell:
        spec, chosen = with_cell(spec, *read("cell", cell))
        given |= chosen
    takes = spec.get("params") or {}
    for key in given if isinstance(takes, Mapping) else ():
        if key not in takes:
            raise ConfigError(key, f"model={name} has no such param", known("Its params", key, takes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GraphWarning)  # shown below, one line each
        made = load_graph(spec, **given)
    for note in made.warnings:
        print(f"warning: {note}", file=sys.stderr)
    return made


def cost(plan: Plan, options: Mapping[str, str]) -> str:
    """The predicted times of a plan. Raises ConfigError for options that are none."""
    numbers = {}
    for key in ("steps", "lanes", "threads"):
        text = options[key]
        if not text.isdecimal() or not int(text):
            raise ConfigError(key, f"'{text}' is no number of {key}", f"Write {key}={OPTIONS[key]}, say.")
        numbers[key] = int(text)
    if options["passes"] not in PASSES:
        raise ConfigError(
            "passes", f"no '{options['passes']}'", known("There are", options["passes"], PASSES)
        )
    return cost_text(plan, passes=cast(Passes, options["passes"]), **numbers)


def main(arguments: Sequence[str]) -> None:
    """Print and draw as the arguments say. Raises UserError."""
    asked = parser().parse_args(arguments)
    options, params = settings(asked.settings)
    made = graph(options["model"], options["cell"], params)
    where = machine(options["device"], options["chip"], options["dtype"])
    parallel = cast(Parallel, options["parallel"])
    for key in ("cost", "together"):
        if options[key] not in ("true", "false"):
            raise ConfigError(key, f"'{options[key]}' is neither true nor false", f"Write {key}=true.")
    parts = options["overlap"]
    if parts != "null" and not parts.isdecimal():
        raise ConfigError("overlap", f"'{parts}' is no number of parts", "Write overlap=4, say, or null.")
    plan = make_plan(
        made, parallel, options["runner"], where, options["products"], cast(Memory, options["memory"]),
        together=options["together"] == "true", overlap=None if parts == "null" else int(parts),
    )  # fmt: skip
    print(plan)
    if options["cost"] == "true":
        print()
        print(cost(plan, options))
    if asked.code:
        print()
        print(code(plan), end="")
    for path, form in ((asked.svg, "svg"), (asked.png, "png")):
        if path is not None:
            draw.render(draw.dot_text(plan), path, form)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
    sys.exit(guarded(main, sys.argv[1:]))
