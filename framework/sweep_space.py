"""What a sweep looks through, and how it chooses: every combination, at random, or by what was good so far.

Values are texts, as they stand on the command line. What is drawn depends on the seed and the number of the
job alone, so a resumed sweep draws the same.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from framework.errors import ConfigError

METHODS = ("auto", "grid", "random", "tpe")
INSTALL = "pip install 'intrastream[sweep]', or take hydra.sweeper.method=random."


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[str, ...]

    def draw(self, source: random.Random) -> str:
        """Any of them."""
        return source.choice(self.values)


@dataclass(frozen=True)
class Interval:
    """A number from low to high, both included; `log`: its logarithm is even; `whole`: a whole number."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, source: random.Random) -> str:
        """Any number of it, with four digits."""
        if self.whole:  # half a number more on each side: the ends are as likely as the others
            low, high = self.low - 0.5, self.high + 0.5
            value = (
                math.exp(source.uniform(math.log(low), math.log(high)))
                if self.log
                else source.uniform(low, high)
            )
            return str(min(max(round(value), round(self.low)), round(self.high)))
        if self.log:
            return self.text(math.exp(source.uniform(math.log(self.low), math.log(self.high))))
        return self.text(source.uniform(self.low, self.high))

    def text(self, value: float) -> str:
        """A number of the interval as it is written: rounding to four digits does not leave it."""
        return str(round(value)) if self.whole else repr(min(max(float(f"{value:.4g}"), self.low), self.high))


Space = Mapping[str, Choice | Interval]


class Tried(NamedTuple):
    """A job that is over or runs: its values, and the metric; None where it failed, NaN while it runs."""

    values: Mapping[str, str]
    metric: float | None


def check(space: Space, method: str, trials: int) -> None:
    """Raise ConfigError when the method cannot go through the space."""
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise ConfigError("hydra.sweeper.method", f"there is no '{method}'", f"There are: {known}.")
    if trials > 1 and not space:
        fix = "Give values, e.g. seed=1,2,3 or 'optimizer.lr=interval(1e-4,1e-2)'."
        raise ConfigError("hydra.sweeper.trials", f"{trials} jobs would all be the same", fix)
    for key, values in space.items():
        if isinstance(values, Interval):
            _check_interval(key, values)
            if chosen(method, trials) == "grid":
                cause = "an interval has no combinations to go through"
                raise ConfigError(key, cause, "Give hydra.sweeper.trials=20, say, or single values.")
    if trials < 0:
        raise ConfigError("hydra.sweeper.trials", f"{trials} is too small", "Give 0 or more.")
    if not trials and method in ("random", "tpe"):
        raise ConfigError("hydra.sweeper.trials", f"method={method} needs a number of jobs", "Give 20, say.")


def _check_interval(key: str, values: Interval) -> None:
    if not values.low < values.high:
        raise ConfigError(
            key, f"{values.low:g} to {values.high:g} is no interval", "Give the lower end first."
        )
    if values.log and values.low <= 0:
        raise ConfigError(key, f"there is no logarithm of {values.low:g}", "Begin above 0.")


def chosen(method: str, trials: int) -> str:
    """What `auto` means here: grid without a number of jobs, else tpe where optuna is, or random."""
    if method != "auto":
        return method
    if not trials:
        return "grid"
    from importlib.util import find_spec

    return "tpe" if find_spec("optuna") else "random"


def grid(space: Space) -> list[dict[str, str]]:
    """Every combination, the last option changing fastest."""
    values = [each.values for each in space.values() if isinstance(each, Choice)]
    return [dict(zip(space, each, strict=True)) for each in itertools.product(*values)]


def propose(
    method: str, space: Space, number: int, seed: int, tried: Sequence[Tried], higher: bool
) -> dict[str, str]:
    """The values of job `number`, by method random or tpe; `higher`: more of the metric is better."""
    if method == "tpe":
        return _by_optuna(space, number, seed, tried, higher)
    source = random.Random(f"{seed} {number}")
    return {key: values.draw(source) for key, values in space.items()}


def _by_optuna(space: Space, number: int, seed: int, tried: Sequence[Tried], higher: bool) -> dict[str, str]:
    """Tree-structured Parzen estimators (Bergstra et al. 2011), as optuna has them.

    The study is made anew from what was tried: it needs no storage, and a resumed sweep goes on like one that
    was never stopped.
    """
    try:
        import optuna  # lazily: it is an extra
    except ImportError as error:
        raise ConfigError("hydra.sweeper.method", f"optuna is not to be had ({error})", INSTALL) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known: dict[str, Any] = {}
    for key, values in space.items():
        if isinstance(values, Choice):
            known[key] = optuna.distributions.CategoricalDistribution(values.values)
        elif values.whole:
            known[key] = optuna.distributions.IntDistribution(int(values.low), int(values.high), values.log)
        else:
            known[key] = optuna.distributions.FloatDistribution(values.low, values.high, values.log)
    sampler = optuna.samplers.TPESampler(seed=seed + number, constant_liar=True)
    study = optuna.create_study(sampler=sampler, direction="maximize" if higher else "minimize")
    states = optuna.trial.TrialState
    for each in tried:
        if each.metric is None:
            state, value = states.FAIL, None
        elif math.isnan(each.metric):
            state, value = states.RUNNING, None
        else:
            state, value = states.COMPLETE, each.metric
        params = {key: _number(space[key], each.values[key]) for key in space}
        made = optuna.trial.create_trial(state=state, params=params, distributions=known, value=value)
        study.add_trial(made)
    trial = study.ask(known)
    return {key: _text(space[key], trial.params[key]) for key in space}


def _number(values: Choice | Interval, text: str) -> Any:
    """A written value as optuna takes it."""
    if isinstance(values, Choice):
        return text
    return int(text) if values.whole else float(text)


def _text(values: Choice | Interval, value: Any) -> str:
    return value if isinstance(values, Choice) else values.text(value)
