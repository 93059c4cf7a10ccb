"""Every kind of data in two processes: `python -m tests.train.parallel_sources FOLDER`.

For test_parallel_sources.py. As in parallel_cases the process forks, and each leaves what it found in FOLDER.
"""

import json
import os
import random
import sys
from pathlib import Path

import torch

from framework import checkpoint
from framework.data import make_dataset
from framework.load import load_graph
from framework.network import Network
from framework.optim import Schedule, make_optimizer
from framework.parallel import Workers
from framework.parallel_data import own_lanes, own_options
from framework.parallel_place import Place
from framework.task import make_task
from framework.trainer import Trainer
from tests.train.parallel_cases import WORLD, fit

SPEECH = {"name": "synth_speech", "train_speakers": 2, "dev_speakers": 1, "test_speakers": 1, "sentences": 2,
          "n_mels": 8, "cache_dir": "cache"}  # fmt: skip
# Batches of three utterances and one: in the second the other process has none. In the streams lanes end at
# different chunks, and one lane of dev leaves the other process without.
SOURCES = {
    "labels in a row": ("ctc", SPEECH | {"batch_size": 3}, {}),
    "lanes of speech": ("framewise", SPEECH | {"streams": 3, "eval_streams": 1, "chunk": 70}, {}),
    "text in files": (
        "characters",
        {"name": "hub_text", "path": "corpus", "batch_size": 4, "chunk": 12, "epoch_batches": 4, "vocab": 12,
         "eval_batches": 2, "shuffle": 5},
        {"windows": 2},
    ),
    "table": (
        "regression",
        {"name": "table", "path": "t.csv", "batch_size": 4, "chunk": 9, "cache_dir": "cache"},
        {"accumulate": 2},
    ),
}  # fmt: skip
STOP = 3  # updates before the end of a run that goes on in one process


def write_files(folder):
    """What the sources read: documents of very unequal lengths, and a table."""
    draw = random.Random(4)
    (folder / "corpus").mkdir()
    for part in "ab":
        lines = [{"text": "".join(draw.choices("abcde fgh", k=draw.randrange(1, 60)))} for _ in range(700)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "corpus" / f"{part}.jsonl").write_text(text)
    rows = [f"{draw.random()},{draw.gauss(3, 2)}\n" for _ in range(400)]
    (folder / "t.csv").write_text("a,b\n" + "".join(rows))


def trainer(group, folder, task, data, options):
    """A trainer of a small network on this process's part of the data."""
    torch.manual_seed(3)
    with group.in_turn():
        data = own_options(data, group)
        dataset = make_dataset(**data)
    learned = make_task(task, dataset)
    (kind, size), *_ = dataset.input.items()
    graph = {
        "inputs": {"x": {kind: size}},
        "nodes": {
            "l": {"cell": "gru", "size": 6, "in": "x"},
            "logits": {"size": learned.outputs, "is": "full(l) + bias"},
        },
        "outputs": ["logits"],
    }
    net = Network(load_graph(graph))
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        net,
        own_lanes(dataset, group),
        learned,
        make_optimizer("sgd", net.parameters(), lr=0.05),
        Schedule("constant", lr=0.05),
        folder,
        group=group,
        **{"log_steps": 1, "save_minutes": 0.0, "epochs": 2} | options,
    )


def whole(group):
    """The numbers of whole runs."""
    return {
        name: fit(trainer(group, Path(f"whole {name} {group.world}"), *given))
        for name, given in SOURCES.items()
    }


def broken(group):
    """Checkpoints of runs that end in the middle of an epoch."""
    found = {}
    for name, (task, data, options) in SOURCES.items():
        made = trainer(group, Path(f"broken {name}"), task, data, options | {"max_steps": STOP})
        evaluate = made.evaluate
        made.evaluate = lambda at=made.at, evaluate=evaluate: {} if at.batch else evaluate()
        fit(made)
        group.sum(0)  # the file is there for all
        found[name] = checkpoint.load(made.folder / "last.pt")[0]
    return found


def main(folder):
    import datasets  # noqa: F401  # a second's work that both processes then share
    import torch._dynamo  # the optimizers' own

    rank = 0 if os.fork() else 1
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    group = Workers(Place(rank, WORLD, rank, WORLD, f"file://{folder / 'meeting'}"), "cpu")
    torch.save({"whole": whole(group), "broken": broken(group)}, folder / f"rank{rank}.pt")
    group.close()
    if rank:
        os._exit(0)
    _, status = os.wait()
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
