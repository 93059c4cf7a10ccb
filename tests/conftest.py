"""Options and fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files in tests/golden")
    parser.addoption("--graphs", type=int, default=300, help="how many random graphs to compare")


def on_gpu(config: pytest.Config) -> bool:
    """Whether the tests for a GPU were asked for."""
    marks = config.getoption("markexpr")
    return "gpu" in marks and "not gpu" not in marks


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Kernels are interpreted, unless on a GPU: decided when triton is imported, once per process, and torch
    imports it for torch.compile.
    """
    if not on_gpu(config):
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("plans/lstm.txt", text)`: text must be what the file holds; --update-golden writes it."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"no {path}: run pytest --update-golden, then read what it wrote"
        assert text == path.read_text(encoding="utf-8"), f"not what {path} holds (see --update-golden)"

    return check
