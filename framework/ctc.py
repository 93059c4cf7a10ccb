"""The task `ctc`: labels of a whole utterance, without times. Loss, decoding, errors by kind.

Graves, Fernandez, Gomez & Schmidhuber 2006 (Connectionist temporal classification); scored as phone
recognition is: labels folded (TIMIT: 61 -> 39, q taken out), aligned with the reference, errors counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.align import Errors, Pair, align, count_errors
from framework.data import Batch
from framework.data.utterances import frames_needed
from framework.decode import beam_search, best_path
from framework.errors import DataError


class Ctc:
    """Labels of utterances; the class behind the last label is the blank.

    `fold` maps a label to the one it is scored as, -1 takes it out. `beam`: prefixes that decoding follows
    (0: the best path alone). The loss is -ln p(labels) summed over an utterance, its mean is over utterances;
    the metrics are per label of the references, `per` is (S + D + I) / N.
    """

    name = "ctc"
    metric = "per"
    better: Literal["higher", "lower"] = "lower"

    def __init__(self, classes: int, fold: tuple[int, ...] | None = None, beam: int = 0):
        self.blank, self.outputs = classes, classes + 1
        self.fold, self.beam = fold, beam

    def count(self, batch: Batch) -> int:
        """Utterances in the batch: what the loss is a mean over."""
        return len(batch.ids)

    def measure(self, y: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums of loss and utterances; where no gradient is wanted also of labels and of each kind of error.

        y [T, B, classes + 1]. Training steps report the loss alone: decoding would make the device wait.
        Raises DataError for an utterance with more labels than its frames can hold.
        """
        wanted = references(batch)
        for name, labels, frames in zip(batch.ids, wanted, batch.lengths.tolist(), strict=True):
            if frames_needed(labels) > frames:
                raise DataError(
                    name,
                    f"its {len(labels)} labels need {frames_needed(labels)} frames or more, it has {frames}",
                    "Mend or remove it",
                )
        log_probs = y.float().log_softmax(-1)
        loss = log_probs.sum()  # without lanes (a process that got none of a small batch): 0
        if wanted:
            loss = F.ctc_loss(
                log_probs,
                torch.tensor(
                    [label for labels in wanted for label in labels], dtype=torch.int64, device=y.device
                ),
                batch.lengths,
                torch.tensor([len(labels) for labels in wanted], device=y.device),
                self.blank,
                reduction="sum",
            )
        sums = {"loss": loss, "utterances": torch.tensor(len(wanted))}
        if not y.requires_grad:
            found = sum((count_errors(pairs) for pairs in self.alignments(log_probs, batch)), Errors())
            sums |= {key: torch.tensor(value) for key, value in vars(found).items()}
        return sums

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Mean loss [nats an utterance] and, of evaluations, `per` with its three parts."""
        found = {"loss": sums["loss"] / max(sums["utterances"], 1)}
        if "labels" in sums:
            kinds = ("substitutions", "deletions", "insertions")
            rates = {key: sums[key] / max(sums["labels"], 1) for key in kinds}
            found |= {"per": sum(rates.values()), **rates}
        return found

    def answers(self, log_probs: Tensor, lengths: Tensor) -> list[list[int]]:
        """The labels that are heard in each lane, not folded."""
        if self.beam:
            return beam_search(log_probs, lengths, self.blank, self.beam)
        return best_path(log_probs, lengths, self.blank)

    def alignments(self, log_probs: Tensor, batch: Batch) -> list[list[Pair]]:
        """Every lane's scored labels beside those that were heard."""
        heard = self.answers(log_probs, batch.lengths)
        return [
            align(self.scored(labels), self.scored(answer))
            for labels, answer in zip(references(batch), heard, strict=True)
        ]

    def scored(self, labels: list[int]) -> list[int]:
        """Labels as they are scored: folded, those without a fold taken out."""
        if self.fold is None:
            return labels
        return [self.fold[label] for label in labels if self.fold[label] >= 0]


def references(batch: Batch) -> list[list[int]]:
    """The labels of each lane. Raises DataError when the data have none."""
    if batch.targets is None:
        raise DataError(batch.ids[0], "its batch has no labels of whole utterances", "Take other data")
    return [[label for label in lane if label >= 0] for lane in batch.targets.tolist()]
