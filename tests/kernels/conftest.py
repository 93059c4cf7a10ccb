"""Kernel tests run under Triton's interpreter on the CPU (see tests/conftest.py), unless `-m gpu` was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import on_gpu
from tests.kernels.compiled import Compiler


def pytest_configure(config: pytest.Config) -> None:
    if on_gpu(config):
        return
    from tests.interpreter import install

    install()


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiler]:
    """Compiles for chips that are not there, see compiled.py."""
    cache = getattr(request.config, "cache", None)  # absent with -p no:cacheprovider
    folder = Path(cache.mkdir("kernels")) if cache else tmp_path_factory.mktemp("kernels")
    compiler = Compiler(folder)
    yield compiler
    compiler.close()
