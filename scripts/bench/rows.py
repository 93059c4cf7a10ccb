"""The one type of row that everything is kept in, and its file: JSON lines, only ever appended to.

Files of an earlier form (results/cpu.jsonl, fused.jsonl, memory.jsonl, planning.jsonl) stay as they were
written; their rows have no field `format`, and `read` leaves such rows out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FORMAT = 2
PASSES = ("forward", "forward+backward", "train step", "start", "plan")
RESULTS = Path(__file__).resolve().parent / "results"
KEPT = RESULTS / "rows.jsonl"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system in one pass of one case. Times are milliseconds of a whole call, bytes are bytes.

    code: a hash of the files that decide our speed, which rows of one state share whatever the commit is
    called. system, version: what was timed; entry: its name in the case. table, case: where it belongs;
    options: what of a case has no column. seed: of weights and data; turns: rounds in which all systems of
    the case took their turn. ratios: other system of the same rounds -> median over the rounds of its time
    over ours (above 1: this one is faster). flops, bytes: arithmetic and least traffic of one call, which are
    the same for all systems of a case; floor_ms: below which this machine cannot get, from its measured
    ceilings; limit: floor_ms over p50_ms. peak_bytes: tensors alive at once beyond those before the call,
    None where nobody counts them. predicted_ms: by the model of cost. figures: what only one table has.
    errors: result -> relative error against float64. declined: entry -> why it took no part in the case.
    """

    date: str
    commit: str
    dirty: bool
    code: str
    cpu: str
    threads: int
    gpu: str
    torch: str
    cuda: str
    triton: str
    python: str
    table: str
    case: str
    system: str
    entry: str
    version: str
    dtype: str
    T: int
    B: int
    F: int
    H: int
    layers: int
    pass_: str
    input_product: bool
    p20_ms: float
    p50_ms: float
    p80_ms: float
    us_per_step: float
    peak_bytes: int | None
    flops: float
    bytes: float
    flops_per_s: float
    bytes_per_s: float
    ceiling_flops: float | None
    ceiling_bytes: float | None
    floor_ms: float | None
    limit: float | None
    predicted_ms: float | None
    seed: int
    turns: int
    ratios: dict[str, float] = field(default_factory=dict)
    options: dict[str, str | int | float | bool] = field(default_factory=dict)
    figures: dict[str, float | str | None] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.pass_ not in PASSES:
            raise ValueError(f"no pass {self.pass_!r}. There are: {', '.join(PASSES)}")

    @property
    def machine(self) -> tuple[str, str, int]:
        """Rows of one machine can be compared."""
        return self.gpu, self.cpu, self.threads

    @property
    def place(self) -> tuple[str, str, str, str, str]:
        """What identifies a measurement of a case: table, case, dtype, pass, system."""
        return self.table, self.case, self.dtype, self.pass_, self.system

    def line(self) -> str:
        """As it stands in a file; `pass_` is called pass there."""
        values = asdict(self)
        return json.dumps({k.rstrip("_"): v for k, v in values.items()})


NAMES = tuple(f.name for f in fields(Row))


def parse(values: Mapping[str, Any]) -> Row:
    """A row from what a line holds. Raises ValueError when a field is missing or unknown."""
    given = {("pass_" if k == "pass" else k): v for k, v in values.items()}
    missing, unknown = [n for n in NAMES if n not in given], [n for n in given if n not in NAMES]
    if missing or unknown:
        raise ValueError(f"fields missing: {missing}, unknown: {unknown}")
    return Row(**given)


def read(path: Path) -> list[Row]:
    """The rows of this form in a file, none without one. Raises ValueError with the line's number."""
    if not path.is_file():
        return []
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
            if values.get("format") == FORMAT:
                found.append(parse(values))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return found


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows at the end, all of a case in one write, so that a run that is killed leaves whole cases."""
    text = "".join(row.line() + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def latest(rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    """The last row of each machine and place: rows stand in the order in which they were measured."""
    return {(*row.machine, *row.place): row for row in rows}


def of_machine(rows: Iterable[Row], machine: tuple[str, str, int]) -> Iterator[Row]:
    """The rows of one machine."""
    return (row for row in rows if row.machine == machine)
