"""What the compiler makes of the matmul for chips that are not there: nothing spills, loads are wide, it
fits.
"""

from __future__ import annotations

import pytest

CASES = "tests.kernels.gemm_cases"
NVIDIA = ["sm_80", "sm_90", "sm_100"]
CHIPS = [*NVIDIA, "gfx942", pytest.param("sm_86", marks=pytest.mark.slow)]
SHARED = {"sm_80": 166_912, "sm_86": 101_376, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}


def check(kernel, chip):
    """Limits that hold for every kernel."""
    assert kernel.stack == 0, f"{kernel.name} spills {kernel.stack} bytes a thread"
    assert kernel.spills_in_loops == 0
    assert kernel.registers <= (512 if chip == "gfx942" else 255)
    assert kernel.shared <= SHARED[chip]


def has_tma(kernel):
    """Whether blocks come by hardware copies."""
    return kernel.dot_loop.count("UTMALDG") == 2


def check_product(kernel, chip, cores=True, wide=True):
    """Limits of the product itself: tensor cores at work, both operands loaded in blocks of 16 bytes, offsets
    int64.
    """
    check(kernel, chip)
    loop = kernel.dot_loop
    assert not cores or loop.count("HMMA", "HGMMA", "UTCHMMA", "v_mfma") > 0
    if chip == "gfx942":
        assert loop.count("buffer_load_dwordx4", "global_load_dwordx4") > 0
        assert (
            loop.count("buffer_load_ushort", "global_load_ushort", "buffer_load_u16", "global_load_u16") == 0
        )
        return
    assert kernel.offsets == ["i64"]
    assert kernel.loads["p_a"][2] == 1 and kernel.loads["p_b"][2] == 1  # tile loop, reduction loop
    if not wide:
        return
    copies = [opcode for opcode in loop.counts if opcode.startswith(("LDGSTS", "UTMALDG"))]
    assert copies and all("128" in x or "UTMALDG" in x for x in copies), f"narrow loads: {copies}"
    assert loop.count("LDG.") == 0


@pytest.mark.parametrize("chip", CHIPS)
def test_layer(compiled, chip):
    sizes = {"m": 16384, "n": 1024, "k": 1024, "dtype": "bfloat16"}
    (kernel,) = compiled(f"{CASES}:forward", chip, ("p_a", "p_b"), **sizes)
    check_product(kernel, chip)
    dx, dw, *rest = compiled(f"{CASES}:backward", chip, ("p_a", "p_b"), **sizes)
    check_product(dx, chip)
    check_product(dw, chip)
    assert [has_tma(k) for k in (kernel, dx, dw)] == [chip in ("sm_90", "sm_100")] * 3
    assert [k.name for k in rest] in ([], ["add_parts_kernel"])
    for kernel in rest:
        check(kernel, chip)


@pytest.mark.parametrize(
    ("chip", "precision"),
    [
        ("sm_90", "tf32"),
        ("sm_80", "ieee"),
        *(
            pytest.param(chip, precision, marks=pytest.mark.slow)
            for chip in ["sm_80", "sm_86", "sm_90", "sm_100", "gfx942"]
            for precision in ["tf32", "ieee"]
        ),
    ],
)
def test_layer_in_float32(compiled, chip, precision):
    sizes = {"m": 16384, "n": 1024, "k": 1024, "dtype": "float32", "precision": precision}
    cores = precision == "tf32"
    (kernel,) = compiled(f"{CASES}:forward", chip, ("p_a", "p_b"), **sizes)
    check_product(kernel, chip, cores)
    dx, dw, *rest = compiled(f"{CASES}:backward", chip, ("p_a", "p_b"), **sizes)
    # Tensor cores read tf32 only along the reduction: other views are transposed on the way, word by word.
    check_product(dx, chip, cores, wide=not cores)
    check_product(dw, chip, cores, wide=not cores)
    for kernel in rest:
        check(kernel, chip)


@pytest.mark.parametrize(
    "chip", ["sm_90", *(pytest.param(c, marks=pytest.mark.slow) for c in ["sm_80", "sm_100"])]
)
@pytest.mark.parametrize("rows", [False, True])
def test_features_that_fill_no_block(compiled, chip, rows):
    """80 filterbank features: the last block of the reduction is partial, its loads stay wide."""
    sizes = {"m": 4000, "n": 1024, "k": 80, "dtype": "float16", "rows": rows}
    (kernel,) = compiled(f"{CASES}:forward", chip, ("p_a", "p_b"), **sizes)
    check_product(kernel, chip)


def test_features_that_tensor_maps_cannot_take(compiled):
    """39 features: rows start at odd multiples of 2 bytes, so loads are narrow; it must fit all the same."""
    sizes = {"m": 4000, "n": 1024, "k": 39, "dtype": "float16"}
    (kernel,) = compiled(f"{CASES}:forward", "sm_90", ("p_a", "p_b"), **sizes)
    check(kernel, "sm_90")
    assert not has_tma(kernel)


@pytest.mark.parametrize(
    "chip", ["sm_90", *(pytest.param(c, marks=pytest.mark.slow) for c in ["sm_80", "sm_86"])]
)
def test_few_rows_are_split(compiled, chip):
    """One step of generation: the reduction is done in parts, so that more than a few programs have work."""
    sizes = {"m": 16, "n": 256, "k": 4096, "dtype": "bfloat16"}
    product, add = compiled(f"{CASES}:forward", chip, ("p_a", "p_b"), **sizes)
    check_product(product, chip)
    check(add, chip)
    assert product.grid[0] > 4 and add.name == "add_parts_kernel"


def test_kernels_around_the_product(compiled):
    kernels = compiled(f"{CASES}:rest", "sm_90", m=16384, n=1024, dtype="bfloat16")
    assert [k.name for k in kernels] == [
        "activation_backward_kernel",
        "column_sum_kernel",
        "add_parts_kernel",
    ]
    for kernel in kernels:
        check(kernel, "sm_90")


def test_the_bench_sees_spills(compiled):
    (kernel,) = compiled(f"{CASES}:too_large_tile", "sm_80")
    assert kernel.stack > 0 and kernel.spills_in_loops > 0


def test_the_bench_sees_too_much_shared_memory(compiled):
    with pytest.raises(AssertionError, match="out of resource: shared memory"):
        compiled(f"{CASES}:too_much_shared_memory", "sm_86")
