import pytest
import torch

from framework.data import make_dataset
from framework.data.text import OTHER, Characters
from framework.errors import DataError


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("".join(chr(97 + (i * i + i // 7) % 26) for i in range(5000)) + "é" * 7, encoding="utf-8")
    return path


def make(path, **options):
    return make_dataset("text", **({"path": str(path), "batch_size": 4, "chunk": 60} | options))


def test_vocabulary_takes_the_most_frequent_and_one_for_the_rest():
    chars = Characters.of("bbbaaacd", 4)
    assert chars.chars == ("a", "b", "c", OTHER)  # a before b, c before d: equally frequent, by code point
    ids = chars.encode("abcd?")
    assert ids.tolist() == [0, 1, 2, 3, 3] and ids.dtype == torch.int64
    assert chars.decode(ids) == f"abc{OTHER}{OTHER}"
    assert Characters.of("ab", 96).chars == ("a", "b", OTHER)
    assert chars.encode("").tolist() == []


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_lanes_go_on_from_chunk_to_chunk_and_y_is_the_next_character(story, split):
    data = make(story)
    batches = list(data.batches(split, 2))
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    assert torch.equal(y[:-1], x[1:])
    lanes = ["".join(data.labels[i] for i in x[:, b]) for b in range(4)]
    text = story.read_text(encoding="utf-8")
    edges = {"train": (0, 4506), "dev": (4506, 4757), "test": (4757, 5007)}[split]
    part = "".join(c if c in data.labels else OTHER for c in text[slice(*edges)])
    assert "".join(lanes) in part  # one lane goes on where the one before it ends
    assert len(part) - len("".join(lanes)) < 60 + 2 * 4 + 1
    resets = torch.cat([b.resets for b in batches])
    assert resets[0].all() and not resets[1:].any()
    assert data.carry and data.input == {"vocab": data.classes}


def test_encode_decode(story):
    data = make(story)
    assert data.decode(data.encode("hello")) == "hello"
    assert data.labels[-1] == OTHER and data.decode(data.encode("é")) == OTHER, "é is in the test part only"


def test_the_share_of_characters_outside_the_vocabulary_is_told(tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("aaab" * 500, encoding="utf-8")
    assert (
        "2 classes, the last one for any other (25.00% of the training text)"
        in make(path, vocab=2).describe()
    )
    told = make(path, vocab=3, eval_streams=2).describe()
    assert "4 lanes (2 in dev and test)" in told and "(0.00% of the training text)" in told


def test_the_default_is_pythons_own_library():
    data = make_dataset("text", max_chars=30_000)
    text = data.decode(torch.cat([b.x[:, 0] for b in data.batches("train", 0)]))
    assert "import " in text and "library source of Python" in data.describe()


def test_files_that_are_no_text_or_too_short_are_named(tmp_path):
    bad = tmp_path / "bad.bin"
    bad.write_bytes(b"abc\xff\xfe")
    with pytest.raises(DataError, match=r"bad\.bin: not UTF-8 .*byte 3"):
        make(bad)
    short = tmp_path / "short.txt"
    short.write_text("abc")
    with pytest.raises(DataError, match=r"short\.txt: its train part has 3 characters, too few for 4 lanes"):
        make(short)
