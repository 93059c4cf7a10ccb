"""The launch table: every chip and dtype has a row, no part of a reduction is empty, torch is named where it
runs.
"""

from __future__ import annotations

import random

import pytest
import torch

from kernels.gemm import matmul
from kernels.launch import (
    GEMM_TABLE,
    INTERPRETER,
    Chip,
    GemmLaunch,
    GemmRow,
    GemmTile,
    Operands,
    chip_name,
    current_chip,
    describe,
    gemm_launch,
)
from tests.kernels.closeness import assert_as_exact_as, poisoned

UNITS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx9": 304, "interpreter": 3}


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("kind", ["half", "tf32", "ieee"])
def test_every_shape_has_a_launch_that_covers_it(name, kind):
    chip = Chip(name, UNITS[name])
    choose = random.Random(0)
    for _ in range(500):
        m, n, k = (int(2 ** choose.uniform(0, 15)) for _ in range(3))
        k = choose.choice([0, k])
        operands = Operands(wide=choose.random() < 0.5, mapped=choose.random() < 0.5)
        launch = gemm_launch(chip, kind, m, n, k, operands)
        tile = launch.tile
        assert operands.mapped or not tile.tma
        tiles = -(-m // tile.bm) * -(-n // tile.bn)
        steps = -(-k // tile.bk)
        per_part = -(-steps // launch.splits)
        assert 1 <= launch.programs <= chip.units
        assert launch.programs <= tiles * launch.splits
        assert launch.splits == 1 or (launch.splits - 1) * per_part < steps  # the last part is not empty
        assert launch.splits * per_part >= steps


def test_every_row_can_be_reached():
    """A row behind one that takes all its shapes would be dead."""
    for i, row in enumerate(GEMM_TABLE):
        m, n = row.max_m or 20000, row.max_n or 20000
        operands = Operands(wide=row.wide, mapped=row.tile.tma)
        tile = gemm_launch(Chip(row.chip, UNITS[row.chip]), row.kind, m, n, 1024, operands).tile
        assert tile is row.tile, f"row {i}: {row}"


def test_blocks_are_what_triton_takes():
    for row in GEMM_TABLE:
        for size in (row.tile.bm, row.tile.bn, row.tile.bk):
            assert size >= 16 and size & (size - 1) == 0, row


def test_unknown_chip():
    with pytest.raises(LookupError, match="no row for half products on sm_20"):
        gemm_launch(Chip("sm_20", 14), "half", 8, 8, 8)


@pytest.mark.parametrize(
    ("backend", "arch", "name"),
    [
        ("cuda", 80, "sm_80"),
        ("cuda", 86, "sm_80"),
        ("cuda", 89, "sm_80"),
        ("cuda", 90, "sm_90"),
        ("cuda", 100, "sm_100"),
        ("cuda", 103, "sm_100"),
        ("cuda", 120, "sm_80"),
        ("hip", "gfx942", "gfx9"),
    ],
)
def test_chip_names(backend, arch, name):
    assert chip_name(backend, arch) == name


def test_interpreter_is_the_chip_here():
    assert current_chip(torch.device("cpu")) is INTERPRETER


def test_description():
    launch = gemm_launch(Chip("sm_90", 132), "half", 16384, 1024, 1024)
    assert describe(launch) == "triton 128x256x64, 8 warps, 3 stages, tma, 132 programs"
    launch = gemm_launch(Chip("sm_90", 132), "half", 16, 256, 4096)
    assert describe(launch) == "triton 16x64x128, 4 warps, 4 stages, 16 programs, reduction in 4"


def test_a_table_may_name_torch():
    """Then torch runs, with the same meaning, and the description says so."""
    table = (GemmRow("interpreter", "half", GemmTile(16, 16, 16), backend="torch", max_m=9), *GEMM_TABLE)
    launch = gemm_launch(INTERPRETER, "half", 9, 20, 30, table=table)
    assert describe(launch) == "torch"
    assert describe(gemm_launch(INTERPRETER, "half", 10, 20, 30, table=table)).startswith("triton")
    torch.manual_seed(0)
    table_of_rows, b = torch.randn(5, 30).half(), torch.randn(30, 20).half()
    rows, bias = torch.randint(0, 5, (9,)), torch.randn(20).half()
    out = poisoned(9, 30, dtype=torch.float16)
    out[:, 10:] = torch.randn(9, 20)
    before = out[:, 10:].clone()
    result = matmul(table_of_rows, b, bias, "tanh", rows, out[:, 10:], accumulate=True, launch=launch)
    exact = torch.tanh(table_of_rows.double()[rows] @ b.double() + bias.double() + before.double())
    assert_as_exact_as(result, torch.tanh(table_of_rows[rows] @ b + bias + before), exact)
    assert out[:, :10].isnan().all()


def test_a_forced_launch_is_taken():
    """`launch` overrides the table: blocks of 32 rows give another grid than blocks of 16."""
    from tests.interpreter import concurrent

    with concurrent() as run:
        matmul(torch.ones(64, 16), torch.ones(16, 32))
        matmul(torch.ones(64, 16), torch.ones(16, 32), launch=GemmLaunch(GemmTile(32, 32, 16), 1, 2))
    assert run.grids == [(3, 1, 1), (2, 1, 1)]
