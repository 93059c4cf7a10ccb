"""What a board shows beside curves: a picture of the plan, what is confused, what the network says."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import torch

from framework import draw
from framework.confusion import confusion, confusion_labels, draw_confusion, label_confusion
from framework.ctc import Ctc
from framework.data import Dataset
from framework.errors import ConfigError
from framework.evaluate import batch_to, forward
from framework.network import Network
from framework.plan import Plan
from framework.plan_code import code
from framework.sample import generate
from framework.task import Task

PROMPT, LENGTH = 40, 400  # characters of a sample: what is given, what the network adds
UTTERANCES = 4


@dataclass
class Showcase:
    """pictures: name -> PNG; texts: name -> text; files: what is kept with the run."""

    pictures: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def of_plan(plan: Plan, folder: Path) -> Showcase:
    """The plan, its picture where graphviz is installed, and the source that its loops run, in `folder`."""
    made = Showcase(files=[folder / "plan.txt", folder / "code.txt"])
    made.files[0].write_text(f"{plan}\n", encoding="utf-8")
    made.files[1].write_text(code(plan), encoding="utf-8")
    try:
        draw.render(draw.dot_text(plan), folder / "plan.png", "png")
    except ConfigError:  # there is no graphviz, or the graph is too large to draw: its text is there
        return made
    made.pictures["plan/picture"] = folder / "plan.png"
    made.files.append(folder / "plan.png")
    return made


def of_test(net: Network, dataset: Dataset, task: Task, folder: Path, device: str) -> Showcase:
    """The confusion matrix of test, drawn in `folder`, and what the network says of some of it."""
    made = Showcase()
    if dataset.kind != "classes":
        return made
    picture, labels = folder / "confusion_test.png", confusion_labels(dataset)
    if isinstance(task, Ctc):
        labels = (*labels, "(none)")
        counts, _ = label_confusion(net, dataset, task, "test", device=device)
    else:
        counts = confusion(net, dataset, "test", device=device)
    draw_confusion(counts, labels, picture, f"{dataset.name}, test: share of the true class")
    made.pictures["result/confusion"] = picture
    made.texts["result/samples"] = samples(net, dataset, task, device)
    return made


@torch.no_grad()
def samples(net: Network, dataset: Dataset, task: Task, device: str) -> str:
    """Text that goes on after the beginning of test; or labels of the first utterances, true and answered."""
    batch = next(iter(dataset.batches("test", 0)))
    decode = getattr(dataset, "decode", None)
    if decode is not None:
        prompt = batch.x[:PROMPT, 0]
        added = list(generate(net, prompt, LENGTH, device=device))
        return f"given: {decode(prompt)!r}\n\n{decode(prompt)}{decode(added)}"
    labels = confusion_labels(dataset)
    y, _ = forward(net, batch, None, device)
    lines = []
    if isinstance(task, Ctc):
        pairs = task.alignments(y.float().log_softmax(-1), batch_to(batch, "cpu"))[:UTTERANCES]
        for lane, name in zip(pairs, batch.ids, strict=False):
            true = " ".join(labels[wanted] for wanted, _ in lane if wanted is not None)
            said = " ".join(labels[heard] for _, heard in lane if heard is not None)
            lines.append(f"{name}\n  true:     {true}\n  answered: {said}")
        return "\n".join(lines)
    fold = dataset.fold if dataset.fold is not None else range(dataset.classes)
    for lane, name in enumerate(itertools.islice(batch.ids, UTTERANCES)):
        frames = int(batch.lengths[lane])
        words = []
        for ids in (batch.y[:frames, lane].tolist(), y[:frames, lane].argmax(-1).tolist()):
            runs = [key for key, _ in itertools.groupby(fold[i] if i >= 0 else -1 for i in ids)]
            words.append(" ".join(labels[key] for key in runs if key >= 0))
        lines.append(f"{name}\n  true:     {words[0]}\n  answered: {words[1]}")
    return "\n".join(lines)
