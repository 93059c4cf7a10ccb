"""From a network's answers per frame to a sequence of labels: best path, and prefix beam search.

Connectionist temporal classification (Graves, Fernandez, Gomez & Schmidhuber 2006, Connectionist temporal
classification: labelling unsegmented sequence data with recurrent neural networks): a path has one class per
frame, among them a blank; the labels of a path are its classes, repetitions merged, then blanks taken out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def best_path(scores: Tensor, lengths: Tensor, blank: int) -> list[list[int]]:
    """Labels of the most probable path of each lane (section 3.2 of the paper).

    scores [T, B, C] (any that grow with the probability), lengths [B]. One copy from the device.
    """
    best = scores.argmax(-1)  # [T, B]
    first = torch.ones_like(best[:1], dtype=torch.bool)
    changed = torch.cat([first, best[1:] != best[:-1]])
    inside = torch.arange(len(best), device=best.device).unsqueeze(1) < lengths.to(best.device)
    kept = torch.where(changed & inside & (best != blank), best, -1).T.tolist()
    return [[label for label in lane if label >= 0] for lane in kept]


def beam_search(log_probs: Tensor, lengths: Tensor, blank: int, width: int) -> list[list[int]]:
    """The most probable labels of each lane, as far as a beam of `width` prefixes finds them.

    log_probs [T, B, C] natural logarithms, lengths [B]. Prefix search after section 3.2 of the paper, by time
    steps as in Hannun, Maas, Jurafsky & Ng 2014 (First-pass large vocabulary continuous speech recognition
    using bi-directional recurrent DNNs), without a language model.
    """
    lanes = log_probs.double().cpu().numpy()
    return [_beam(lanes[:length, b], blank, width) for b, length in enumerate(lengths.tolist())]


def _beam(log_probs: np.ndarray, blank: int, width: int) -> list[int]:
    """One lane, [T, C]. Prefixes are nodes of a tree, so that one that is found again has its old number."""
    classes = np.delete(np.arange(log_probs.shape[1]), blank)
    parent, label = [-1], [-1]  # of each node; label is a position in `classes`
    children: dict[tuple[int, int], int] = {}
    nodes, last = [0], np.array([-1])
    # logarithms of the probability of all paths to a prefix that end in a blank, in its last label
    by_blank, by_label = np.array([0.0]), np.array([-np.inf])
    for frame in log_probs:
        now, total = frame[classes], np.logaddexp(by_blank, by_label)
        stay_blank = total + frame[blank]
        ended = last >= 0
        stay_label = np.where(ended, by_label + now[last], -np.inf)
        grow = total[:, None] + now  # [prefixes, classes]
        # The same label once more is a second one only after a blank.
        rows = np.flatnonzero(ended)
        grow[rows, last[rows]] = by_blank[rows] + now[last[rows]]
        # A prefix that grows into another one of the beam adds to that.
        place = {node: row for row, node in enumerate(nodes)}
        for row, node in enumerate(nodes):
            above = place.get(parent[node])
            if above is not None:
                stay_label[row] = np.logaddexp(stay_label[row], grow[above, label[node]])
                grow[above, label[node]] = -np.inf
        score = np.concatenate([np.logaddexp(stay_blank, stay_label), grow.ravel()])
        kept = np.argpartition(-score, width)[:width] if len(score) > width else np.arange(len(score))
        kept = kept[np.isfinite(score[kept])]
        new, blanks, labels = [], [], []
        for place_of in kept.tolist():
            if place_of < len(nodes):
                new.append(nodes[place_of])
                blanks.append(stay_blank[place_of])
                labels.append(stay_label[place_of])
                continue
            row, which = divmod(place_of - len(nodes), len(classes))
            node = children.setdefault((nodes[row], which), len(parent))
            if node == len(parent):
                parent.append(nodes[row])
                label.append(which)
            new.append(node)
            blanks.append(-np.inf)
            labels.append(grow[row, which])
        nodes, last = new, np.array([label[node] for node in new])
        by_blank, by_label = np.array(blanks), np.array(labels)
    node = nodes[int(np.logaddexp(by_blank, by_label).argmax())]
    found = []
    while node:
        found.append(int(classes[label[node]]))
        node = parent[node]
    return found[::-1]
