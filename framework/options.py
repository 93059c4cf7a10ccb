"""The options of `train.py` as dataclasses: names, types, defaults. The meaning of each: conf/."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("model", "cell", "data", "task", "optimizer", "train", "logger", "experiment", "sweep")


@dataclass
class TaskConfig:
    """What is learned; conf/task."""

    name: str = "auto"
    beam: int = 0
    loss: str = "mse"
    quantiles: list[float] = field(default_factory=lambda: [0.1, 0.5, 0.9])


@dataclass
class Adam:
    """Options of adam and adamw; conf/optimizer."""

    name: str = MISSING
    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = False


@dataclass
class SGD:
    """Options of sgd; conf/optimizer."""

    name: str = MISSING
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_all: bool = False


@dataclass
class RMSprop:
    """Options of rmsprop; conf/optimizer."""

    name: str = MISSING
    lr: float = 1e-3
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    weight_decay: float = 0.0
    decay_all: bool = False


@dataclass
class Adadelta:
    """Options of adadelta; conf/optimizer."""

    name: str = MISSING
    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0
    decay_all: bool = False


OPTIMIZERS: dict[str, type] = {
    "adam": Adam,
    "adamw": Adam,
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adadelta": Adadelta,
}


@dataclass
class TrainConfig:
    """How long and how; every option with its meaning in conf/train/default.yaml."""

    epochs: int = 10
    max_steps: int = 0
    max_minutes: float = 0.0
    clip: float = 1.0
    accumulate: int = 1
    bptt: int = 0
    dtype: str = "float32"
    weight_noise: float = 0.0
    ema: float = 0.0
    patience: int = 0
    schedule: str = "plateau"
    warmup: int = 0
    plateau_factor: float = 0.5
    plateau_patience: int = 1
    rollback: bool = False
    min_lr: float = 0.0
    eval_steps: int = 0
    eval_batches: int = 0
    log_steps: int = 10
    save_minutes: float = 5.0
    progress_seconds: float = 10.0
    device: str = "auto"
    threads: int = 0
    gpus: int = 0
    workers: int = 0
    restarts: int = 3


@dataclass
class LoggerConfig:
    """Weights & Biases beside metrics.jsonl; conf/logger."""

    mode: str = "auto"
    project: str = "intrastream"


@dataclass
class Config:
    """Everything `train.py` knows. It fills `choices`: the names behind `model`, `cell` and `data`."""

    model: Any = None
    cell: Any = None
    data: Any = None
    task: TaskConfig = field(default_factory=TaskConfig)
    optimizer: Any = None
    train: TrainConfig = field(default_factory=TrainConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    runner: str = "auto"
    parallel: str = "intra"
    products: str = "auto"
    memory: str = "save"
    memory_chunk: int | None = None
    together: bool = True
    overlap: int | None = None
    tuning: str | None = None
    seed: int = 1
    run_dir: str | None = None
    resume: str | None = None
    choices: dict[str, str] = field(default_factory=dict)


def options(group: str) -> list[str]:
    """Names of the files of a config group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
