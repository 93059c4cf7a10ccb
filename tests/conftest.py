"""Options and fixtures of all tests."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files in tests/golden")
    parser.addoption("--graphs", type=int, default=300, help="how many random graphs to compare")
    parser.addoption("--seed", type=int, default=0, help="of what tests draw without a seed of their own")


def on_gpu(config: pytest.Config) -> bool:
    """Whether the tests for a GPU were asked for."""
    marks = config.getoption("markexpr")
    return "gpu" in marks and "not gpu" not in marks


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Kernels are interpreted, unless on a GPU: decided when triton is imported, once per process, and torch
    imports it for torch.compile. Ctrl-C means what it does on a terminal: a shell's background ignores it.
    """
    if not on_gpu(config):
        os.environ["TRITON_INTERPRET"] = "1"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('seed')}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each test draws the same numbers, whichever tests ran before it in its process."""
    seed = item.config.getoption("seed")
    random.seed(seed)
    for name, how in (("torch", "manual_seed"), ("numpy.random", "seed")):
        if name in sys.modules:
            getattr(sys.modules[name], how)(seed)


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from the user's cache folder, nor written there: processes of one run share another."""
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "caches"))
        yield


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
