"""What the compiler makes of a network's products for chips that are not there: they fit, nothing spills."""

from __future__ import annotations

import pytest

from tests.kernels.test_compiled_gemm import check

CASE = "tests.kernels.products_cases:layer"


@pytest.mark.parametrize("chip", ["sm_80", "sm_90", pytest.param("sm_100", marks=pytest.mark.slow), "gfx942"])
def test_products_of_a_layer(chip, compiled):
    kernels = compiled(CASE, chip, steps=128, lanes=32, inputs=80, units=256, dtype="bfloat16")
    names = {kernel.name for kernel in kernels}
    assert {
        "_matmul",
        "lookup_kernel",
        "sum_by_index_kernel",
        "column_sum_kernel",
        "add_parts_kernel",
    } == names
    for kernel in kernels:
        check(kernel, chip)
    cores = ("HMMA", "HGMMA", "UTCHMMA", "v_mfma")
    products = [kernel for kernel in kernels if kernel.name == "_matmul"]
    assert len(products) == 4  # forward twice, dx, dW
    assert all(kernel.dot_loop.count(*cores) for kernel in products)
