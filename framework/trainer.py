"""The training loop: update, evaluate, save, and go on exactly where a killed run stopped.

Everything that decides the next number lies in `Position`, the weights, the optimizer, the schedule, the
random generators and the carried state; a checkpoint holds all of it. The clock decides only when to print,
to save and to stop, never what is computed.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import NoReturn

import torch
from torch import nn

from framework import checkpoint
from framework.data import Batch
from framework.evaluate import add, batch_to, evaluate, forward
from framework.interrupt import noted
from framework.logging import Logs, peak_bytes
from framework.task import better
from framework.training_state import Training
from framework.words import counted


class Trainer(Training):
    """Trains `net` on `dataset`; `folder` gets best.pt and last.pt.

    epochs, max_steps, max_minutes: whichever is reached first ends the run (0: no limit). clip: largest norm
    of the whole gradient (0: none). accumulate: batches per update, weighted by their scored frames, so that
    the update equals one large batch. patience: evaluations without a better metric before the run stops
    (0: never). eval_steps: updates between evaluations (0: at the end of each epoch); eval_batches: batches
    of dev looked at (0: all). rollback: where the schedule lowers the rate, go back to the best weights.
    windows: h / h' of BPTT(h; h'), where h' is the batches' length (1: truncated at each batch); dtype,
    weight_noise, ema: see `Compute`. extra: what checkpoints also carry (config, plan).

    group: processes that train together. `dataset` then holds this one's lanes; whatever decides is added up
    over the group, so that all do the same, and one writes the folder.
    """

    def fit(self, logs: Logs) -> str:
        """Train until the run is over, and return why. The last state is saved, also after an interruption.

        Raises TrainingError when the loss is not finite: last.pt then holds the state before that update.
        """
        self.logs = logs
        self.started = self.saved = time.perf_counter()
        self.use.restart()
        self.logged_frames, self.logged_step = self.at.frames, self.at.step
        self.earlier = self.at.seconds
        before = self.at.step, self.at.evaluated
        if self.at.step == 0:
            self.save("last.pt")  # a run that is killed before its first checkpoint can be resumed, too
        with noted(self._interrupt):
            while not (why := self.over()):
                count = self.dataset.count("train", self.at.epoch)
                for batches in self._groups():
                    self.update(batches)
                    epoch_over = self.at.batch >= count
                    if epoch_over:
                        self.at.epoch, self.at.batch = self.at.epoch + 1, 0
                        self._break_streams()
                    if self.at.step % self.eval_steps == 0 if self.eval_steps else epoch_over:
                        self.evaluate()
                    if epoch_over or self.due:
                        self.save("last.pt")
                    if why := self.over():
                        break
            if not self.interrupted and self.at.evaluated < self.at.step:
                self.evaluate()
            if (self.at.step, self.at.evaluated) != before:  # a run that was over brings nothing new
                self.save("last.pt")
            if self.at.step > self.logged_step:
                # Behind the checkpoint, which keeps the sums: a run that goes on cuts this record off.
                self._log_step()
        return why

    def update(self, batches: list[Batch]) -> None:
        """One update of the weights: the mean loss over the scored frames of all `batches`."""
        net = self.compute.runs
        net.train()
        net.profile = (self.at.step + 1) % self.log_steps == 0
        before = checkpoint.random_state(), self.state, self.windows and self.windows.held()
        frames = sum(int(batch.lengths.sum()) for batch in batches)
        scored, frames = self.group.sum(sum(self.task.count(batch) for batch in batches), frames)
        loss = torch.zeros((), device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        sums = []
        for number, batch in enumerate(batches, 1):
            self.compute.prepare()
            if not len(batch.lengths):
                continue  # the lanes of a small batch are all with other processes
            if self.windows is None:
                y, state = forward(net, batch, self.state, self.device)
            else:
                y, state = self.windows.forward(batch, self.state)
            sums.append(self.task.measure(y, batch_to(batch, self.device)))
            part = sums[-1]["loss"] / max(scored, 1)
            if number == len(batches) and self.windows is None:
                self.gradients.overlap()
            part.backward() if self.windows is None else self.windows.backward(part)
            self.compute.collect()
            loss += part.detach()
            self.state = state.detach() if self.dataset.carry else None
        self.gradients.finish()
        limit = self.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.net.parameters(), limit))
        total = self._agree(float(loss))
        if not math.isfinite(norm) or not math.isfinite(total):
            self._stop_at_nan(total, norm, before, batches)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.at.step)
        self.optimizer.step()

        self.at.step += 1
        self.compute.updated(self.at.step)
        self.at.batch += len(batches)
        self.at.frames += int(frames)
        for part in sums:
            add(self.sums, part)
        self.norm = norm
        if self.at.step % self.log_steps == 0:
            self._log_step()
        self.logs.tick(self.at.step)

    def evaluate(self) -> dict[str, float]:
        """Metrics on dev: they go to the log, the schedule, and decide what is best."""
        # Time spent here is not the updates': frames/s would fall at every evaluation.
        with self.use.aside():
            begun = time.perf_counter()
            with self.compute.evaluated() as net:
                metrics = evaluate(
                    net,
                    self.dataset,
                    self.task,
                    "dev",
                    device=self.device,
                    limit=self.eval_batches,
                    group=self.group,
                )
            value, at = metrics[self.task.metric], self.at
            lower = self.schedule.evaluated(value)
            record = {
                "kind": "eval",
                "split": "dev",
                "step": at.step,
                "epoch": at.epoch,
                **metrics,
                "seconds": time.perf_counter() - begun,
            }
            improved = better(self.task, value, at.best)
            if improved:
                at.best, at.best_step, at.waited = value, at.step, 0
            else:
                at.waited += 1
            at.evaluated = at.step
            at.history.append({key: record[key] for key in ("step", "epoch", *metrics)})
            self.logs.write(record | {"best": improved} | ({"lr_lowered": True} if lower else {}))
            if improved:
                if self.rollback:
                    self.best = self._model()
                self.save("best.pt")
            if lower and self.rollback and self.best is not None:
                self._put_model(self.best, "the best weights")
                self._break_streams(keep_state=True)
        return metrics

    def _groups(self) -> Iterator[list[Batch]]:
        """The rest of this epoch's batches, `accumulate` at a time."""
        batches = self.dataset.batches("train", self.at.epoch, self.at.batch)
        while group := list(itertools.islice(batches, self.accumulate)):
            yield group

    def over(self) -> str:
        """Why the run is over, or ""."""
        if self.interrupted:
            return self.interrupted
        return {
            "": "",
            "epochs": f"{counted(self.epochs, 'epoch')} done",
            "max_steps": f"{counted(self.max_steps, 'update')} done",
            "max_minutes": f"{self.max_minutes:g} minutes are over",
            "patience": f"no better {self.task.metric} in {counted(self.patience, 'evaluation')}",
        }[self.limit()]

    def limit(self) -> str:
        """The option of conf/train that says that the run is over, e.g. max_steps; "" while none does."""
        at = self.at
        done = {
            "epochs": at.epoch, "max_steps": at.step, "max_minutes": at.seconds / 60, "patience": at.waited
        }  # fmt: skip
        return next((each for each, now in done.items() if 0 < getattr(self, each) <= now), "")

    def _log_step(self) -> None:
        """A step record: means since the last one, and the times inside an update where they were taken."""
        sums = self.group.add_up({key: float(value) for key, value in self.sums.items()})  # waits for a GPU
        seconds, steps = max(self.use.seconds(), 1e-9), self.at.step - self.logged_step
        taken = self.at.step % self.log_steps == 0
        timing = (getattr(self.compute.runs, "timing", None) or {}) if taken else {}
        record = {
            "kind": "step",
            "step": self.at.step,
            "epoch": self.at.epoch,
            **self.task.metrics(sums),
            "grad_norm": self.norm,
            "lr": self.optimizer.param_groups[0]["lr"],
            "frames_per_s": (self.at.frames - self.logged_frames) / seconds,
            "step_s": seconds / steps,
            **{f"{part}_s": timing[part] for part in ("hoisted", "loop") if part in timing},
            **self.use.shares(),
            "peak_bytes": peak_bytes(self.device),
        }
        self.use.restart()
        self.logs.write(record)
        self.sums = {}
        self.logged_frames, self.logged_step = self.at.frames, self.at.step

    def _agree(self, loss: float) -> float:
        """The loss of the whole group; and what signals and the clock say becomes the same for all."""
        now = time.perf_counter()
        due = bool(self.save_minutes) and now - self.saved >= 60 * self.save_minutes
        mine = (self.earlier + now - self.started, due) if self.group.leads else (0.0, 0.0)
        loss, noticed, self.at.seconds, due = self.group.sum(loss, bool(self.noticed), *mine)
        self.due = due > 0
        if noticed:
            self.interrupted = self.noticed or "interrupted in another process"
        return loss

    def _stop_at_nan(self, loss: float, norm: float, before: tuple, batches: list[Batch]) -> NoReturn:
        """End the run. The weights are still those before this update: they are saved, if they are good."""
        random, self.state, windows = before
        checkpoint.put_random_state(random)
        if self.windows is not None:
            self.windows.put_back(windows)
        self.save("last.pt")
        names = ", ".join(itertools.islice((name for batch in batches for name in batch.ids), 4))
        what = "loss" if not math.isfinite(loss) else "gradient"
        self._stop(f"the {what} is not finite (loss {loss:g}, gradient norm {norm:g}; batch of {names}, ...)")

    def _interrupt(self, name: str) -> None:
        """Ctrl-C and SIGTERM end the run after the current update; a second one at once."""
        self.noticed = f"interrupted by {name}"
        if self.group.world == 1:  # others first hear of it in the next update
            self.interrupted = self.noticed
