"""Kernel tests run under Triton's interpreter on the CPU, unless `-m gpu` was given: then they run for real.

Whether a kernel is interpreted is decided when triton is imported, once per process.
"""

from __future__ import annotations

import os
import sys

import pytest


def _on_gpu(config: pytest.Config) -> bool:
    return config.getoption("markexpr") == "gpu"


def pytest_configure(config: pytest.Config) -> None:
    if _on_gpu(config):
        return
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise pytest.UsageError(
            "triton was imported before tests/kernels/conftest.py could set TRITON_INTERPRET=1"
        )
    os.environ["TRITON_INTERPRET"] = "1"
    from tests.interpreter import install

    install()
