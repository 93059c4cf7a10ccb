"""Text from files and the Hub as endless streams: what comes, in which order, on which rank, what breaks."""

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from framework.data import Dataset, make_dataset
from framework.data.documents import endless
from framework.errors import ConfigError, DataError

SMALL = {"batch_size": 2, "chunk": 16, "epoch_batches": 5, "eval_batches": 2}
LINES = [f"line {i} of the text" for i in range(1400)]  # blocks 18 and 19 of 64 lines are for dev and test


def read(path, **options):
    return make_dataset("hub_text", path=str(path), **(SMALL | options))


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def lanes(data, epochs, split="train"):
    """What each lane reads over some epochs."""
    text = [""] * data.batch_size
    for epoch in range(epochs):
        for batch in data.batches(split, epoch):
            for b in range(data.batch_size):
                text[b] += data.decode(batch.x[:, b])
    return text


def test_lanes_read_whole_documents_in_order(corpus):
    data = read(corpus)
    assert isinstance(data, Dataset) and data.input == {"vocab": data.classes}
    text = lanes(data, 12)
    found = [line for lane in text for line in lane.split("\n")[:-1]]
    assert set(found) <= set(LINES) and len(found) == len(set(found)) > 60
    numbers = [sorted(int(line.split()[1]) for line in lane.split("\n")[:-1]) for lane in text]
    for lane, ordered in zip(text, numbers, strict=True):
        assert [int(line.split()[1]) for line in lane.split("\n")[:-1]] == ordered
    assert abs(len(numbers[0]) - len(numbers[1])) <= 2, "a document goes to the lane that waits"
    batch = next(data.batches("dev", 0))
    assert torch.equal(batch.x[1:], batch.y[:-1])
    assert data.decode(batch.x[:10, 0]) == "line 1152 "  # 18 * 64
    assert data.decode(next(data.batches("test", 0)).x[:10, 0]) == "line 1216 "


def test_an_epoch_goes_on_where_the_last_one_ended_and_can_be_resumed(corpus):
    data = read(corpus)
    every = [b for epoch in range(3) for b in data.batches("train", epoch)]
    assert len(every) == 15 and [bool(b.resets[0].any()) for b in every] == [i % 5 == 0 for i in range(15)]
    assert not any(bool(b.resets[1:].any()) for b in every)
    for epoch, start in ((1, 2), (0, 0), (2, 4)):
        again = list(read(corpus).batches("train", epoch, start))
        assert len(again) == 5 - start
        for one, two in zip(every[epoch * 5 + start : epoch * 5 + 5], again, strict=True):
            assert torch.equal(one.x, two.x) and torch.equal(one.y, two.y)
            assert torch.equal(one.resets, two.resets)
    repeated = list(data.batches("train", 1))  # back in the same dataset, too
    assert all(torch.equal(a.x, b.x) for a, b in zip(repeated, every[5:10], strict=True))


def test_after_the_last_document_comes_the_first():
    texts = [str(i) for i in range(10)]
    for shuffle in (0, 3):
        seen = list(itertools.islice(endless(lambda _: iter(texts), "train", shuffle, 7), 20))
        for turn in (seen[:10], seen[10:]):
            assert sorted(turn) == texts, "every document once a pass"
            assert (turn == texts) == (not shuffle)
        assert (seen[:10] == seen[10:]) == (not shuffle)
    with pytest.raises(DataError, match="there is no text for train"):
        next(endless(lambda _: iter(()), "train", 0, 0))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_read_what_one_does(corpus, world):
    """Lane b is that of process b % world; they have one vocabulary, and the same number of chunks."""
    one = read(corpus, batch_size=6, shuffle=5)
    parts = [read(corpus, batch_size=6 // world, shuffle=5, rank=r, world=world) for r in range(world)]
    assert {part.labels for part in parts} == {one.labels}
    assert {part.describe() for part in parts} == {one.describe()}
    for split, epoch, start in (("train", 0, 0), ("train", 2, 3), ("dev", 0, 0)):
        shares = zip(*(part.batches(split, epoch, start) for part in parts), strict=True)
        for whole, share in zip(one.batches(split, epoch, start), shares, strict=True):
            for rank, batch in enumerate(share):
                assert batch.ids == whole.ids[rank::world]
                for name in ("x", "y", "resets"):
                    assert torch.equal(getattr(batch, name), getattr(whole, name)[:, rank::world])


def test_only_what_is_needed_is_read(tmp_path, monkeypatch):
    """A corpus that never ends can be trained on: nothing waits for its last row."""
    import framework.data.hub_text as module

    taken = itertools.count()

    def source(split):
        for i in itertools.count():
            next(taken)
            yield f"document {i} of {split}, some more words"

    monkeypatch.setattr(module, "hub_source", lambda *a: source)
    data = read("some/corpus", vocab_chars=500)
    assert len(list(data.batches("train", 0))) == 5
    assert next(taken) < 100


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_other_files_and_columns(tmp_path, kind):
    folder = tmp_path / "files"
    folder.mkdir()
    rows = [{"body": f"row {i}, with a comma", "n": i} for i in range(1400)]
    file = folder / f"one.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        file.write_text("body,n\n" + "".join(f'"{r["body"]}",{r["n"]}\n' for r in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    data = read(folder, column="body")
    assert data.decode(next(data.batches("train", 0)).x[:, 0]).startswith("row 0, with a")
    with pytest.raises(ConfigError, match=r"data\.column: .* has no column 'txt'. It has body, n"):
        read(folder, column="txt")
    with pytest.raises(ConfigError, match=r"data\.column: 'n' of .* is no text"):
        read(folder, column="n")


def test_a_dataset_of_the_hub_with_and_without_splits(monkeypatch):
    """The Hub is played by a dataset in memory; what is asked of it is what is documented."""
    import datasets

    asked = []
    rows = {
        "train": [*LINES[:600], "dev for tests"],
        "validation": ["for dev " * 20] * 9,
        "test": ["for test " * 20] * 9,
    }

    def load(path, subset, streaming):
        asked.append((path, subset, streaming))
        found = {name: datasets.Dataset.from_dict({"text": texts}) for name, texts in rows.items()}
        return {k: v.to_iterable_dataset() if streaming else v for k, v in found.items()}

    monkeypatch.setattr(datasets, "load_dataset", load)
    for streaming in (True, False):
        data = read("some/corpus", subset="en", streaming=streaming)
        assert data.decode(next(data.batches("dev", 0)).x[:8, 0]) == "for dev "
        assert data.decode(next(data.batches("test", 0)).x[:9, 0]) == "for test "
    assert asked == [("some/corpus", "en", True), ("some/corpus", "en", False)]
    del rows["validation"], rows["test"]
    rows["train"] = LINES
    assert read("some/corpus").decode(next(read("some/corpus").batches("dev", 0)).x[:10, 0]) == "line 1152 "
    rows["other"] = rows.pop("train")
    with pytest.raises(ConfigError, match="'some/corpus' has no split train, only other"):
        read("some/corpus")


def test_without_the_network_a_name_is_one_error_and_nobody_is_asked(monkeypatch):
    touched = []

    def refuse(*args, **_kwargs):
        touched.append(args)
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(ConfigError) as caught:
        read("nobody/nothing")
    text = str(caught.value)
    assert text.startswith("data.path: 'nobody/nothing' is no file") and "data.online=true" in text
    assert "\n" not in text and not touched


def test_a_hub_that_cannot_be_reached_is_one_quick_error(monkeypatch):
    tried = []

    def lost(*args, **_kwargs):
        tried.append(args[0])
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lost)
    with pytest.raises(
        ConfigError, match=r"data\.path: 'nobody/nothing' cannot be had from the Hub"
    ) as caught:
        read("nobody/nothing", online=True)
    assert tried and len(tried) < 5 and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="is no file"):
        read("nobody/nothing")  # off again
    import huggingface_hub

    assert huggingface_hub.constants.HF_HUB_OFFLINE is True


def test_a_broken_file_is_named_or_left(tmp_path, capfd):
    folder = tmp_path / "files"
    folder.mkdir()
    good = folder / "2.txt"
    good.write_text("\n".join(LINES))
    bad = folder / "1.txt"
    bad.write_bytes(b"good line\n\xff\xfe\xff broken\n")
    with pytest.raises(DataError, match=r"1\.txt: cannot be read as text: .*utf-8") as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    data = read(folder, on_error="skip")
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and str(bad) in err and "left out" in err
    assert "1 left out as broken." in data.describe()
    assert "line 0 of" in lanes(data, 1)[0]
    good.write_text("too short")
    with pytest.raises(DataError, match=r"does not fill|no text"):
        read(folder, on_error="skip")


def test_a_user_without_a_home_reads_files(corpus):
    """`datasets` wants a folder of its own even for what is not kept."""
    code = (
        "import sys; from framework.data.huggingface import file_pieces\n"
        "print(sum(len(piece) for piece in file_pieces('text', sys.argv[1], 100)))"
    )
    unset = ("XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    done = subprocess.run(
        [sys.executable, "-c", code, str(corpus)],
        cwd=Path(__file__).parents[2],
        env=environment | {"HOME": str(corpus)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{len(LINES)}\n"), done.stderr


def test_it_trains(cli, corpus):
    small = [f"data.{key}={value}" for key, value in SMALL.items()]
    code, out, err = cli(
        "data=hub_text",
        f"data.path={corpus}",
        *small,
        "model=stack",
        "cell=gru",
        "model.params.size=8",
        "model.params.layers=1",
        "train.threads=1",
        "train=smoke",
        "logger=none",
    )
    assert code == 0, err
    assert "bits per character" in out
    code, _, err = cli("data=hub_text")
    assert code == 2 and "data.path: no text is given" in err


def test_of_a_file_that_breaks_off_one_line_is_said_also_where_too_little_is_left(tmp_path, capfd):
    """And of one that is empty nothing: it has no rows."""
    rows = "".join(json.dumps({"text": line}) + "\n" for line in LINES)
    (tmp_path / "a.jsonl").write_text(rows)
    (tmp_path / "b.jsonl").write_text("")
    read(tmp_path)
    assert capfd.readouterr().err == ""
    (tmp_path / "a.jsonl").write_text(rows[:2000])
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read as json"):
        read(tmp_path)
    assert capfd.readouterr().err == ""
    with pytest.raises(DataError, match=r"there is no text in it|does not fill 2 lanes"):
        read(tmp_path, on_error="skip")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: ") and "a.jsonl: cannot be read as json" in line


def test_a_file_that_is_found_broken_while_it_trains_is_said_then_and_once(tmp_path, capfd):
    """The vocabulary and dev need the first file alone."""
    (tmp_path / "a.txt").write_text("\n".join(LINES) + "\n")
    (tmp_path / "b.jsonl").write_text('{"text": "good"}\n{"text": "br')
    data = read(tmp_path, on_error="skip", vocab_chars=500, epoch_batches=900, eval_batches=1)
    assert capfd.readouterr().err == "" and data.describe().endswith("any other.")
    assert len(list(data.batches("train", 0))) == 900
    (line,) = capfd.readouterr().err.splitlines()
    assert "b.jsonl: cannot be read as json" in line and line.endswith("; left out (data.on_error=skip)")
    assert len(list(data.batches("train", 1))) == 900, "the file is met again"
    assert capfd.readouterr().err == "" and "1 left out as broken" in data.describe()
