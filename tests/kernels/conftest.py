"""Kernel tests run under Triton's interpreter on the CPU, unless `-m gpu` was given: then they run for real.

Whether a kernel is interpreted is decided when triton is imported, once per process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.compiled import Compiler


def pytest_configure(config: pytest.Config) -> None:
    marks = config.getoption("markexpr")
    if "gpu" in marks and "not gpu" not in marks:
        return
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise pytest.UsageError(
            "triton was imported before tests/kernels/conftest.py could set TRITON_INTERPRET=1"
        )
    os.environ["TRITON_INTERPRET"] = "1"
    from tests.interpreter import install

    install()


@pytest.fixture(scope="session", autouse=True)
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Generated cells are kept in a folder of the session, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cells")))
        yield


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiler]:
    """Compiles for chips that are not there, see compiled.py."""
    cache = getattr(request.config, "cache", None)  # absent with -p no:cacheprovider
    folder = Path(cache.mkdir("kernels")) if cache else tmp_path_factory.mktemp("kernels")
    compiler = Compiler(folder)
    yield compiler
    compiler.close()
