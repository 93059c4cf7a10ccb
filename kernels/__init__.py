from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels.activations import activation_backward
    from kernels.gemm import matmul, matmul_dw, matmul_dx
    from kernels.sums import column_sum

__all__ = ["activation_backward", "column_sum", "matmul", "matmul_dw", "matmul_dx"]

# No name of a submodule may stand here: importing it would hide the function.
_HOMES = {
    "activation_backward": "kernels.activations",
    "column_sum": "kernels.sums",
    "matmul": "kernels.gemm",
    "matmul_dw": "kernels.gemm",
    "matmul_dx": "kernels.gemm",
}


def __getattr__(name: str) -> Any:
    """Names that need torch and triton are imported on first use: planning reads kernels.launch without."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kernels' has no attribute '{name}'")
