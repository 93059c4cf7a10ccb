"""Time series in CSV and Parquet: what is read, how it is cut, and what a broken file is called."""

import numpy as np
import pytest
import torch

from framework.data import make_dataset
from framework.errors import ConfigError, DataError

ROWS = 240


def write_csv(path, rows=ROWS, start=0, **columns):
    steps = np.arange(start, start + rows)
    columns = {"t": steps, "a": steps * 1.0, "b": -2.0 * steps, "word": ["x"] * rows} | columns
    lines = [",".join(columns)]
    lines += [",".join(str(values[i]) for values in columns.values()) for i in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def read(path, tmp_path, **options):
    small = {"batch_size": 2, "chunk": 8, "cache_dir": str(tmp_path / "cache")}
    return make_dataset("table", path=str(path), **(small | options))


def raw(data, split):
    """The numbers of a split's tracks, as they are in the file."""
    return [(np.asarray(track.x), np.asarray(track.y)) for track in data.tracks[split]]


def test_csv_and_parquet_are_the_same(tmp_path):
    import pyarrow.csv
    import pyarrow.parquet

    csv = write_csv(tmp_path / "one.csv")
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(csv), tmp_path / "one.parquet")
    for file in (csv, tmp_path / "one.parquet"):
        data = read(file, tmp_path, time="t", horizon=3)
        assert data.inputs == data.labels == ("a", "b") and data.input == {"size": 2} and data.classes == 2
        sizes = {split: [len(track.x) for track in data.tracks[split]] for split in data.tracks}
        assert sizes == {"train": [192 - 3], "dev": [24 - 3], "test": [24 - 3]}
        ((x, y),) = raw(data, "dev")
        assert x[:, 0].tolist() == list(range(192, 213)) and (y[:, 0] - x[:, 0] == 3).all()
        assert (y[:, 1] == -2 * y[:, 0]).all()
        batch = next(data.batches("train", 0))
        assert batch.x.shape == batch.y.shape == (8, 2, 2)
        back = batch.x * data.deviation + data.mean
        assert torch.allclose(back[..., 1], -2 * back[..., 0], atol=1e-3)
    assert "training part. 1 file." in data.describe() and "inputs a, b; targets a, b" in data.describe()


def test_columns_by_name(tmp_path):
    file = write_csv(tmp_path / "one.csv", truth=[int(i > 200) for i in range(ROWS)])
    data = read(file, tmp_path, inputs=["b"], targets=["a"], truth="truth", horizon=0)
    assert (data.inputs, data.labels) == (("b",), ("a",))
    ((x, y),) = raw(data, "test")
    assert (x[:, 0] == -2 * y[:, 0]).all()
    truth = data.truth("dev")
    assert truth is not None and int(truth.sum()) == 216 - 201
    marks = [0.0] * 7 + [0.4] + [1.0] * (ROWS - 8)
    file = write_csv(tmp_path / "two.csv", truth=marks)
    with pytest.raises(DataError, match=r"two\.csv: row 8: column 'truth' holds 0\.4, where 0 is health"):
        read(file, tmp_path, targets=["a"], truth="truth")


def test_groups_files_and_gaps_end_a_track(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    write_csv(folder / "1.csv", group=["u"] * 100 + ["v"] * 140)
    b = [float(i) for i in range(ROWS)]
    b[60] = b[61] = float("nan")
    write_csv(folder / "2.csv", group=["v"] * ROWS, b=b)
    data = read(folder, tmp_path, group="group", split="track", on_error="skip", inputs=["a", "b"])
    tracks = [(track.name, len(track.x) + 1) for split in data.tracks for track in data.tracks[split]]
    assert tracks == [("train/1:0", 100), ("train/1:1", 140), ("dev/2:0", 60), ("test/2:1", 178)]
    assert "1 left out as broken." in data.describe()
    with pytest.raises(
        DataError, match=r"2\.csv: row 61: column 'b' holds no number \(nan\)\. .*on_error=skip"
    ):
        read(folder, tmp_path, group="group", split="track")


def test_pieces_of_a_file_join(tmp_path, monkeypatch):
    """What is cut does not depend on how much is read at a time."""
    import framework.data.table as module

    b = [float(i) for i in range(ROWS)]
    for bad in (0, 30, 63, 64, 150):
        b[bad] = float("inf")
    file = write_csv(tmp_path / "one.csv", group=["u"] * 97 + ["v"] * 143, b=b)
    seen = []
    for rows in (1 << 16, 32):
        monkeypatch.setattr(module, "ROWS", rows)
        data = read(
            file, tmp_path / str(rows), group="group", time="t", inputs=["b"], on_error="skip", horizon=0
        )
        parts = [[np.concatenate([x, y], 1).tolist() for x, y in raw(data, split)] for split in data.tracks]
        seen.append((parts, data.describe().replace(str(rows), "")))
    assert seen[0] == seen[1]
    assert [len(part) for part in seen[0][0]] == [5, 5, 5], "1-29, 31-62, 65-96, 97-149, 151-239"


def test_ranks_share_and_the_cache_is_by_content(tmp_path):
    file = write_csv(tmp_path / "one.csv")
    read(file, tmp_path)
    read(file, tmp_path, chunk=4, horizon=2, rank=1, world=2)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    write_csv(file, rows=300)
    assert sum(len(track.x) for track in read(file, tmp_path).tracks["train"]) == 239
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (lambda p: p.write_bytes(b""), {}, "one.csv: there are no rows in it"),
        (lambda p: p.write_text("a,b\n"), {}, "one.csv: there are no rows in it"),
        (lambda p: p.write_text("a,b\n1,2\n3\n"), {}, "one.csv: cannot be read as csv: .*2 columns, got 1"),
        (lambda p: p.write_bytes(b"a,b\n1,\xff\xfe\n"), {}, "one.csv: cannot be read as csv: .*not UTF-8"),
        (
            lambda p: write_csv(p, b=[*range(ROWS - 1), "ERR"]),
            {},
            rf"one\.csv: row {ROWS}: column 'b' holds no number \('ERR'\)",
        ),
        (lambda p: write_csv(p, b=["q"] * ROWS), {"inputs": ["b"]}, "column 'b' is not all numbers"),
        (
            lambda p: write_csv(p, t=[5] * ROWS),
            {"time": "t"},
            r"row 2: its time 5\.0 is not after the one before",
        ),
        (lambda p: write_csv(p, rows=9), {}, "has 0 steps|are too few|too few for 2 lanes"),
    ],
    ids=["empty", "no rows", "cut", "bytes", "word", "words", "time", "short"],
)
def test_a_broken_file_is_named(tmp_path, spoil, options, words):
    file = write_csv(tmp_path / "one.csv")
    spoil(file)
    with pytest.raises(DataError, match=words) as caught:
        read(file, tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_a_truncated_parquet_is_named_or_left_out(tmp_path, capfd):
    import pyarrow.csv
    import pyarrow.parquet

    folder = tmp_path / "files"
    folder.mkdir()
    whole = pyarrow.csv.read_csv(write_csv(tmp_path / "one.csv"))
    for name in ("1", "2"):
        pyarrow.parquet.write_table(whole, folder / f"{name}.parquet")
    cut = folder / "2.parquet"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"2\.parquet: cannot be read as parquet"):
        read(folder, tmp_path)
    data = read(folder, tmp_path, on_error="skip")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"warning: {cut}: cannot be read") and line.endswith(
        "left out (data.on_error=skip)"
    )
    assert len(data.tracks["train"]) == 1
    (folder / "1.parquet").unlink()
    with pytest.raises(DataError):
        read(folder, tmp_path, on_error="skip")


def test_options_are_checked(tmp_path):
    file = write_csv(tmp_path / "one.csv")
    (tmp_path / "none").mkdir()
    (tmp_path / "x.txt").write_text("")
    for path, options, words in (
        (file, {"inputs": ["aa"]}, r"data\.inputs: .*one\.csv has no column 'aa'. It has t, a, b, word"),
        (file, {"group": "grp"}, r"data\.group: .* has no column 'grp'"),
        (file, {"split": "random"}, r"data\.split: 'random' is not known"),
        (file, {"horizon": -1}, r"data\.horizon: -1 is too small"),
        (file, {"inputs": "a"}, r"data\.inputs: 'a' is not"),
        (tmp_path / "none", {}, r"data\.path: .*none holds no \.csv, \.parquet"),
        (tmp_path / "no.csv", {}, r"data\.path: there is no file"),
        (tmp_path / "x.txt", {}, r"data\.path: .* does not end in"),
    ):
        with pytest.raises(ConfigError, match=words):
            read(path, tmp_path, **options)
    with pytest.raises(ConfigError, match=r"data\.path: no file is given"):
        make_dataset("table")
