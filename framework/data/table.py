"""table: time series in CSV or Parquet files, read in pieces through `datasets`, kept as a map of numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from framework.data.batch import SPLITS, Split
from framework.data.cache import cached
from framework.data.faults import Faults
from framework.data.huggingface import file_pieces
from framework.data.options import at_least, one_of
from framework.data.series_streams import Series, Track
from framework.errors import ConfigError, DataError
from framework.names import did_you_mean
from framework.words import counted

KINDS = {".csv": "csv", ".parquet": "parquet"}
ROWS = 1 << 16  # read at a time
SHARES = (0.8, 0.9)  # where dev and test begin
FORMAT = 2  # of what is kept: counts up when it changes


@dataclass(frozen=True)
class Columns:
    """Which columns mean what; `group` and `time` are not numbers that are learned."""

    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    group: str | None
    time: str | None
    truth: str | None

    @property
    def numbers(self) -> tuple[str, ...]:
        """Columns of what is kept, in order: inputs, targets, truth."""
        return (*self.inputs, *self.targets, *([self.truth] if self.truth else []))


def table(
    *,
    path: str | None = None,
    inputs: list | None = None,
    targets: list | None = None,
    horizon: int = 1,
    group: str | None = None,
    time: str | None = None,
    truth: str | None = None,
    split: str = "time",
    batch_size: int = 16,
    chunk: int = 128,
    rank: int = 0,
    world: int = 1,
    seed: int = 0,
    on_error: str = "stop",
    cache_dir: str | None = None,
) -> Series:
    """Read a .csv or .parquet file, or all in a folder, a row per step; to forecast `targets` by `horizon`.

    inputs: names of columns (none: all that are numbers and have no other meaning); targets: those that are
    forecast (none: the inputs). A track ends with its file, and where the column `group` changes; `time` must
    rise within a track. `truth`: a column of 0 and 1, the known faults. split: `time` cuts each track in
    80, 10 and 10 %, `track` shares out whole tracks in that order. A row without a number in a column that is
    used is refused; with on_error=skip the track is cut there, and a file that cannot be read is left out.
    The numbers are kept as float32 in a map of a file, so they may exceed the memory. ConfigError and
    DataError name the option, the file and the row.
    """
    for option, value, least in (
        ("horizon", horizon, 0),
        ("batch_size", batch_size, 1),
        ("chunk", chunk, 1),
        ("rank", rank, 0),
        ("world", world, 1),
        ("seed", seed, 0),
    ):
        at_least(option, value, least)
    one_of("split", split, ("time", "track"))
    faults = Faults(on_error)
    files = find_files(path, KINDS)
    named = Columns(tuple(inputs or ()), tuple(targets or ()), group, time, truth)
    key = {
        "files": [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
        "columns": vars(named),
        "on_error": on_error,
        "format": FORMAT,
    }
    folder = cached(cache_dir, "table", key, lambda work: _build(work, files, named, on_error))
    faults.load(folder)
    kept = json.loads((folder / "tracks.json").read_text(encoding="utf-8"))
    columns, runs = Columns(**kept["columns"]), kept["tracks"]
    values = np.memmap(folder / "values.f32", dtype=np.float32, mode="r").reshape(-1, len(columns.numbers))
    tracks: dict[Split, list[Track]] = {each: [] for each in SPLITS}
    for number, (name, begin, end) in enumerate(runs):
        if end - begin < horizon + len(SPLITS):
            faults.add(DataError(name, f"{end - begin} rows are too few", "Lower data.horizon"))
            continue
        for part, first, last in _parts(split, number, len(runs), begin, end):
            if last - first > horizon:
                tracks[part].append(_track(f"{part}/{name}", values[first:last], columns, horizon))
    note = " ".join(filter(None, (counted(len(files), "file") + ".", faults.say())))
    return Series(
        "table", tracks, columns.inputs, columns.targets, batch_size, chunk, seed, rank, world, note
    )


def find_files(path: str | None, kinds: Sequence[str] | dict[str, str]) -> list[Path]:
    """The file `path`, or all files below it that end as one of `kinds`, by name. Raises ConfigError."""
    known = ", ".join(kinds)
    if path is None:
        raise ConfigError(
            "data.path", "no file is given", f"Give one, or a folder of {known}: data.path=FILE"
        )
    place = Path(path).expanduser()
    if place.is_dir():
        found = sorted(p for p in place.rglob("*") if p.suffix.lower() in kinds and p.is_file())
        if not found:
            raise ConfigError("data.path", f"{place} holds no {known}", "Give another folder")
        return found
    if not place.is_file():
        raise ConfigError("data.path", f"there is no file {place}", f"Give one that ends in {known}")
    if place.suffix.lower() not in kinds:
        raise ConfigError("data.path", f"{place} does not end in {known}", "Convert or rename it")
    return [place]


def _track(name: str, values: np.ndarray, columns: Columns, horizon: int) -> Track:
    """The part of a map that is a track: y of a step lies `horizon` rows below its x."""
    first, last = len(columns.inputs), len(columns.inputs) + len(columns.targets)
    steps = len(values) - horizon
    truth = values[horizon:, last] > 0.5 if columns.truth else None
    return Track(name, values[:steps, :first], values[horizon:, first:last], truth)


def _parts(split: str, number: int, count: int, begin: int, end: int) -> Iterator[tuple[Split, int, int]]:
    """Which rows of a track go where."""
    if split == "track":
        tenth = max(1, round(count / 10))
        yield SPLITS[(number >= count - 2 * tenth) + (number >= count - tenth)], begin, end
        return
    edges = [begin, *(begin + round(share * (end - begin)) for share in SHARES), end]
    yield from zip(SPLITS, edges[:-1], edges[1:], strict=True)


def _columns(named: Columns, head: Any, file: Path) -> Columns:
    """The meaning of all columns, from those that are named and the first rows of the first file."""
    names = list(head.column_names)
    for option, wanted in vars(named).items():
        for name in wanted if isinstance(wanted, tuple) else filter(None, [wanted]):
            if name not in names:
                raise ConfigError(
                    f"data.{option}",
                    f"{file} has no column '{name}'",
                    f"It has {', '.join(names)}.{did_you_mean(str(name), names)}",
                )
    inputs = list(named.inputs)
    if not inputs:
        kinds = {name: str(head.schema.field(name).type) for name in names}
        numbers = ("int", "uint", "float", "double", "half", "bool")
        other = (named.group, named.time, named.truth)
        # One word in a column makes all of it text for the reader: it is not left out unsaid.
        inputs = [
            n
            for n in names
            if n not in other and (kinds[n].startswith(numbers) or _parsed(head.column(n)) is not None)
        ]
        if not inputs:
            raise ConfigError(
                "data.inputs", f"no column of {file} holds numbers", f"It has {', '.join(names)}."
            )
    return replace(named, inputs=tuple(inputs), targets=named.targets or tuple(inputs))


def _build(work: Path, files: list[Path], named: Columns, on_error: str) -> None:
    """Write the numbers of all files behind each other, and where each track lies in them."""
    faults = Faults(on_error)
    runs: list[tuple[str, int, int]] = []
    columns: Columns | None = None
    with open(work / "values.f32", "wb") as out:
        row = 0  # of the map
        for file in files:
            begun = out.tell()
            try:
                pieces = file_pieces(KINDS[file.suffix.lower()], file, ROWS)
                head = next(pieces, None)
                if head is None:
                    raise DataError(str(file), "there are no rows in it", "Remove it")
                columns = columns or _columns(named, head, file)
                found = _write(file, chain([head], pieces), columns, faults, out, row)
            except DataError as error:
                out.seek(begun)
                out.truncate()
                faults.add(error)
                continue
            runs += found
            row = out.tell() // (4 * len(columns.numbers))
    if columns is None or not runs:
        raise DataError(str(files[0].parent), "none of its files can be used", "Mend them")
    text = json.dumps({"columns": vars(columns), "tracks": runs})
    (work / "tracks.json").write_text(text, encoding="utf-8")
    faults.save(work)


def _write(
    file: Path, pieces: Iterable[Any], columns: Columns, faults: Faults, out: BinaryIO, row: int
) -> list[tuple[str, int, int]]:
    """Append a file's rows; its tracks as (name, first row of the map, row behind the last)."""
    runs: list[tuple[str, int, int]] = []
    begin, here = row, row  # of the track that is being written; the next row of the map
    seen, left, last_group, last_time = 0, 0, None, None

    def end_track() -> None:
        nonlocal begin
        if here > begin:
            runs.append((f"{file.stem}:{len(runs)}", begin, here))
        begin = here

    for piece in pieces:
        numbers = np.stack([_floats(piece, name, file) for name in columns.numbers], 1)
        fits = np.abs(numbers) <= np.finfo(np.float32).max  # not so NaN
        good: np.ndarray = np.all(fits, axis=1)
        if not good.all():
            bad = int(np.flatnonzero(~good)[0])
            column = int(np.flatnonzero(~fits[bad])[0])
            name, value = columns.numbers[column], numbers[bad, column]
            if faults.on_error == "stop":
                what = "a number too large for float32" if np.isfinite(value) else "no number"
                found = piece.column(name)[bad].as_py()
                shown = repr(found[:40]) if isinstance(found, str) else f"{value:g}"
                cause = f"row {seen + bad + 1}: column '{name}' holds {what} ({shown})"
                raise DataError(str(file), cause, "Mend it, or cut the series there: data.on_error=skip")
            left += int(np.sum(~good))
        if columns.truth:
            _check_truth(numbers[:, -1], good, columns.truth, seen, file)
        groups = _objects(piece, columns.group, file)
        times = _objects(piece, columns.time, file)
        # Where a row does not go on from the one before it: another group, or a gap.
        cut: np.ndarray = np.logical_not(good)
        cut[1:] |= ~good[:-1]
        if groups is not None:
            cut[1:] |= groups[1:] != groups[:-1]
            cut[0] |= bool(last_group is not None and groups[0] != last_group)
            last_group = groups[-1]
        if times is not None:
            _check_rises(times, cut, last_time, seen, file)
            last_time = times[-1]
        edges = [0, *np.flatnonzero(cut).tolist(), len(numbers)]
        for first, last in pairwise(edges):
            if last > first:
                if cut[first]:
                    end_track()
                if good[first]:
                    out.write(numbers[first:last].astype(np.float32).tobytes())
                    here += last - first
        seen += len(numbers)
    end_track()
    if left:
        faults.add(DataError(str(file), f"{left} of {seen} rows hold no number where one is used"))
    return runs


def _check_truth(marks: np.ndarray, good: np.ndarray, name: str, seen: int, file: Path) -> None:
    """Raise DataError for a mark of a fault in a row that is used which is neither 0 nor 1."""
    strange = good & (marks != 0) & (marks != 1)
    if strange.any():
        row = int(np.flatnonzero(strange)[0])
        cause = f"row {seen + row + 1}: column '{name}' holds {marks[row]:g}, where 0 is health and 1 a fault"
        raise DataError(str(file), cause, "Mend it, or name another column: data.truth=NAME")


def _check_rises(times: np.ndarray, cut: np.ndarray, before: Any, seen: int, file: Path) -> None:
    falls = np.zeros(len(times), dtype=bool)
    falls[1:] = ~(times[1:] > times[:-1])
    falls[0] = before is not None and not times[0] > before
    falls &= ~cut
    if falls.any():
        row = int(np.flatnonzero(falls)[0])
        cause = f"row {seen + row + 1}: its time {times[row]} is not after the one before"
        raise DataError(str(file), cause, "Sort the rows, or name the series' column: data.group=NAME")


def _floats(piece: Any, name: str, file: Path) -> np.ndarray:
    """A column as float64, NaN where it has none."""
    if name not in piece.column_names:
        raise DataError(str(file), f"there is no column '{name}'", f"It has {', '.join(piece.column_names)}")
    if (parsed := _parsed(piece.column(name))) is not None:
        return parsed
    try:
        return np.asarray(piece.column(name).cast("float64").to_numpy(), dtype=np.float64)
    except ValueError as error:  # arrow's own errors are ValueErrors
        text = " ".join(str(error).split())[:120]
        raise DataError(
            str(file), f"column '{name}' is not all numbers ({text})", "Mend the column"
        ) from error


def _parsed(column: Any) -> np.ndarray | None:
    """A column of text as float64, NaN for each that is no number; None where fewer than half are."""
    if "string" not in str(column.type):
        return None
    numbers = np.array([_number(text) for text in column.to_pylist()])
    return numbers if np.isnan(numbers).mean() <= 0.5 else None


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _objects(piece: Any, name: str | None, file: Path) -> np.ndarray | None:
    if name is None:
        return None
    if name not in piece.column_names:
        raise DataError(str(file), f"there is no column '{name}'", f"It has {', '.join(piece.column_names)}")
    return np.array(piece.column(name).to_pylist(), dtype=object)
