"""Tests in slices: what has passed is written to a file, and the next run goes on from there.

    python -m pytest -c tests/gpu/pytest.ini tests/gpu -m gpu --progress FILE [--until 500]

FILE holds one JSON object a line, for each test that begins and each that ends. A test that has passed counts
as long as sources, GPU, torch and triton are the same. What has never been tried runs first, then what was
interrupted or has failed. When `--until` seconds are over no further test begins; then the exit status is
LEFT, unless something failed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LEFT = 75  # EX_TEMPFAIL of sysexits.h: run it again
SOURCES = (
    "kernels/*.py", "framework/**/*.py", "conf/cell/*.yaml", "conf/model/*.yaml", "tests/*.py",
    "tests/gpu/*.py",
)  # fmt: skip


def digest(root: Path = ROOT) -> str:
    """What all sources are that a test on a GPU can depend on, as 16 digits."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in root.glob(pattern)):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def machine() -> dict[str, str]:
    """What the results hold for, beside the sources: GPU and versions."""
    import torch
    import triton

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else f"none, {platform.machine()}"
    return {"gpu": gpu, "torch": torch.__version__, "triton": triton.__version__}


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """What a file of progress holds; a line that a crash has cut short is passed over."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


class Progress:
    """The plugin. path: where rows go; info: what they hold for; until: seconds after which no test begins"""

    def __init__(
        self, path: Path, info: dict[str, str], until: float, clock: Callable[[], float] = time.monotonic
    ):
        self.path, self.info, self.clock = path, info, clock
        self.end = clock() + until
        self.left: set[str] = set()
        self.began = 0.0
        self.passed, self.tries = self._known(rows_of(path))

    def _known(self, rows: Iterable[dict[str, Any]]) -> tuple[set[str], Counter[str]]:
        passed, tries = set[str](), Counter[str]()
        for row in rows:
            if all(row.get(key) == value for key, value in self.info.items()):
                tries[row["test"]] += row["outcome"] == "began"
                if row["outcome"] in ("passed", "skipped"):
                    passed.add(row["test"])
                elif row["outcome"] == "failed":  # also when its end fails after it has passed
                    passed.discard(row["test"])
        return passed, tries

    def write(self, test: str, outcome: str, **more: Any) -> None:
        """Append a row. Short lines in append mode do not mix, so that several processes may share a file."""
        date = datetime.now(UTC).isoformat(timespec="seconds")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps({"date": date, **self.info, "test": test, "outcome": outcome, **more}) + "\n")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep those that have not passed, the least tried first."""
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in self.passed])
        items[:] = sorted(
            (item for item in items if item.nodeid not in self.passed),
            key=lambda item: self.tries[item.nodeid],
        )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.left = {item.nodeid for item in session.items}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Pass over the test (True) when the time is over, else note that it begins."""
        self.began = self.clock()
        if self.began > self.end:
            return True
        self.write(item.nodeid, "began")
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped or report.when == "call":
            self.write(report.nodeid, report.outcome, seconds=round(self.clock() - self.began, 2))
            self.left.discard(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = LEFT

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.left:
            terminalreporter.write_line(f"the time is over, {len(self.left)} tests are left")
