"""Which class is taken for which: counts over a split, as a picture and as the pairs most often confused."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from framework.align import Errors, count_errors
from framework.ctc import Ctc
from framework.data import Dataset, Split, carries
from framework.evaluate import batch_to, forward
from framework.network import Network


def confusion(net: Network, dataset: Dataset, split: Split, *, device: str = "cpu") -> Tensor:
    """Scored frames by true class (row) and answered class (column), [classes, classes] int64.

    With a fold the classes are the scored ones; frames that it leaves out do not count.
    """
    fold = torch.tensor(dataset.fold if dataset.fold is not None else range(dataset.classes), device=device)
    classes = len(confusion_labels(dataset))
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    net.eval()
    state = None
    with torch.no_grad():
        for batch in dataset.batches(split, 0):
            y, last = forward(net, batch, state, device)
            state = last if carries(dataset, split) else None
            truth = batch_to(batch, device).y
            truth = torch.where(truth >= 0, fold[truth.clamp(min=0)], -1)
            answer = fold[y.argmax(-1)]
            # An answer that is never scored (TIMIT's q) has no column: those few wrong frames are left out.
            seen = (truth >= 0) & (answer >= 0)
            counts += torch.bincount(truth[seen] * classes + answer[seen], minlength=len(counts))
    return counts.view(classes, classes).cpu()


def label_confusion(
    net: Network, dataset: Dataset, task: Ctc, split: Split, *, device: str = "cpu"
) -> tuple[Tensor, Errors]:
    """Aligned labels by true one (row) and answered one (column), and the errors by kind.

    [classes + 1, classes + 1] int64: the last column holds deletions, the last row insertions.
    """
    nothing = len(confusion_labels(dataset))
    counts = torch.zeros(nothing + 1, nothing + 1, dtype=torch.int64)
    errors = Errors()
    net.eval()
    with torch.no_grad():
        for batch in dataset.batches(split, 0):
            y, _ = forward(net, batch, None, device)
            for pairs in task.alignments(y.float().log_softmax(-1), batch):
                errors += count_errors(pairs)
                for wanted, said in pairs:
                    counts[nothing if wanted is None else wanted, nothing if said is None else said] += 1
    return counts, errors


def confusion_labels(dataset: Dataset) -> tuple[str, ...]:
    """Names of the rows and columns."""
    return dataset.labels if dataset.fold_labels is None else dataset.fold_labels


def most_confused(
    counts: Tensor, labels: tuple[str, ...], number: int = 10, unit: str = "frames"
) -> list[str]:
    """The pairs confused most often, as lines `z  taken for  s     120 frames, 14.2 % of z`."""
    wrong = counts.clone().fill_diagonal_(0)
    frames, places = wrong.flatten().topk(min(number, wrong.numel()))
    lines = []
    for count, place in zip(frames.tolist(), places.tolist(), strict=True):
        row, column = divmod(place, len(counts))
        if count:
            share = count / int(counts[row].sum())
            truth, answer = _escaped(labels[row]), _escaped(labels[column])
            lines.append(f"{truth:>6} taken for {answer:<6} {count:7d} {unit}, {share:6.1%} of {truth}")
    return lines


def draw_confusion(counts: Tensor, labels: tuple[str, ...], path: Path, title: str) -> None:
    """Draw the matrix, every row scaled to its sum (so the diagonal is the recall), into a PNG."""
    from matplotlib.figure import Figure  # lazily: it takes a second to load

    size = 3 + 0.17 * len(labels)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    # The square root shows the small confusions that matter beside a diagonal near 1.
    image = axes.imshow(shares.sqrt().numpy(), cmap="magma_r", vmin=0, vmax=1)
    ticks = range(len(labels))
    shown = [_escaped(label).replace("$", r"\$") for label in labels]  # $ would start mathematics
    axes.set_xticks(ticks, shown, rotation=90, fontsize=7)
    axes.set_yticks(ticks, shown, fontsize=7)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 0.5**0.5, 0.1**0.5, 0.01**0.5, 1])
    bar.ax.set_yticklabels(["0", "50 %", "10 %", "1 %", "100 %"])
    figure.savefig(path, dpi=120)


def _escaped(label: str) -> str:
    """A label that every font has."""
    return ascii(label)[1:-1] if label.strip() else ascii(label)
