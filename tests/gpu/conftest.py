"""Tests on a real GPU. They must not share a process with tests/kernels, which sets Triton's interpreter."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.gpu import progress
from tests.gpu.cases import poisoned

# cuBLAS reads it once, before its first product: deterministic algorithms need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shard", default="1/1", help="2/8: the second of eight parts (scripts/bench/gpu_tests.py)"
    )
    parser.addoption(
        "--progress", type=Path, metavar="FILE", help="go on where FILE ends: tests/gpu/progress.py"
    )
    parser.addoption("--until", type=float, default=math.inf, help="seconds after which no test begins")


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--progress", None):
        info = {"sources": progress.digest(), **progress.machine()}
        plugin = progress.Progress(path.resolve(), info, config.getoption("--until"))
        config.pluginmanager.register(plugin)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep this part's tests: those of one cell by one runner are in one, others go round."""
    number, of = map(int, config.getoption("--shard").split("/"))
    groups: dict[object, int] = {}
    for item in items:
        groups.setdefault(group(item), len(groups))
    kept = [item for item in items if groups[group(item)] % of == number - 1]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def group(item: pytest.Item) -> object:
    """What must stay together."""
    given = getattr(item, "callspec", None)
    params = {} if given is None else given.params
    return (params["runner"], params["cell"]) if {"runner", "cell"} <= params.keys() else item.nodeid


@pytest.fixture
def device() -> Iterator[str]:
    """The GPU, with products in full fp32, and every new tensor full of NaN."""
    if not torch.cuda.is_available():
        pytest.fail("torch sees no GPU: nothing was tested", pytrace=False)
    torch.backends.cuda.matmul.allow_tf32 = False
    with poisoned():
        yield "cuda"
