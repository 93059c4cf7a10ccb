"""What a person sees: progress, curves, the confusion matrix, and the eval and generate scripts."""

import importlib.util
import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from framework.confusion import confusion, confusion_labels, draw_confusion, most_confused
from framework.console import Console, clock
from framework.data import Batch
from framework.errors import ConfigError
from framework.load import load_graph
from framework.network import Network
from framework.report import draw_curves
from framework.restore import arguments
from framework.sample import difference, draw, generate

ROOT = Path(__file__).resolve().parents[2]
TEXT = [
    *("data=text", "data.max_chars=30000", "data.chunk=32", "data.batch_size=8", "optimizer.lr=0.01"),
    *("model=stack", "cell=gru", "model.params.size=24", "train.epochs=0", "train.max_steps=25"),
    *("train.eval_batches=2", "train.log_steps=5", "train.threads=1", "logger=none", "run_dir=run"),
]


@pytest.fixture
def script(tmp_path, monkeypatch, capfd):
    """Run scripts/NAME.py in the test's folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        path = ROOT / "scripts" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"script_{name}", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        spec.loader.exec_module(module)
        code = module.command(module.main, module.__doc__)
        return code, *capfd.readouterr()

    return run


def png(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


class Tty(io.StringIO):
    def isatty(self):
        return True


STEP = {
    "kind": "step",
    "epoch": 0,
    "loss": 0.5,
    "accuracy": 0.25,
    "accuracy_39": 0.75,
    "frames_per_s": 1234.0,
}


def test_lines_without_a_terminal_are_few_and_tell_the_time_to_go():
    stream = io.StringIO()
    console = Console(total=100, first=50, seconds=1000, stream=stream)
    console.begun -= 10  # ten seconds for ten updates
    for step in range(51, 61):
        console.write({**STEP, "step": step})
        console.tick(step)
    console.write(
        {"kind": "eval", "split": "dev", "epoch": 1, "step": 60, "loss": 0.4, "accuracy": 0.5, "best": True}
    )
    console.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2, lines
    assert lines[0].startswith("epoch 0 update 51 of 100  loss 0.5000  accuracy 0.2500  accuracy 39 0.7500")
    assert "1,234 frames/s" in lines[0] and re.search(r"8m\d\ds to go", lines[0])
    assert lines[1] == "epoch 1 update 60  dev: loss 0.4000  accuracy 0.5000  best"


def test_a_terminal_gets_a_bar():
    stream = Tty()
    console = Console(total=4, stream=stream)
    for step in range(1, 5):
        console.write({**STEP, "step": step})
        console.tick(step)
    console.close()
    assert "4/4" in stream.getvalue() and "loss 0.5000" in stream.getvalue()


def test_clock():
    assert [clock(s) for s in (0.4, 59, 60, 3599, 3600, 7260)] == [
        "0s",
        "59s",
        "1m00s",
        "59m59s",
        "1h00m",
        "2h01m",
    ]


def test_curves_are_drawn_from_any_log(tmp_path):
    assert draw_nothing(tmp_path) is None
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for step in range(1, 6):
            file.write(json.dumps({**STEP, "step": step, "loss": "nan" if step == 3 else 1 / step}) + "\n")
        file.write(
            json.dumps({"kind": "eval", "step": 5, "loss": 0.4, "accuracy": 0.5, "accuracy_39": 0.6}) + "\n"
        )
        file.write('{"kind": "eval", "st')  # a crash in the middle of a line
    assert png(draw_curves(tmp_path, "accuracy"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def draw_nothing(folder):
    (folder / "metrics.jsonl").write_text('{"kind": "start", "step": 0}\n')
    return draw_curves(folder, "accuracy")


class Speech:
    """Two batches, five classes; class 2 is not scored, 3 counts as 0."""

    name, kind, carry = "speech", "classes", False
    input, classes, labels = {"size": 3}, 5, tuple("abqcd")
    fold, fold_labels = (0, 1, -1, 0, 2), ("a", "b", "d$")

    def batches(self, split, epoch, start=0):
        for seed in (1, 2):
            random = torch.Generator().manual_seed(seed)
            y = torch.randint(-1, 5, (6, 3), generator=random)
            y[y < 0] = -100
            lengths = torch.tensor([6, 4, 2])
            y[torch.arange(6).unsqueeze(1) >= lengths] = -100
            yield Batch(torch.randn(6, 3, 3, generator=random), y, lengths, None, ("u", "v", "w"))


def test_the_confusion_matrix_counts_scored_frames(tmp_path):
    torch.manual_seed(0)
    graph = {"inputs": {"x": {"size": 3}}, "nodes": {"y": {"size": 5, "is": "full(x)"}}, "outputs": ["y"]}
    net, data = Network(load_graph(graph)), Speech()
    expected = torch.zeros(3, 3, dtype=torch.int64)
    for batch in data.batches("test", 0):
        answers = (batch.x @ net.weights()["y:full(x)"].T).argmax(-1)
        for label, answer in zip(batch.y.flatten().tolist(), answers.flatten().tolist(), strict=True):
            if label >= 0 and data.fold[label] >= 0 and data.fold[answer] >= 0:
                expected[data.fold[label], data.fold[answer]] += 1
    counts = confusion(net, data, "test")
    assert torch.equal(counts, expected) and counts.sum() > 5
    draw_confusion(counts, ("$", *confusion_labels(data)[1:]), tmp_path / "c.png", "title")
    assert png(tmp_path / "c.png")


def test_the_most_confused_pairs():
    counts = torch.tensor([[9, 1, 0], [5, 5, 0], [0, 2, 8]])
    assert most_confused(counts, ("s", "z", " "), 2) == [
        "     z taken for s            5 frames,  50.0% of z",
        "   ' ' taken for z            2 frames,  20.0% of ' '",
    ]
    assert most_confused(counts, ("$", "z", "b"), 1, "characters") == [
        "     z taken for $            5 characters,  50.0% of z"
    ]
    assert most_confused(torch.eye(2, dtype=torch.int64), ("a", "b")) == []


def character_net(nodes, vocab=7):
    torch.manual_seed(0)
    return Network(load_graph({"inputs": {"x": {"vocab": vocab}}, "nodes": nodes, "outputs": ["y"]}))


DEEP = {
    "l": {"cell": "lstm_peephole", "size": 9, "in": "x", "layers": 2},
    "d": {"size": 5, "is": "tanh(full(l1/h[t-3]) + full(x[t-2]) + dropout(full(d[t-2]), 0.5))"},
    "y": {"size": 7, "is": "full(l) + full(d)"},
}


def test_frame_by_frame_equals_the_whole_at_once():
    """Delays of 1 to 3, between layers and of the input; dropout is off."""
    net = character_net(DEEP)
    indices = torch.randint(7, (30,), generator=torch.Generator().manual_seed(1))
    apart, largest = difference(net, indices)
    assert largest > 0.1 and apart < 1e-5 * largest
    assert not net.training


def test_the_same_seed_writes_the_same_text():
    net = character_net(DEEP)
    prompt = torch.tensor([1, 2, 3])
    first, again, other = (list(generate(net, prompt, 40, seed=seed)) for seed in (5, 5, 6))
    assert len(first) == 40 and first == again and first != other
    greedy = [list(generate(net, prompt, 20, temperature=0, seed=seed)) for seed in (1, 2)]
    assert greedy[0] == greedy[1]


def test_draws_follow_the_softmax():
    logits, source = torch.tensor([0.0, 1.0, -1.0]), torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.tensor([draw(logits, 0.5, source) for _ in range(4000)]), minlength=3)
    expected = torch.softmax(logits / 0.5, 0)
    # Six standard deviations of a binomial share over 4000 draws.
    assert ((counts / 4000 - expected).abs() < 6 * (expected * (1 - expected) / 4000).sqrt()).all()


def test_a_network_that_looks_ahead_cannot_generate():
    net = character_net({"y": {"size": 7, "is": "full(x[t+1])"}})
    with pytest.raises(ConfigError, match="reads later frames"):
        next(generate(net, torch.tensor([1]), 1))
    with pytest.raises(ConfigError, match="prompt: it is empty"):
        next(generate(character_net({"y": {"size": 7, "is": "full(x)"}}), torch.tensor([]), 1))


def test_scripts_on_a_trained_text_model(cli, script, tmp_path):
    code, out, err = cli(*TEXT)
    assert code == 0, err
    given = ["prompt=def \\n", "length=50", "seed=3"]
    code, out, err = script("generate", "checkpoint=run/best.pt", *given, "check=true")
    assert code == 0, err
    assert out.startswith("def \n") and len(out) == len("def \n") + 50 + 1
    assert "frame by frame and whole differ by" in err
    assert script("generate", "checkpoint=run", *given)[1] == out

    code, out, err = script("eval", "checkpoint=run/best.pt", "split=test")
    assert code == 0, err
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert f"bits_per_character {records[-1]['bits_per_character']:.4f}" in out, (
        "the same as training has said"
    )
    assert "taken for" in out and png(tmp_path / "run" / "confusion_test.png")

    for name, words, expected in [
        ("eval", ["checkpoint=run", "split=tset"], "split: there is no split 'tset'"),
        ("eval", ["checkpoint=nothing"], "there is no checkpoint"),
        ("eval", ["split=test"], "checkpoint: which one is not said"),
        ("eval", ["checkpoint=run", "spilt=test"], "Did you mean 'split'?"),
        ("eval", ["checkpoint=run", "data.path=/nowhere"], "data.path: there is no file /nowhere"),
        ("generate", ["checkpoint=run", "length=many"], "length: 'many' is not a whole number"),
        ("generate", ["checkpoint=run", "temperature=-1"], "temperature: -1.0 is below 0"),
        ("generate", ["checkpoint=run", "prompt="], "prompt: it is empty"),
    ]:
        code, _, err = script(name, *words)
        assert code == 2 and expected in err and len(err.splitlines()) == 1, err
    assert script("generate", "checkpoint=run", "prompt=ab", "temperature=-1")[1] == "", "no prompt"
    code, out, err = script("generate", "checkpoint=run", "prompt=a\u4e2d", "length=1")
    assert code == 0 and out.startswith("a\u4e2d") and "vocabulary has no '\u4e2d'" in err
    assert "split=dev,test" in script("eval", "--help")[1]


def test_a_folder_and_auto_stand_for_the_best_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    for name in ("best.pt", "last.pt"):
        (folder / name).touch()
    for target in ("auto", "runs/a", "runs/a/best.pt"):
        found, _ = arguments([f"checkpoint={target}"], {"out": ""})
        assert found["checkpoint"] == Path("runs/a/best.pt"), target
    with pytest.raises(ConfigError, match=r"It holds runs: give one of them, e\.g\. checkpoint=runs/a"):
        arguments(["checkpoint=runs"], {"out": ""})
    (folder / "best.pt").unlink()
    for target in ("auto", "runs/a"):
        found, _ = arguments([f"checkpoint={target}"], {"out": ""})
        assert found["checkpoint"] == Path("runs/a/last.pt"), target


def test_generating_needs_a_text(cli, script):
    code, _, err = cli("data=copy", "data.delay=3", "data.train=4", "data.dev=4", "data.test=4", "model=gru",
                       "train=smoke", "logger=none", "train.threads=1", "run_dir=run")  # fmt: skip
    assert code == 0, err
    code, _, err = script("generate", "checkpoint=run")
    assert code == 2 and "data=copy, which is no text" in err
