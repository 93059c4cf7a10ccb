"""Updates of training shared out among processes: what each further one brings.

`shared`: the lanes of one process are shared out; `each`: every process has as many as one alone. All groups
take turns; those that wait, wait for a line and use no processor. Their gradients, losses and clocks go the
way of framework/parallel.py. A process has its part of the threads, or a GPU of its own.

    python -m scripts.bench.workers        # one of the processes: reads its part from standard input
"""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from framework.data import Batch
from framework.load import load_graph
from framework.logging import SilentLogs
from framework.network import Network
from framework.optim import Schedule, make_optimizer
from framework.parallel import ALONE, Workers
from framework.parallel_data import Sharded
from framework.parallel_place import Place
from framework.task import make_task
from framework.trainer import Trainer
from scripts.bench import cases
from scripts.bench.bench import SEED, Bench, Entrant
from scripts.bench.cases import BOTH, Case
from scripts.bench.rows import Row
from scripts.bench.system import Declined
from scripts.bench.train_step import CLASSES, FRAMES, utterances

UPDATES = 3  # in a turn


@dataclass(frozen=True)
class Part:
    """What one process of a group is to do."""

    case: Case
    place: Place
    lanes: int
    device: str
    threads: int
    frames: tuple[int, int]


def graph(case: Case) -> dict[str, Any]:
    """Layers of the case's cell, and scores of the classes."""
    nodes: dict[str, Any] = {}
    below = "x"
    for k in range(1, case.layers + 1):
        nodes[f"l{k}"] = {"cell": case.cell, "size": case.H, "in": below}
        below = f"l{k}"
    nodes["logits"] = {"size": CLASSES, "is": f"full({below}) + bias"}
    return {"inputs": {"x": {"size": case.F}}, "nodes": nodes, "outputs": ["logits"]}


def serve(part: Part) -> None:
    """Do as many updates as each line says; the first process answers with their seconds."""
    if part.threads:
        torch.set_num_threads(part.threads)
    torch.set_flush_denormal(True)
    group = Workers(part.place, part.device) if part.place.world > 1 else ALONE
    device = group.device(part.device)
    torch.manual_seed(SEED)
    whole = utterances(part.case.F, part.lanes, 12 * part.lanes, part.frames)
    data = Sharded(whole, group.rank, group.world)
    net = Network(load_graph(graph(part.case))).to(device)
    task, optimizer = make_task("framewise", whole), make_optimizer("adam", net.parameters(), lr=1e-3)
    options: dict[str, Any] = {"log_steps": 1 << 30, "dtype": part.case.dtype, "device": device}
    trainer = Trainer(net, data, task, optimizer, Schedule(lr=1e-3), Path(), group=group, **options)
    trainer.logs = SilentLogs()
    batches: Iterator[Batch] = (b for epoch in itertools.count() for b in data.batches("train", epoch))
    for line in sys.stdin:
        frames = trainer.at.frames
        group.sum(0)  # all begin together
        begun = time.perf_counter()
        for _ in range(int(line)):
            trainer.update([next(batches)])
        if device != "cpu":
            torch.cuda.synchronize()
        if group.leads:
            print(time.perf_counter() - begun, trainer.at.frames - frames, flush=True)
    if group.world > 1:
        group.close()


class Crew:
    """The processes of one group."""

    def __init__(self, case: Case, count: int, bench: Bench, folder: Path):
        lanes = case.B * (count if case.option("lanes") == "each" else 1)
        threads = 0 if bench.device.kind == "cuda" else max(1, int(bench.info["threads"]) // count)
        self.workers: list[subprocess.Popen[bytes]] = []
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        for rank in range(count):
            place = Place(rank, count, rank, count, f"file://{folder / f'meeting{count}'}")
            frames = (2, case.T + 1) if bench.tiny else FRAMES
            part = Part(case, place, lanes, bench.device.kind, threads, frames)
            worker = subprocess.Popen(
                [sys.executable, "-m", "scripts.bench.workers"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback} | dict(os.environ),
            )
            self.workers.append(worker)
            assert worker.stdin is not None
            worker.stdin.write(pickle.dumps(part))

    def turn(self, updates: int) -> tuple[float, int]:
        """Seconds and frames of so many updates. Raises RuntimeError when a process died."""
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.write(b"%d\n" % updates)
            worker.stdin.flush()
        assert self.workers[0].stdout is not None
        answer = self.workers[0].stdout.readline().split()
        if len(answer) != 2:
            raise RuntimeError(f"a process of {len(self.workers)} died: see above")
        return float(answer[0]), int(answer[1])

    def end(self) -> None:
        """End all, whatever they do."""
        for worker in self.workers:
            worker.kill()
            worker.communicate()


def workers(case: Case, bench: Bench) -> list[Row]:
    """Rows of one update in 1, 2, ... processes (entries end in their number).

    figures: processes, frames a second, and efficiency: frames a second of each process beside those of one
    alone, the median over turns.
    """
    counts = {entry: int(entry.rsplit(" ", 1)[1]) for entry in case.systems}
    there = torch.cuda.device_count() if bench.device.kind == "cuda" else os.cpu_count() or 1
    if bench.device.kind == "cuda" or not bench.tiny:
        most = {entry: count for entry, count in counts.items() if count <= there}
    else:
        most = counts
    declined = {entry: f"{there} here" for entry in counts if entry not in most}
    if len(most) < 2:
        raise Declined(f"there is {there} of what each process needs")
    times: dict[str, list[float]] = {entry: [] for entry in most}
    speeds: dict[str, list[float]] = {entry: [] for entry in most}
    with tempfile.TemporaryDirectory() as folder:
        crews: dict[str, Crew] = {}
        try:
            for entry, count in most.items():
                crews[entry] = Crew(case, count, bench, Path(folder))
            for crew in crews.values():
                crew.turn(1)
            end = time.perf_counter() + 8 * bench.seconds
            while len(times[next(iter(times))]) < 5 or time.perf_counter() < end:
                for entry, crew in crews.items():
                    seconds, frames = crew.turn(UPDATES)
                    times[entry].append(1e3 * seconds / UPDATES)
                    speeds[entry].append(frames / seconds)
        finally:
            for crew in crews.values():
                crew.end()
    alone = speeds[next(iter(most))]
    work = cases.work(case, load_graph(graph(case)), BOTH)
    rows = []
    for entry, count in most.items():
        share = median(s / one for s, one in zip(speeds[entry], alone, strict=True)) / count
        figures = {"processes": count, "frames_per_s": round(median(speeds[entry]))}
        figures |= {"efficiency": round(share, 4)}
        system = Entrant(entry, entry, bench.version)
        rows.append(bench.row(case, system, "train step", times, work, figures=figures, declined=declined))
    return rows


if __name__ == "__main__":
    serve(pickle.load(sys.stdin.buffer))
