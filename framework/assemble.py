"""From plain values to the parts of a run: dataset, graph, network, task. For train.py and the scripts."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from framework.compose import with_cell
from framework.data import Dataset, carries, make_dataset
from framework.errors import ConfigError, GraphWarning
from framework.graph import Graph
from framework.load import load_graph
from framework.logging import warn
from framework.network import Network
from framework.plan import Memory, Parallel
from framework.runners.hoisted_products import products_by
from framework.task import Task, make_task
from framework.tuning import use as use_tuning


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    dataset: Dataset
    graph: Graph
    net: Network
    task: Task
    device: str


def assemble(
    *,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    cell: Mapping[str, Any] | None = None,
    cell_name: str = "",
    task: str = "auto",
    task_options: Mapping[str, Any] | None = None,
    runner: str = "auto",
    parallel: str = "intra",
    products: str = "auto",
    memory: str = "save",
    memory_chunk: int | None = None,
    together: bool = True,
    overlap: int | None = None,
    tuning: str | None = None,
    seed: int = 1,
    device: str = "cpu",
    threads: int = 0,
) -> Parts:
    """Make the parts; nothing is written anywhere but in caches.

    model, cell: graphs as mappings, as in conf/model and conf/cell; data: options of a dataset and its
    `name`; seed: of the weights; tuning: a file of scripts/tune.py, else the user's. Raises GraphError,
    ConfigError or DataError.
    """
    device = find_device(device)
    use_tuning(tuning)
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # saturated gates make denormals, which slow a CPU many times
    data = dict(data)
    dataset = make_dataset(data.pop("name"), **data)
    made = make_task(task, dataset, task_options)
    graph = model_graph(model, dataset, cell, cell_name, made.outputs)
    random.seed(seed)
    torch.manual_seed(seed)
    if parallel not in ("intra", "none"):
        raise ConfigError("parallel", f"no '{parallel}'", "There are: intra, none.")
    how = cast(Parallel, parallel), products, cast(Memory, memory)  # the memory is checked there
    try:
        net = Network(graph, runner, *how, memory_chunk, together, overlap).to(device)
    except ConfigError as error:
        if error.place != "chunk":
            raise
        raise ConfigError("memory_chunk", error.cause, error.fix) from error  # as train.py calls it
    products_by(net.plan.products.by, net.like.device)
    for loop in net.loops:
        loop.check_device(device.split(":")[0])
    if made.name == "characters" and net.plan.looks_ahead:
        cause = "it reads later characters (t+1 or a backward loop), and the task is to predict the next one"
        raise ConfigError("model", cause, "Take a model that only looks back: lstm, gru, stack.")
    if net.plan.looks_ahead and (dataset.carry or carries(dataset, "dev")):
        cause = "it reads later steps (t+1 or a backward loop), and a chunk of a stream ends before them"
        raise ConfigError("model", cause, "Take a model that looks back, or data.streams=0 for utterances.")
    return Parts(dataset, graph, net, made, device)


def model_graph(
    model: Mapping[str, Any],
    dataset: Dataset,
    cell: Mapping[str, Any] | None = None,
    cell_name: str = "",
    outputs: int = 0,
) -> Graph:
    """The graph of a model, its params `input` and `classes` (and `cell`, when one is given) filled.

    outputs: units that the task needs (0: one per class).

    Raises ConfigError when the model takes no cell, or does not fit the dataset; GraphError for the rest.
    """
    model = dict(model)
    params = model.get("params") or {}
    given: dict[str, Any] = {
        key: value
        for key, value in (("input", dict(dataset.input)), ("classes", outputs or dataset.classes))
        if key in params
    }
    if cell is not None:
        model, chosen = with_cell(model, cell_name, cell)
        given |= chosen
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GraphWarning)  # shown below, one line each
        graph = load_graph(model, **given)
    for note in graph.warnings:
        warn(note)
    _check_fit(graph, dataset, outputs or dataset.classes)
    return graph


def _check_fit(graph: Graph, dataset: Dataset, outputs: int) -> None:
    """One input of the data's size, and an output with as many units as the task needs."""
    if len(graph.inputs) != 1:
        raise ConfigError(
            "model.inputs",
            f"train.py feeds one input, this model has {', '.join(graph.inputs)}",
            "Use framework.Network for several inputs.",
        )
    (source,) = graph.inputs.values()
    wanted = dataset.input
    if (source.vocab, source.size) != (wanted.get("vocab"), wanted.get("size", 0)):
        has = f"{{vocab: {source.vocab}}}" if source.vocab else f"{{size: {source.size}}}"
        gives = ", ".join(f"{key}: {value}" for key, value in wanted.items())
        raise ConfigError(
            f"model.inputs.{source.name}",
            f"it is {has}, data={dataset.name} gives {{{gives}}}",
            'Write the input as "{input}" and give the model `params: {input: {size: 1}}`.',
        )
    if len(graph.outputs) > 1 and "logits" not in graph.outputs:
        raise ConfigError(
            "model.outputs", f"which of {', '.join(graph.outputs)} is to be trained", "Call it logits."
        )
    name = "logits" if "logits" in graph.outputs else next(iter(graph.outputs))
    node = graph.nodes.get(graph.outputs[name])
    size = node.size if node else source.size
    if size != outputs:
        raise ConfigError(
            f"model.outputs.{name}",
            f"it has {size} units, data={dataset.name} with this task needs {outputs}",
            'Write its size as "{classes}" and give the model `params: {classes: 1}`.',
        )


def find_device(name: str) -> str:
    """The torch device for "auto" (cuda when there is one), or `name` itself.

    Raises ConfigError when there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(
            "train.device", f"there is no kind of device '{name}'", "Use auto, cpu or cuda."
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device", "torch sees no CUDA device here", "Use train.device=cpu or auto.")
    if kind not in ("cpu", "cuda"):
        raise ConfigError("train.device", f"'{name}' was never tried", "Use auto, cpu or cuda.")
    return name


def check_writable(folder: Path) -> None:
    """Raise ConfigError unless a run can be written under `folder`, or under the first parent that exists."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(
            "run_dir", f"nothing can be written in {place}", "Give another one: run_dir=FOLDER."
        )
