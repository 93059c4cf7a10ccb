"""What the processes of a group compute in test_parallel.py: `python -m tests.train.parallel_cases FOLDER`.

torch is imported once and the process forks before it computes anything. Each process leaves what it found in
FOLDER; with one process the same functions give what to compare with.
"""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from framework import checkpoint
from framework.data import Batch
from framework.errors import ConfigError
from framework.load import load_graph
from framework.logging import JsonLog, Logs, SilentLogs, read_log
from framework.network import Network
from framework.optim import Schedule, make_optimizer
from framework.parallel import Workers
from framework.parallel_data import own_lanes
from framework.parallel_gradients import Gradients
from framework.parallel_place import Ended, Place
from framework.task import make_task
from framework.trainer import Trainer
from framework.use import Use

WORLD = 2
GRAPH = {
    "inputs": {"x": {"size": 3}},
    "nodes": {"l": {"cell": "lstm", "size": 5, "in": "x"}, "logits": {"size": 4, "is": "full(l) + bias"}},
    "outputs": ["logits"],
}
DROPS = GRAPH | {
    "nodes": {
        "l": {"cell": "lstm", "size": 5, "in": "x"},
        "logits": {"size": 4, "is": "full(dropout(l, 0.3)) + bias"},
    }
}
# Batches of 3, 1 and 4 lanes: in the second the last process has none, and it ends a group of `accumulate`.
SEQUENCES = {"lanes": [3, 1, 4, 5, 1], "carry": False}
STREAMS = {"lanes": [3] * 5, "carry": True, "chunk": 6}
CASES = {
    "sequences": (SEQUENCES, {"accumulate": 2, "clip": 0.5}),
    "small batches": (SEQUENCES, {"accumulate": 1}),
    "averages": (SEQUENCES, {"ema": 0.9, "weight_noise": 1e-20}),  # noise that rounds away: a copy computes
    "streams": (STREAMS, {}),
    "windows": (STREAMS, {"windows": 2, "accumulate": 1}),
}


class Made:
    """A dataset of random batches with lanes of unequal lengths; as streams of one length."""

    name, kind, tasks, fold, fold_labels = "made", "classes", ("framewise",), None, None
    input, classes, labels = {"size": 3}, 4, tuple("abcd")

    def __init__(self, lanes, carry, chunk=0):
        self.lanes, self.carry, self.chunk = lanes, carry, chunk

    def batches(self, split, epoch, start=0):
        for i in range(start, len(self.lanes)):
            lanes, steps = self.lanes[i], self.chunk or 4 + i
            draw = torch.Generator().manual_seed(1000 * epoch + 10 * i + (split == "train"))
            lengths = torch.full((lanes,), steps)
            if not self.carry:
                lengths = torch.randint(1, steps + 1, (lanes,), generator=draw)
            y = torch.randint(4, (steps, lanes), generator=draw)
            y[torch.arange(steps)[:, None] >= lengths] = -100
            x = torch.randn(steps, lanes, 3, generator=draw)
            resets = None
            if self.carry:
                resets = torch.rand(steps, lanes, generator=draw) < 0.1
                resets[0] |= i == 0
            yield Batch(x, y, lengths, resets, tuple(f"{i}.{b}" for b in range(lanes)))

    def count(self, split, epoch):
        return len(self.lanes)

    def describe(self):
        return "made"


def trainer(group, folder, data, options, graph=GRAPH):
    """A trainer that is the same for one process and for several, but for its group."""
    torch.manual_seed(3)
    net = Network(load_graph(graph))
    dataset = Made(**data)
    folder.mkdir(exist_ok=True)
    torch.manual_seed(100 + group.rank)
    return Trainer(
        net,
        own_lanes(dataset, group),
        make_task("auto", dataset),
        make_optimizer("adam", net.parameters(), lr=0.05),
        Schedule("plateau", lr=0.05, patience=0),
        folder,
        group=group,
        **{"log_steps": 1, "save_minutes": 0.0, "epochs": 2} | options,
    )


def fit(made, position=0):
    """Train, and return the numbers of all records and the weights."""
    logs = Logs(JsonLog(made.folder / "m.jsonl", position)) if made.group.leads else SilentLogs()
    try:
        made.fit(logs)
    finally:
        logs.close()
    kept = ("kind", "step", "loss", "accuracy", "grad_norm", "lr")
    records = read_log(made.folder / "m.jsonl") if made.group.leads else []
    weights = {name: view.clone() for name, view in made.net.weights().items()}
    return {
        "records": [{k: r[k] for k in kept if k in r} for r in records],
        "weights": weights,
        "frames": made.at.frames,
    }


def equal_cases(group, folder):
    """All CASES."""
    return {
        name: fit(trainer(group, folder / f"{name}-{group.world}", data, options))
        for name, (data, options) in CASES.items()
    }


def stopped(group, folder, name, graph=GRAPH):
    """A case that ended after its third update, as if it had been killed behind its checkpoint."""
    data, options = CASES[name]
    made = trainer(group, folder, data, options | {"max_steps": 3}, graph)
    evaluate = made.evaluate
    made.evaluate = lambda: {} if made.at.batch else evaluate()
    fit(made)
    group.sum(0)  # the file is there for all
    return checkpoint.load(folder / "last.pt")[0]


def goes_on(group, folder, name, content, graph=GRAPH):
    """The rest of a stopped case."""
    made = trainer(group, folder, *CASES[name], graph)
    made.load(content, "last.pt")
    return fit(made, content["log_bytes"])


def resumed(group, folder):
    """Runs with dropout, unbroken, and the same that go on from their third update."""
    found = {}
    for name in ("averages", "windows"):
        whole = fit(trainer(group, folder / f"whole {name}", *CASES[name], DROPS))
        content = stopped(group, folder / f"broken {name}", name, DROPS)
        found[name] = whole, goes_on(group, folder / f"broken {name}", name, content, DROPS)
    return found


def own_masks(group):
    """The random numbers that this process drops units by."""
    torch.manual_seed(100 + group.rank)
    return torch.rand(8)


def buckets(group):
    """Gradients that only some processes have, and how many buckets had left when the backward ended."""
    torch.manual_seed(0)
    net = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(4)])
    compute = SimpleNamespace(net=net, runs=net, collect_one=lambda p, q: None)
    gradients = Gradients(compute, group, bucket_bytes=1)
    x = torch.ones(1, 2) * (1 + group.rank)
    y = net[3](net[2](x))
    if group.rank == 1:
        y = y + net[0](x)
    gradients.overlap()
    y.sum().backward()
    early = gradients.next
    gradients.finish()
    return early, [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def mistakes(group):
    """What each process sees when another one finds a mistake, in turn and together."""
    seen = []
    for rank, how in ((1, group.together), (0, group.in_turn), (1, group.in_turn)):
        try:
            with how():
                if group.rank == rank:
                    raise ConfigError("data.path", f"worker {rank} does not find it", "Look again.")
        except (ConfigError, Ended) as error:
            seen.append((type(error).__name__, str(error)))
    return seen


def drifted(group, folder):
    """What saving says when one process has other weights than the rest."""
    made = trainer(group, folder / "drifted", SEQUENCES, {})
    made.logs = SilentLogs()
    if group.rank == 1:
        with torch.no_grad():
            next(made.net.parameters()).view(-1)[0] += 1e-6
    try:
        made.save("last.pt")
    except Exception as error:
        return str(error)
    return ""


def used(group):
    """Use of the processors, where the first process works and the others wait for it."""
    watch = Use("cpu", group)
    end = time.process_time() + (0 if group.rank else 0.2)
    while time.process_time() < end:
        pass
    group.sum(0.0)
    return watch.shares()["cpu_use"], watch.seconds()


def everything(group, folder):
    """One process's part."""
    return {
        "cases": equal_cases(group, folder),
        "resumed": resumed(group, folder),
        "stopped": stopped(group, folder / "stopped", "windows"),
        "masks": own_masks(group),
        "buckets": buckets(group),
        "sums": (group.sum(1.5, group.rank), group.add_up({"a": 1.0} if group.rank else {"b": 2.0})),
        "mistakes": mistakes(group),
        "drifted": drifted(group, folder),
        "used": used(group),
    }


def main(folder):
    rank = 0 if os.fork() else 1
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    group = Workers(Place(rank, WORLD, rank, WORLD, f"file://{folder / 'meeting'}"), "cpu")
    torch.save(everything(group, folder), folder / f"rank{rank}.pt")
    group.close()
    if rank:
        os._exit(0)
    _, status = os.wait()
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
