"""Train a network that is written as a graph: `python train.py model=lstm_variant data=synth_speech`.

Options, groups and examples: `python train.py --help`, docs/training.md.
"""

from __future__ import annotations

import datetime
import os
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from framework import config, parallel_run, sweep_state
from framework.errors import TrainingError, UserError
from framework.mistakes import check_arguments, explain
from framework.options import CONF
from framework.parallel_place import Ended
from framework.script import tell

RUNS = Path("runs")
STAMP = f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
failures: list[UserError] = []  # of this command


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose(cfg: DictConfig) -> float | None:
    """Run with the config that Hydra has put together; returns the best dev metric, for launchers."""
    chosen = HydraConfig.get()
    groups = ("model", "cell", "data")
    cfg.choices = {group: name for group in groups if (name := chosen.runtime.choices[group])}
    if chosen.mode == RunMode.MULTIRUN:  # a job that a launcher of Hydra runs, perhaps again
        checkpoint = Path(cfg.run_dir) / "last.pt"
        return start(config.saved_config(checkpoint, []), checkpoint) if checkpoint.exists() else start(cfg)
    try:
        return start(cfg)
    except UserError as error:  # raised through Hydra it would print Hydra's own lines, too
        tell(error)
        failures.append(error)
        return None
    except Ended as error:  # of several processes one tells the user why
        failures.append(TrainingError("train.workers", str(error)))
        return None


def start(cfg: DictConfig, resume_from: Path | None = None) -> float | None:
    """Check everything, make the folder, train and report; `resume_from` is a checkpoint to go on from."""
    values = config.checked_run(cfg)
    how = {key: values["train"].pop(key) for key in ("workers", "gpus", "restarts")}
    values |= {"resume_from": resume_from, "runs": RUNS, "stamp": STAMP}
    return parallel_run.start(values | {"config_text": OmegaConf.to_yaml(cfg)}, **how)


def resume(target: str, changes: list[str]) -> None:
    """Go on with an earlier run; `changes` are options to change in its config, e.g. train.epochs=20."""
    path = config.find_checkpoint(target, RUNS)
    start(config.saved_config(path, changes), resume_from=path)


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code: 0, 1 (training had to stop), 2 (a mistake of the user)."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing its own text
    targets = [each.split("=", 1)[1] for each in arguments if each.startswith("resume=")]
    try:
        target = targets[-1] if targets and targets[-1] != "null" else ""
        changes = [each for each in arguments if not each.startswith("resume=")]
        if target and not sweep_state.is_sweep(target):
            resume(target, changes)
        else:
            if target:
                arguments = sweep_state.resumed_arguments(target, changes)
            check_arguments(arguments)
            config.register()
            sys.argv[1:] = config.with_own_files(arguments)
            compose()
    except UserError as error:
        tell(error)
        failures.append(error)
    except (HydraException, OmegaConfBaseException) as error:
        failures.append(explain(error, arguments))
        tell(failures[-1])
    except Ended:
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    if not failures:
        return 0
    return 1 if all(isinstance(each, TrainingError) for each in failures) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
