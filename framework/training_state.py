"""What a training run is made of and where it is, as its checkpoints hold it."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from framework import checkpoint
from framework.bptt import Windows
from framework.compute import Compute
from framework.data import Dataset
from framework.errors import TrainingError
from framework.logging import Logs
from framework.network import Network
from framework.optim import Schedule
from framework.parallel import ALONE, Group
from framework.parallel_checkpoint import collected, own_part, weights_digest
from framework.parallel_gradients import Gradients
from framework.state import State
from framework.task import Task
from framework.use import Use


@dataclass
class Position:
    """Where a run is: batches of `epoch` done, updates and frames in all, and what evaluations have said."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    frames: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0
    waited: int = 0  # evaluations since the best
    evaluated: int = -1  # update of the last evaluation
    history: list[dict[str, Any]] = field(default_factory=list)


class Training:
    """The parts and the state of a run, saved and loaded; see `Trainer`, which moves it on."""

    def __init__(
        self,
        net: Network,
        dataset: Dataset,
        task: Task,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        folder: Path,
        *,
        epochs: int = 10,
        max_steps: int = 0,
        max_minutes: float = 0.0,
        clip: float = 1.0,
        accumulate: int = 1,
        patience: int = 0,
        rollback: bool = False,
        windows: int = 1,
        dtype: str = "float32",
        weight_noise: float = 0.0,
        ema: float = 0.0,
        eval_steps: int = 0,
        eval_batches: int = 0,
        log_steps: int = 10,
        save_minutes: float = 10.0,
        device: str = "cpu",
        extra: dict[str, str] | None = None,
        group: Group = ALONE,
    ):
        self.net, self.dataset, self.task = net, dataset, task
        self.optimizer, self.schedule, self.folder = optimizer, schedule, folder
        self.epochs, self.max_steps, self.max_minutes = epochs, max_steps, max_minutes
        self.clip, self.accumulate, self.patience = clip, accumulate, patience
        self.eval_steps, self.eval_batches, self.log_steps = eval_steps, eval_batches, log_steps
        self.save_minutes, self.device = save_minutes, device
        self.extra = extra or {}
        self.compute = Compute(net, dtype, weight_noise, ema)
        self.group, self.gradients = group, Gradients(self.compute, group)
        self.windows = Windows(self.compute.runs, windows, device) if windows > 1 else None
        self.rollback = rollback
        self.best: dict[str, Any] | None = None  # what a rollback goes back to
        self.at = Position()
        self.logs: Logs  # given to fit
        self.state: State | None = None  # of the streams, when the dataset carries it
        self.sums: dict[str, Tensor] = {}  # of the task, since the last step record
        self.noticed = self.interrupted = ""  # a signal that this process got, and what the group goes by
        self.earlier = 0.0  # seconds of what was trained before `fit`
        self.due = False  # of a checkpoint inside the epoch
        self.started = self.saved = time.perf_counter()
        self.use = Use(device, group)  # since the last step record, evaluations and checkpoints left out
        self.logged_frames = self.logged_step = 0
        self.norm = 0.0  # of the last update's gradient, before clipping

    def save(self, name: str) -> None:
        """Write a checkpoint into the run's folder, from which a run goes on as if it had not stopped.

        Of a group one process writes, for all of them. Raises TrainingError where it cannot, and where the
        processes' weights are no longer the same.
        """
        with self.use.aside():
            if not all(bool(param.isfinite().all()) for param in self.net.parameters()):
                self._stop("the weights are not finite any more")  # the checkpoint before stays
            self.logs.sync()
            sums = self.group.add_up({key: float(value) for key, value in self.sums.items()})
            parts = self.group.gather(
                {
                    "digest": weights_digest(self.net) if self.group.world > 1 else 0,
                    "state": None if self.state is None else self.state.tensors(),
                    "windows": [] if self.windows is None else self.windows.state(),
                    "random": checkpoint.random_state(),
                }
            )
            if self.group.leads:
                if len({part.pop("digest") for part in parts}) > 1:
                    self._stop("the workers' weights are not the same any more")
                checkpoint.save(
                    self.folder / name,
                    {
                        **self.extra,
                        **self._model(),
                        **collected(parts),
                        "best": self.best,
                        "schedule": self.schedule.state(),
                        "position": dataclasses.asdict(self.at),
                        "sums": {
                            key: torch.tensor(value, dtype=torch.float64) for key, value in sums.items()
                        },
                        "log_bytes": self.logs.position(),
                    },
                )
        self.saved = time.perf_counter()

    def load(self, content: dict[str, Any], place: str) -> None:
        """Go on from a checkpoint's content; `place` names it in the ConfigError of another model's."""
        content = own_part(content, self.group)
        self._put_model(content, place)
        self.best = content.get("best") if self.rollback else None
        self.schedule.load(content["schedule"])
        self.at = Position(**content["position"])
        if self.group.leads:  # they are those of the whole group
            self.sums = {key: value.to(self.device) for key, value in content["sums"].items()}
        if (state := content["state"]) is not None:
            like = self.compute.runs.like  # train.dtype may be another one now
            state = {n: x.to(like) if x.is_floating_point() else x.to(like.device) for n, x in state.items()}
            self.state = self.compute.runs.load_state(state)
        if self.windows is not None:
            self.windows.load(content.get("windows", []))
        checkpoint.put_random_state(content["random"])

    def _model(self) -> dict[str, Any]:
        """The weights, their averages and what the optimizer keeps of them, as a checkpoint holds them."""
        return {
            "weights": checkpoint.weights_of(self.net),
            "averages": self.compute.averages(),
            "optimizer": checkpoint.optimizer_state(self.net, self.optimizer),
        }

    def _put_model(self, content: dict[str, Any], place: str) -> None:
        checkpoint.put_weights(self.net, content["weights"], place)
        self.compute.put_averages(content.get("averages"))
        checkpoint.put_optimizer_state(self.net, self.optimizer, content["optimizer"])

    def _break_streams(self, keep_state: bool = False) -> None:
        """Older steps are not walked back through any more; the carried state stays only if told."""
        if not keep_state:
            self.state = None
        if self.windows is not None:
            self.windows.clear()

    def _stop(self, cause: str) -> NoReturn:
        raise TrainingError(
            f"update {self.at.step + 1} (epoch {self.at.epoch})",
            cause,
            f"{self.folder / 'last.pt'} holds the last good state: resume={self.folder} with a lower "
            "optimizer.lr or train.clip.",
        )
