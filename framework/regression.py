"""The task `regression`: numbers per frame, scored by squared, absolute or pinball error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from framework.data import Batch

LOSSES = ("mse", "mae", "quantile")


class Regression:
    """`numbers` per scored frame (NaN: not scored), `loss` mse, mae or quantile; means are over numbers.

    With quantiles the network has a unit per number and quantile, [T, B, numbers * quantiles], quantiles of
    one number side by side; the loss is the pinball loss q max(e, 0) + (1 - q) max(-e, 0) of e = y - answer,
    mean over quantiles (Koenker & Bassett 1978, Regression quantiles, Econometrica 46), whose least value is
    at the quantile q of y. mse and mae are then those of the quantile nearest to 0.5; `covered` is the part
    of the numbers between the lowest and the highest quantile.

    `solved` is the part of the numbers met to within 0.04, the criterion of the adding problem
    (Hochreiter & Schmidhuber, Long short-term memory, 1997, section 5.4).
    """

    name = "regression"
    better: Literal["higher", "lower"] = "lower"
    close = 0.04

    def __init__(
        self,
        numbers: int = 1,
        loss: str = "mse",
        quantiles: Sequence[float] = (0.1, 0.5, 0.9),
        shows_solved: bool = True,
    ):
        self.numbers, self.loss, self.shows_solved = numbers, loss, shows_solved
        self.quantiles = tuple(sorted(quantiles)) if loss == "quantile" else (0.5,)
        self.outputs = numbers * len(self.quantiles)
        self.middle = min(range(len(self.quantiles)), key=lambda i: abs(self.quantiles[i] - 0.5))
        self.metric = "pinball" if loss == "quantile" else loss

    def count(self, batch: Batch) -> int:
        """Scored numbers in the batch."""
        return int((~batch.y.isnan()).sum())

    def answers(self, y: Tensor) -> Tensor:
        """The network's output by number and quantile, [T, B, numbers, quantiles] float32."""
        return y.float().unflatten(-1, (self.numbers, len(self.quantiles)))

    def measure(self, y: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums of the loss, of squared and absolute errors, scored, solved and covered numbers."""
        truth = batch.y if batch.y.dim() == 3 else batch.y.unsqueeze(-1)
        scored = ~truth.isnan()
        answers = self.answers(y)
        # nan_to_num first: the gradient of torch.where multiplies by 0, and 0 * NaN is NaN.
        wanted = truth.nan_to_num(0.0)
        errors = torch.where(scored.unsqueeze(-1), wanted.unsqueeze(-1) - answers, 0.0)
        error = errors[..., self.middle]
        square, absolute = error.square().sum(), error.abs().sum()
        sums = {"frames": scored.sum(), "square": square.detach(), "absolute": absolute.detach()}
        if self.loss == "quantile":
            q = torch.tensor(self.quantiles, device=y.device)
            sums["loss"] = torch.maximum(q * errors, (q - 1) * errors).mean(-1).sum()
            inside = (wanted >= answers[..., 0]) & (wanted <= answers[..., -1])
            sums["covered"] = (inside & scored).sum()
        else:
            sums["loss"] = square if self.loss == "mse" else absolute
        if self.shows_solved:
            sums["right"] = ((error.detach().abs() < self.close) & scored).sum()
        return sums

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Mean loss, squared and absolute error, and the solved and covered parts where they are asked."""
        count = max(sums["frames"], 1)
        found = {"loss": sums["loss"] / count}
        if self.loss == "quantile":
            found |= {"pinball": found["loss"], "covered": sums["covered"] / count}
        found |= {"mse": sums["square"] / count, "mae": sums["absolute"] / count}
        return found | ({"solved": sums["right"] / count} if self.shows_solved else {})
