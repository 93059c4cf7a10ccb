from kernels.activations import activation_backward
from kernels.gemm import matmul, matmul_dw, matmul_dx
from kernels.lookup import lookup, lookup_dw
from kernels.sums import column_sum

__all__ = ["activation_backward", "column_sum", "lookup", "lookup_dw", "matmul", "matmul_dw", "matmul_dx"]
