"""Checkpoints: what they hold, that no crash loses them, and that another model's are refused by name."""

import contextlib
import os
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from framework import checkpoint
from framework.errors import ConfigError, TrainingError


class Packed(nn.Module):
    """Weights a, b and c; a and b lie below each other in one parameter, b transposed, c alone."""

    def __init__(self, seed=0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.pack = nn.Parameter(torch.randn(5, 3, generator=random))
        self.c = nn.Parameter(torch.randn(4, generator=random))

    def weights(self):
        return {"a": self.pack.data[:2], "b": self.pack.data[2:].T, "c": self.c.data}

    def forward(self, x):
        return (x @ self.pack.T).square().sum() + self.c.pow(3).sum()


class Loose(nn.Module):
    """The same model, its weights in parameters of their own."""

    def __init__(self, seed=0):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(view.clone()) for view in Packed(seed).weights().values())

    def weights(self):
        return {name: param.data for name, param in self.named_parameters()}

    def forward(self, x):
        return (x @ self.a.T).square().sum() + (x @ self.b).square().sum() + self.c.pow(3).sum()


OPTIMIZERS = [
    lambda params: torch.optim.Adam(params, lr=0.1),
    lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    lambda params: torch.optim.SGD(params, lr=0.01),
    lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.5, centered=True),
]


def steps(net, optimizer, count, seed):
    random = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        net(torch.randn(3, generator=random, dtype=torch.float64)).backward()
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS, ids=["adam", "momentum", "sgd", "rmsprop"])
def test_optimizer_state_survives_another_packing(tmp_path, make):
    """Saved from the packed net, loaded into the loose one: both go on alike."""
    packed, loose = Packed(1).double(), Loose(2).double()
    first, second = make(packed.parameters()), make(loose.parameters())
    steps(packed, first, 3, seed=5)
    steps(loose, second, 2, seed=9)  # state that loading has to replace
    file = tmp_path / "x.pt"
    content = {
        "weights": checkpoint.weights_of(packed),
        "optimizer": checkpoint.optimizer_state(packed, first),
    }
    checkpoint.save(file, content)
    content, note = checkpoint.load(file)
    assert note == ""
    checkpoint.put_weights(loose, content["weights"], "x.pt")
    checkpoint.put_optimizer_state(loose, second, content["optimizer"])
    for net, optimizer in ((packed, first), (loose, second)):
        steps(net, optimizer, 4, seed=7)
    for name, view in packed.weights().items():
        torch.testing.assert_close(loose.weights()[name], view, rtol=1e-12, atol=1e-12)
    assert set(content["optimizer"]) == {"a", "b", "c"}


def test_random_state_goes_on_where_it_was(tmp_path):
    import random

    checkpoint.save(tmp_path / "x.pt", {"random": checkpoint.random_state()})
    expected = random.random(), torch.rand(3)
    checkpoint.put_random_state(checkpoint.load(tmp_path / "x.pt")[0]["random"])
    assert random.random() == expected[0]
    assert torch.equal(torch.rand(3), expected[1])


def test_a_damaged_file_is_replaced_by_the_one_before(tmp_path):
    file = tmp_path / "last.pt"
    checkpoint.save(file, {"n": 1})
    checkpoint.save(file, {"n": 2})
    assert checkpoint.load(file)[0]["n"] == 2
    whole = file.read_bytes()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        content, note = checkpoint.load(file)
        assert content["n"] == 1
        assert "damaged" in note and "last.pt.prev" in note and "\n" not in note
    file.unlink()  # a crash between the two renames
    content, note = checkpoint.load(file)
    assert content["n"] == 1 and "no such file" in note


def test_no_checkpoint_at_all_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        checkpoint.load(tmp_path / "last.pt")
    torch.save({"something": "else"}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"no checkpoint of train\.py"):
        checkpoint.load(tmp_path / "other.pt")


def test_a_failing_write_leaves_the_checkpoint_before(tmp_path):
    """A file size limit stands for a full disk: the system refuses in the same place."""
    file = tmp_path / "last.pt"
    checkpoint.save(file, {"x": torch.zeros(10)})
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(TrainingError) as error:
            checkpoint.save(file, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(file) in str(error.value) and "untouched" in str(error.value) and "0.4 MB" in str(error.value)
    assert file.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["last.pt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_at_any_point_of_a_save_leaves_a_whole_checkpoint(tmp_path, monkeypatch, step):
    """The program dies (an exception no one catches) before the n-th system call of the save."""

    class Died(BaseException):
        pass

    real = getattr(os, step)
    for survive in range(3):
        file = tmp_path / f"{step}{survive}" / "last.pt"
        file.parent.mkdir()
        checkpoint.save(file, {"n": 1})
        checkpoint.save(file, {"n": 2})
        calls = []

        def dying(*arguments, calls=calls, survive=survive):
            if len(calls) == survive:
                raise Died
            calls.append(arguments)
            return real(*arguments)

        with monkeypatch.context() as patch, contextlib.suppress(Died):
            patch.setattr(os, step, dying)
            checkpoint.save(file, {"n": 3})
        assert checkpoint.load(file)[0]["n"] in (2, 3)


def test_another_models_weights_are_refused_by_name():
    net = Packed()
    saved = checkpoint.weights_of(net)
    before = {name: view.clone() for name, view in net.weights().items()}
    changed = {**saved, "a": torch.zeros(7, 3)}
    with pytest.raises(ConfigError, match=r"'a' is \[7, 3\] there and \[2, 3\] here"):
        checkpoint.put_weights(net, changed, "x.pt")
    with pytest.raises(ConfigError, match="no weight 'b'"):
        checkpoint.put_weights(net, {k: v for k, v in saved.items() if k != "b"}, "x.pt")
    with pytest.raises(ConfigError, match="no weight 'more'"):
        checkpoint.put_weights(net, {**saved, "more": torch.zeros(1)}, "x.pt")
    for name, view in net.weights().items():
        assert torch.equal(view, before[name])


def test_files_hold_no_code(tmp_path):
    """What is written loads with weights_only, which refuses everything but tensors and plain values."""
    net = Packed().double()
    optimizer = torch.optim.Adam(net.parameters())
    steps(net, optimizer, 1, 0)
    checkpoint.save(tmp_path / "x.pt", {"optimizer": checkpoint.optimizer_state(net, optimizer)})
    assert isinstance(torch.load(tmp_path / "x.pt", weights_only=True), dict)
    assert Path(tmp_path / "x.pt").stat().st_size < 20_000
