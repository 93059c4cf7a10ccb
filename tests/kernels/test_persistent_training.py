"""Training with persistent loops, interpreted: the losses are those of the torch runner."""

from __future__ import annotations

import json
import sys
from importlib import util
from pathlib import Path

import pytest
import torch

from framework import Network, load_graph
from framework.runners.triton_persistent import PersistentLoop

ROOT = Path(__file__).parents[2]
SMALL = [
    "data=adding", "data.length=24", "data.train=4", "data.dev=2", "data.test=2", "data.batch_size=2",
    "model=lstm", "model.params.size=4", "model.params.layers=1", "train=smoke", "train.max_steps=3",
    "train.log_steps=1", "train.device=cpu", "train.threads=1", "logger=none",
]  # fmt: skip
GRAPH = {
    "inputs": {"x": {"size": 3}},
    "nodes": {
        "l1": {"cell": "lstm_peephole", "size": 5, "in": ["x", "l2[t-1]"]},
        "l2": {"cell": "gru", "size": 17, "in": "l1"},
        "y": {"size": 2, "is": "full(l2) + bias"},
    },
    "outputs": ["y"],
}


def test_losses_in_a_stream():
    """Six updates over chunks with carried state, lengths and resets: equal to rounding, and they fall."""
    losses = []
    graph = load_graph(GRAPH)
    for runner in ("torch", "persistent"):
        torch.manual_seed(0)
        net = Network(graph, runner=runner)
        assert any(isinstance(loop, PersistentLoop) for loop in net.loops) == (runner == "persistent")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.5)
        generator = torch.Generator().manual_seed(1)
        x, wanted = (torch.randn(4, 3, n, generator=generator) for n in (3, 2))
        lengths, resets = torch.tensor([4, 2, 4]), torch.rand(4, 3, generator=generator) < 0.2
        state, found = None, []
        for step in range(6):
            optimizer.zero_grad()
            y, state = net(x, state=state, lengths=lengths if step % 2 else None, resets=resets)
            state = state.detach()
            loss = (y - wanted).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    # Six updates, each with roundings of 2**-24 by the tens: less than 200 of them.
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[1][5] < losses[1][1]


def test_train_py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command line with runner=persistent logs the losses of runner=torch; its plan names the runner."""
    spec = util.spec_from_file_location("train_main", ROOT / "train.py")
    assert spec is not None and spec.loader is not None
    train = util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_main", train)
    monkeypatch.chdir(tmp_path)
    spec.loader.exec_module(train)
    losses = {}
    for runner in ("torch", "persistent"):
        folder = tmp_path / runner
        arguments = [*SMALL, f"runner={runner}", f"run_dir={folder}"]
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        assert train.main(arguments) == 0
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses[runner] = [line["loss"] for line in lines if "loss" in line]
        assert f"runner {runner}" in (folder / "plan.txt").read_text()
    assert len(losses["torch"]) >= 5
    assert losses["persistent"] == pytest.approx(losses["torch"], rel=1e-5)
