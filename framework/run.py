"""One run from start to end: check, make the folder, train, test, report. Plain values in, a folder out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from framework import checkpoint, showcase
from framework.assemble import Parts, assemble
from framework.bptt import window_count
from framework.card import Card
from framework.console import Console
from framework.errors import ConfigError
from framework.evaluate import evaluate
from framework.folder import new_folder, take_folder
from framework.logging import JsonLog, Logs, SilentLogs, say, warn
from framework.optim import Schedule, decay_groups, make_optimizer
from framework.parallel import ALONE, Group
from framework.parallel_checkpoint import own_seed
from framework.parallel_data import own_lanes, own_options
from framework.report import Curves, final_summary
from framework.trainer import Trainer
from framework.wandb_log import start_wandb


def run(
    *,
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    cell: Mapping[str, Any] | None,
    choices: Mapping[str, str],
    task: str,
    task_options: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    train: Mapping[str, Any],
    logger: Mapping[str, Any],
    runner: str,
    parallel: str,
    products: str,
    memory: str,
    memory_chunk: int | None,
    together: bool,
    overlap: int | None,
    tuning: str | None,
    seed: int,
    run_dir: Path | None,
    resume_from: Path | None,
    runs: Path,
    stamp: str,
    config_text: str,
    group: Group = ALONE,
    folder_known: Callable[[Path], None] = lambda folder: None,
) -> float | None:
    """Train as told and return the best metric on dev.

    model and cell are graphs, data and optimizer options with a `name`, task_options those of the task, train
    and logger the options of conf/train and conf/logger. choices: names of model, cell and data, for people.
    runs, stamp: where a new folder goes and how its name begins. config_text: kept in the folder and in
    checkpoints. group: processes that train together; `folder_known` is told the folder before it is written.
    Raises GraphError, ConfigError or DataError before anything is written; TrainingError later.
    """
    train, optimizer = dict(train), dict(optimizer)
    content: dict[str, Any] | None = None
    note = ""
    with group.together():
        if resume_from and group.leads:
            content, note = checkpoint.load(resume_from)
    content = group.from_leader(content)
    with group.in_turn():
        parts = assemble(
            model=model,
            data=own_options(data, group),
            cell=cell,
            cell_name=choices.get("cell", ""),
            task=task,
            task_options=task_options,
            runner=runner,
            parallel=parallel,
            products=products,
            memory=memory,
            memory_chunk=memory_chunk,
            together=together,
            overlap=overlap,
            tuning=tuning,
            seed=seed,
            device=group.device(train.pop("device")),
            threads=train.pop("threads"),
        )
    progress_seconds = train.pop("progress_seconds")
    with group.together():
        own = own_lanes(parts.dataset, group)
        total = total_updates(parts, train["epochs"], train["max_steps"], train["accumulate"])
        schedule = Schedule(
            train.pop("schedule"),
            lr=optimizer["lr"],
            warmup=train.pop("warmup"),
            total=total,
            factor=train.pop("plateau_factor"),
            patience=train.pop("plateau_patience"),
            min_lr=train.pop("min_lr"),
            better=parts.task.better,
        )
        groups = decay_groups(parts.net, everything=optimizer.pop("decay_all"))
        torch_optimizer = make_optimizer(params=groups, **optimizer)
        windows = window_count(train.pop("bptt"), parts.dataset, memory_chunk)
    folder = resume_from.parent if resume_from else Path()
    with group.together():
        if not resume_from and group.leads:
            folder = new_folder(runs, stamp, choices, run_dir)
    folder = group.from_leader(folder)
    if group.rank:  # the same weights everywhere; what training draws differs
        torch.manual_seed(own_seed(seed, group.rank))
    with group.together():
        trainer = Trainer(
            parts.net,
            own,
            parts.task,
            torch_optimizer,
            schedule,
            folder,
            device=parts.device,
            windows=windows,
            group=group,
            **train,
        )
        plan = str(trainer.compute.runs.plan)
        trainer.extra = {"config": config_text, "plan": plan}
        if content is not None:
            trainer.load(content, str(resume_from))
            if why := "" if group.restarted else trainer.over():
                raise ConfigError(
                    str(folder), f"this run is over: {why}", f"Give it more: train.{trainer.limit()}=..."
                )
    folder_known(folder)
    logs: Logs = SilentLogs()
    json_log: JsonLog | None = None
    with group.together():
        if group.leads:
            texts = {"config.yaml": config_text, "plan.txt": plan + "\n"}
            json_log = take_folder(folder, texts, content["log_bytes"] if content else 0)
    if json_log is not None:
        if note:
            warn(note)
        console = Console(total, trainer.at.step, progress_seconds)
        say(_opening(parts, choices, folder, trainer.at.step, group.world), sys.stderr)
        wandb = (
            None
            if logger["mode"] == "none"
            else start_wandb(
                logger["mode"],
                folder,
                name=folder.name,
                project=logger["project"],
                config={
                    "choices": dict(choices),
                    "model": dict(model),
                    "data": dict(data),
                    "optimizer": optimizer,
                    "train": train,
                    "seed": seed,
                },
            )
        )
        logs = Logs(json_log, wandb, console, Curves(folder, parts.task.metric), Card(folder))
    try:
        logs.write(_first_record(parts, choices, plan, seed, trainer))
        logs.show("plan", lambda: showcase.of_plan(trainer.compute.runs.plan, folder / "wandb"))
        why = trainer.fit(logs)
        test = {} if trainer.interrupted else _test(trainer, logs, why)
    finally:
        logs.close()
    if group.leads:
        last_words = final_summary(
            folder,
            why,
            test,
            trainer.at.best,
            trainer.at.best_step,
            parts.task.metric,
            trainer.at.seconds,
            generates=hasattr(parts.dataset, "decode"),
            limit="" if trainer.interrupted else trainer.limit(),
        )
        say(last_words, sys.stdout)
    return trainer.at.best


def _test(trainer: Trainer, logs: Logs, why: str) -> dict[str, float]:
    """Metrics on test with the best weights; the last record of a run."""
    best, weights, group = trainer.folder / "best.pt", None, trainer.group
    if group.leads and best.exists():
        content, note = checkpoint.load(best)
        weights = checkpoint.evaluated_weights(content)
        if note:
            warn(note)
    weights = group.from_leader(weights)
    if weights is not None:
        checkpoint.put_weights(trainer.net, weights, str(best))
    with trainer.compute.evaluated(average=weights is None) as net:
        data, task = trainer.dataset, trainer.task
        test = evaluate(net, data, task, "test", device=trainer.device, group=group)
        if group.world == 1:  # others hold lanes of the data alone
            place = trainer.folder / "wandb"
            logs.show("test", lambda: showcase.of_test(net, data, task, place, trainer.device))
    logs.write(
        {
            "kind": "end",
            "split": "test",
            "step": trainer.at.step,
            "why": why,
            **test,
            "best": trainer.at.best,
            "best_step": trainer.at.best_step,
            "seconds": trainer.at.seconds,
        }
    )
    return test


def _first_record(
    parts: Parts, choices: Mapping[str, str], plan: str, seed: int, trainer: Trainer
) -> dict[str, Any]:
    """What a run is: everything that one may want to know of it years later."""
    return {
        "kind": "resume" if trainer.at.step else "start",
        "step": trainer.at.step,
        "choices": dict(choices),
        "task": parts.task.name,
        "metric": parts.task.metric,
        "better": parts.task.better,
        "data": parts.dataset.describe(),
        "weights": weight_count(parts),
        "plan": plan,
        "predicted_bytes_per_frame": trainer.compute.runs.plan.activation_bytes(1, 1),  # for the backward
        "seed": seed,
        "device": parts.device,
        "threads": torch.get_num_threads(),
        "workers": trainer.group.world,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
    }


def _opening(parts: Parts, choices: Mapping[str, str], folder: Path, step: int, workers: int) -> str:
    model = " ".join(filter(None, (choices.get("model"), choices.get("cell"))))
    begin = f"resuming {folder} at update {step}" if step else f"run {folder}"
    device = f"{workers} workers, the first on {parts.device}" if workers > 1 else parts.device
    return (
        f"{begin}\n{model}: {weight_count(parts):,} weights, task {parts.task.name}, on {device}\n"
        f"{parts.dataset.describe()}"
    )


def weight_count(parts: Parts) -> int:
    """Number of trainable numbers."""
    return sum(view.numel() for view in parts.net.weights().values())


def total_updates(parts: Parts, epochs: int, max_steps: int, accumulate: int) -> int:
    """Updates that a run will make, as far as it is limited by them (0: not known). Exact but for streams."""
    batches = parts.dataset.count("train", 0)
    if not batches:
        raise ConfigError(f"data.{parts.dataset.name}", "its train split is empty", "Give it more data.")
    limits = [each for each in (epochs * -(-batches // accumulate), max_steps) if each]
    return min(limits, default=0)
