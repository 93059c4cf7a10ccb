"""Answers against references: the shortest way from one sequence of labels to another, and its errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[int | None, int | None]  # (label of the reference, label of the answer); None: there is none


@dataclass(frozen=True)
class Errors:
    """Errors of answers against references of `labels` labels in all; sums of utterances add up."""

    labels: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: Errors) -> Errors:
        return Errors(*(getattr(self, key) + getattr(other, key) for key in self.__dataclass_fields__))

    @property
    def rate(self) -> float:
        """(S + D + I) / N: the phone error rate where labels are phones; it can exceed 1."""
        return (self.substitutions + self.deletions + self.insertions) / max(self.labels, 1)


def align(reference: Sequence[int], answer: Sequence[int]) -> list[Pair]:
    """The pairs of a shortest alignment (Levenshtein 1966: each substitution, deletion, insertion costs 1).

    Of several shortest ones it is that which, read from the end, prefers a pair over a deletion over an
    insertion.
    """
    # cost[i][j]: of turning the first i labels of the reference into the first j of the answer
    cost = [list(range(len(answer) + 1))]
    for i, wanted in enumerate(reference, 1):
        above, row = cost[-1], [i]
        for j, said in enumerate(answer, 1):
            row.append(min(above[j - 1] + (wanted != said), above[j] + 1, row[-1] + 1))
        cost.append(row)
    pairs: list[Pair] = []
    i, j = len(reference), len(answer)
    while i or j:
        if i and j and cost[i][j] == cost[i - 1][j - 1] + (reference[i - 1] != answer[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((reference[i], answer[j]))
        elif i and cost[i][j] == cost[i - 1][j] + 1:
            i -= 1
            pairs.append((reference[i], None))
        else:
            j -= 1
            pairs.append((None, answer[j]))
    return pairs[::-1]


def count_errors(pairs: Sequence[Pair]) -> Errors:
    """The errors of an alignment."""
    return Errors(
        labels=sum(wanted is not None for wanted, _ in pairs),
        substitutions=sum(None not in (wanted, said) and wanted != said for wanted, said in pairs),
        deletions=sum(said is None for _, said in pairs),
        insertions=sum(wanted is None for wanted, _ in pairs),
    )
