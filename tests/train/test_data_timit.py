"""The TIMIT reader: layouts, splits, labels and errors on a generated tree; numbers on the public sample."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from framework.data import make_dataset
from framework.data.features import Segment
from framework.data.sphere import write_sphere
from framework.data.synth_speech import make_corpus
from framework.data.timit_tables import (
    core_test_speakers,
    dev_speakers,
    fold_to_39,
    phone_map,
    phone_set,
    relabel,
)
from framework.data.timit_tree import find, read_phn, read_wav
from framework.errors import ConfigError, DataError
from framework.script import guarded
from scripts.make_timit_tree import main, write_tree

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(os.environ.get("INTRASTREAM_TIMIT_SAMPLE", ROOT / ".." / "shared" / "data" / "timit_sample"))
needs_sample = pytest.mark.skipif(
    not SAMPLE.is_dir(),
    reason="the public TIMIT sample is not beside the checkout (INTRASTREAM_TIMIT_SAMPLE)",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tree")
    write_tree(out, speakers=3, test=2, sentences=2, seed=5)
    return out


@pytest.fixture
def tree(written, tmp_path) -> Path:
    """A tree of this test's own, to spoil."""
    return Path(shutil.copytree(written, tmp_path / "tree"))


def read(root: Path, tmp_path: Path, **options):
    return make_dataset("timit", **({"root": str(root), "cache_dir": str(tmp_path / "cache")} | options))


# ---- conventions


def test_phone_sets_fold_as_published():
    assert [len(phone_set(n)) for n in (61, 48, 39)] == [61, 48, 39]
    for count in (61, 48):
        fold, names, scored = fold_to_39(count), phone_set(count), phone_set(39)
        assert fold is not None and set(fold) - {-1} == set(range(39))
        folded = {name: scored[i] if i >= 0 else None for name, i in zip(names, fold, strict=True)}
        assert folded["zh"] == "sh" and folded["ao"] == "aa" and folded["ax"] == "ah"
        assert (folded.get("q", None) is None) and list(folded.values()).count(None) == (
            1 if count == 61 else 0
        )
    assert fold_to_39(39) is None
    assert phone_map()["ux"] == ("uw", "uw") and phone_map()["h#"] == ("sil", "sil")
    # folding to 48 and then to 39 is folding to 39
    fold48 = fold_to_39(48)
    assert fold48 is not None
    assert tuple(fold48[i] if i >= 0 else -1 for i in relabel(48, -1)) == fold_to_39(61)


def test_speaker_lists():
    assert (len(dev_speakers()), len(core_test_speakers())) == (50, 24)
    assert not dev_speakers() & core_test_speakers()
    # two men and a woman from each of the eight dialect regions
    assert sorted(name[0] for name in core_test_speakers()) == ["f"] * 8 + ["m"] * 16


# ---- audio files


def test_sphere_roundtrip(tmp_path):
    import soundfile

    random = np.random.default_rng(0)
    for samples in (0, 1, 999, 16_000):
        wave = random.integers(-32768, 32768, samples).astype(np.int16)
        path = tmp_path / f"{samples}.WAV"
        write_sphere(path, wave, "spk_sx1")
        assert path.stat().st_size == 1024 + 2 * samples
        if samples:
            assert soundfile.info(path).format == "NIST"
            assert read_wav(path).numpy().tolist() == wave.tolist()
    with pytest.raises(ValueError, match="int16"):
        write_sphere(tmp_path / "x", np.zeros(3), "x")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda b: b"", "cannot read the audio"),
        (lambda b: b[:700], "cannot read the audio"),
        (lambda b: b[: len(b) // 2], "cut short"),
        (lambda b: b.replace(b"sample_rate -i 16000", b"sample_rate -i 44100"), "44100 Hz with 1 channels"),
        (
            lambda b: b.replace(
                b"end_head\n", b"sample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
            ).replace(b" " * 60, b"", 1),
            "shorten-compressed",
        ),
    ],
    ids=["empty", "half a header", "cut", "rate", "shorten"],
)
def test_a_bad_audio_file_is_named(tree, tmp_path, spoil, words):
    path = sorted(tree.rglob("*.WAV"))[2]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=words) as caught:
        read(tree, tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not list((tmp_path / "cache").iterdir()), "nothing half made is kept"


# ---- labels


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 10 h#\n10 20 xx\n", r":2: 'xx' is none of TIMIT's 61 phones"),
        ("0 10\n", r":1: '0 10' is not `begin end phone`"),
        ("0 -10 h#\n", r":1: .* is not `begin"),
        ("10 5 h#\n", r":1: .* is not `begin"),
        ("", "no labels"),
        ("0 900000 h#\n", "labels end at sample 900000"),
    ],
)
def test_a_bad_label_file_is_named(tree, tmp_path, text, words):
    path = sorted(tree.rglob("*.PHN"))[1]
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read(tree, tmp_path)
    assert str(caught.value).startswith(str(path))


def test_labels_are_read_in_either_case_and_with_blank_lines(tmp_path):
    path = tmp_path / "a.phn"
    path.write_text("0 10 H#\n\n10 20 aa\n")
    assert read_phn(path, 20) == [Segment(0, 10, "h#"), Segment(10, 20, "aa")]


@pytest.mark.parametrize("kind", ["WAV", "PHN"])
def test_a_missing_file_is_named(tree, tmp_path, kind):
    path = sorted(tree.rglob(f"*.{kind}"))[0]
    path.unlink()
    with pytest.raises(DataError, match=f"{path.stem}.*its {kind} file is missing"):
        read(tree, tmp_path)


# ---- broken files that are left out


def test_broken_files_are_left_out_where_it_is_asked(tree, tmp_path, capfd):
    """Each is named in a line, now and when the cache is found; `stop` takes nothing that `skip` made."""
    whole = read(tree, tmp_path)
    waves = sorted((tree / "TRAIN").rglob("*.WAV"))
    waves[0].write_bytes(b"noise")
    waves[1].write_bytes(waves[1].read_bytes()[:1024])
    waves[2].with_suffix(".PHN").unlink()
    waves[3].with_suffix(".PHN").write_text("")
    names = {"/".join(path.with_suffix("").parts[-2:]).lower() for path in waves[:4]}
    for _ in range(2):
        data = read(tree, tmp_path, on_error="skip")
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 4 and all(line.startswith("warning: ") for line in lines)
        for path in waves[:4]:
            assert sum(str(path.with_suffix("")) in line for line in lines) == 1, path
        assert "4 left out as broken." in data.describe()
    ids = [{i.split("-", 1)[1] for b in d.batches("train", 0) for i in b.ids} for d in (whole, data)]
    assert ids[0] - ids[1] == names
    with pytest.raises(DataError):
        read(tree, tmp_path)
    with pytest.raises(ConfigError, match=r"data\.on_error: 'ignore' is not known"):
        read(tree, tmp_path, on_error="ignore")


def test_a_split_without_one_good_file_is_refused(tree, tmp_path):
    for path in (tree / "TRAIN").rglob("*.WAV"):
        path.write_bytes(b"noise")
    with pytest.raises(DataError, match="train: none of its recordings can be used"):
        read(tree, tmp_path, on_error="skip")


def test_targets_are_the_labels_in_a_row(tree, tmp_path):
    path = sorted((tree / "TRAIN").rglob("*.PHN"))[0]
    end = int(path.read_text().split()[-2])
    # the second phone is shorter than any frame, the fourth repeats the third
    path.write_text(f"0 4000 h#\n4000 4010 ax-h\n4010 6000 q\n6000 8000 s\n8000 9000 s\n9000 {end} zh\n")
    for phones, wanted in ((61, ["h#", "ax-h", "q", "s", "s", "zh"]), (39, ["sil", "ah", "s", "s", "sh"])):
        data = read(tree, tmp_path, phones=phones)
        lane = next(
            batch.targets[batch.ids.index(name)]
            for batch in data.batches("train", 0)
            for name in batch.ids
            if name.endswith("/".join(path.with_suffix("").parts[-2:]).lower())
        )
        assert [data.labels[i] for i in lane if i >= 0] == wanted


# ---- finding the corpus


def test_without_a_corpus_the_error_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv("TIMIT_ROOT", raising=False)
    with pytest.raises(ConfigError) as caught:
        make_dataset("timit")
    for word in ("LDC93S1", "data.root=", "TIMIT_ROOT", "data=synth_speech"):
        assert word in str(caught.value)
    with pytest.raises(ConfigError, match=r"data\.root: there is no folder /no/such.*data=synth_speech"):
        make_dataset("timit", root="/no/such")
    monkeypatch.setenv("TIMIT_ROOT", "/no/such")
    with pytest.raises(ConfigError, match="TIMIT_ROOT: there is no folder"):
        make_dataset("timit")
    with pytest.raises(ConfigError, match="has neither TRAIN and TEST nor drN-speaker folders"):
        make_dataset("timit", root=str(tmp_path))


def test_the_generated_tree_reads_back(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("TIMIT_ROOT", str(tree))
    data = make_dataset("timit", cache_dir=str(tmp_path / "cache"), phones=39, deltas=0)
    assert (
        "train 6 utterances of 3 speakers" in data.describe() and "Not the official split" in data.describe()
    )
    said = {
        f"dr{i % 8 + 1}-{speaker.name}/sx{k + 1}": utterance
        for split, count in (("train", 3), ("test", 2))
        for i, (speaker, utterances) in enumerate(make_corpus(split, count, 2, 5))
        for k, utterance in enumerate(utterances)
    }
    seen = {}
    for split in ("train", "dev", "test"):
        for batch in data.batches(split, 0):
            for lane, name in enumerate(batch.ids):
                seen[name] = batch.y[: batch.lengths[lane], lane]
    assert seen.keys() == said.keys()
    for name, y in seen.items():
        centres = 160 * np.arange(len(y)) + 200
        edges = [s.end for s in said[name].segments]
        labels = [said[name].segments[i].label for i in np.searchsorted(edges, centres, side="right")]
        assert [data.labels[i] for i in y] == labels


def test_layouts_and_cases_give_the_same(tree, tmp_path):
    """LDC upper case, lower case, one folder further down, a stray copy and SA sentences: all one corpus."""
    upper = read(tree, tmp_path)
    lower = tmp_path / "lower" / "timit"
    for path in tree.rglob("*.*"):
        target = lower / str(path.relative_to(tree)).lower()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for path in list(lower.rglob("sx1.*")):
        shutil.copy(path, path.with_name("sa1" + path.suffix))
        shutil.copy(path, path.with_name("sx1.wav.wav"))
    other = read(lower.parent, tmp_path)
    for split in ("train", "dev", "test"):
        for a, b in zip(upper.batches(split, 0), other.batches(split, 0), strict=True):
            assert a.ids == b.ids and torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


def _fake(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("sa1", "sx3", "si4"):
        (folder / f"{name}.WAV").touch()
        (folder / f"{name}.PHN").touch()


def test_the_official_split(tmp_path):
    for i in range(462):
        _fake(tmp_path / "TRAIN" / f"DR{i % 8 + 1}" / f"MAAA{i}")
    for name in [*sorted(dev_speakers() | core_test_speakers()), "mxxx0"]:
        _fake(tmp_path / "TEST" / "DR1" / name.upper())
    tree = find(tmp_path)
    sizes = {split: (len({r.speaker for r in part}), len(part)) for split, part in tree.splits.items()}
    assert sizes == {"train": (462, 924), "dev": (50, 100), "test": (24, 48)}
    assert {r.speaker for r in tree.splits["test"]} == core_test_speakers()
    assert tree.note.startswith("Official split") and tree.note.endswith("without SA.")
    shutil.rmtree(tmp_path / "TRAIN" / "DR1" / "MAAA0")
    assert find(tmp_path).note.endswith("but this copy has only 461, 50, 24 speakers of them.")


# ---- the data


def test_training_features_have_mean_0_and_deviation_1(tree, tmp_path):
    data = read(tree, tmp_path, n_mels=20, deltas=2)
    assert data.input == {"size": 60}
    frames = torch.cat([b.x[: b.lengths[i], i] for b in data.batches("train", 0) for i in range(len(b.ids))])
    assert torch.allclose(frames.mean(0), torch.zeros(60), atol=1e-4)
    assert torch.allclose(frames.std(0, unbiased=False), torch.ones(60), atol=1e-3)


def test_a_changed_file_is_read_again(tree, tmp_path):
    read(tree, tmp_path)
    read(tree, tmp_path, batch_size=3, phones=48)
    assert len(list((tmp_path / "cache").iterdir())) == 1, (
        "batch size and phone set need no cache of their own"
    )
    path = sorted((tree / "TRAIN").rglob("*.PHN"))[0]
    path.write_text(path.read_text().replace(" h#", " q"))
    changed = read(tree, tmp_path)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    y = torch.cat([b.y.flatten() for b in changed.batches("train", 0)])
    assert (y == phone_set(61).index("q")).any()
    y = torch.cat([b.y.flatten() for b in read(tree, tmp_path, phones=39).batches("train", 0)])
    unlabelled = sum(int((b.y == -100).sum()) for b in changed.batches("train", 0))
    assert int((y == -100).sum()) > unlabelled, "q has no class among the 39"


def test_reading_touches_no_network_and_shows_no_bars(tree, tmp_path, monkeypatch, capfd):
    import socket

    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    data = read(tree, tmp_path)
    assert sum(1 for _ in data.batches("train", 0)) == data.count("train", 0)
    assert capfd.readouterr() == ("", "")


def test_the_script_answers_mistakes_with_one_line(tmp_path, capsys):
    assert guarded(main, [f"out={tmp_path / 'new'}", "speakers=1", "test=2", "sentences=1"]) == 0
    assert "3 sentences" in capsys.readouterr().out
    assert len(list((tmp_path / "new").rglob("*.TXT"))) == 3
    for arguments, words in (
        ([], "out: no folder given"),
        (["out=x", "speakrs=1"], "Did you mean 'speakers'?"),
        (["out=x", "test=one"], "test: 'one' is not a whole number"),
        (["out=x", "test=1"], "test: 1 is too small"),
    ):
        assert guarded(main, arguments) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


# ---- the public sample


@needs_sample
def test_public_sample(tmp_path):
    data = read(SAMPLE, tmp_path)
    assert data.describe().startswith(
        "timit: train 96 utterances of 12 speakers, 29,185 frames (4.9 min); dev 16 utterances of 2 speakers"
    )
    assert (data.classes, data.input) == (61, {"size": 120})
    seen = torch.zeros(61)
    for split in ("train", "dev", "test"):
        for batch in data.batches(split, 0):
            scored = batch.y[batch.y >= 0]
            seen += torch.bincount(scored, minlength=61)
            inside = torch.arange(len(batch.y)).unsqueeze(1) < batch.lengths
            assert (batch.y[inside] >= 0).double().mean() > 0.99, "the labels cover the recordings"
            assert not any("/sa" in name for name in batch.ids)
    assert (seen > 0).sum() == 61
    speakers = [{r.speaker for r in part} for part in find(SAMPLE).splits.values()]
    assert [len(s) for s in speakers] == [12, 2, 2] and len(set.union(*speakers)) == 16


@needs_sample
def test_a_sphere_file_of_the_sample_is_written_back_alike(tmp_path):
    """Behind the header our file of a real recording is the recording, byte for byte."""
    path = sorted(SAMPLE.glob("dr1-*/*.wav"))[0]
    wave = read_wav(path)
    write_sphere(tmp_path / "x.wav", wave.numpy(), "x")
    assert (tmp_path / "x.wav").read_bytes()[1024:] == path.read_bytes()[1024 : 1024 + 2 * len(wave)]
