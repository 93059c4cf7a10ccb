"""The same networks and kernels on a GPU against float64 on the CPU: `pytest tests/gpu -m gpu`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from framework import Network, lstm

pytestmark = pytest.mark.gpu
DENSE = ["lstm", "lstm_peephole", "lstm_norm", "gru", "gru_cudnn", "mgu", "rhn"]
ELEMENTWISE = ["sru", "indrnn", "mingru", "minlstm"]


def relative(got: Tensor, want: Tensor) -> float:
    """Error over the norm of what is right; NaN when anything is."""
    return ((got.double().cpu() - want).norm() / want.norm().clamp(min=1e-12)).item()


def outcome(net: Network, x: Tensor, dy: Tensor, **where: Tensor) -> dict[str, Tensor]:
    """Output, input gradient and every weight's gradient of one call."""
    x = x.detach().clone().requires_grad_()
    y, _ = net(x, **where)
    assert isinstance(y, Tensor)
    y.backward(dy)
    assert x.grad is not None
    grads = {name: g for name, g in net.grads().items() if g is not None}
    return {"y": y.detach(), "dx": x.grad, **grads}


def compare(cell: str, runner: str, device: str, steps: int, lanes: int, size: int, ragged: bool) -> None:
    """fp32 on the device against float64 on the CPU, twice: the second run must be bit-equal."""
    torch.manual_seed(steps + lanes + size)
    truth = lstm(size + 3, size, cell=cell).double()
    net = lstm(size + 3, size, cell=cell, runner=runner).to(device)
    for name, w in net.weights().items():
        w.copy_(truth.weights()[name])
    x = torch.randn(steps, lanes, size + 3, dtype=torch.float64)
    dy = torch.randn(steps, lanes, size, dtype=torch.float64)
    where: dict[str, Tensor] = {}
    if ragged:
        where["lengths"] = torch.randint(1, steps + 1, (lanes,))
        where["resets"] = torch.rand(steps, lanes) < 0.05
    want = outcome(truth, x, dy, **where)
    args = (x.float().to(device), dy.float().to(device))
    there = {k: v.to(device) for k, v in where.items()}
    got = outcome(net, *args, **there)
    errors = {name: relative(got[name], want[name]) for name in want}
    assert all(e < 1e-4 for e in errors.values()), errors
    net.zero_grad(set_to_none=True)
    again = outcome(net, *args, **there)
    assert all(torch.equal(got[name], again[name]) for name in got)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("cell", DENSE)
def test_torch_runner(cell: str, ragged: bool, device: str):
    compare(cell, "torch", device, 37, 5, 33, ragged)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("cell", ELEMENTWISE)
def test_elementwise_runner(cell: str, ragged: bool, device: str):
    compare(cell, "elementwise", device, 61, 7, 129, ragged)


@pytest.mark.parametrize("cell", ELEMENTWISE)
def test_elementwise_runner_over_many_steps(cell: str, device: str):
    compare(cell, "elementwise", device, 10_000, 1, 17, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(128, 128, 128), (1000, 333, 77), (1, 512, 512), (4096, 2048, 1024)]
)
def test_matmul(m: int, n: int, k: int, dtype: torch.dtype, device: str):
    """Error at most twice torch's own at that dtype (and one rounding of the result)."""
    from kernels import matmul

    torch.manual_seed(m)
    a, b = (torch.randn(*s, device=device).to(dtype) for s in ((m, k), (k, n)))
    out = torch.full((m, n), float("nan"), device=device, dtype=dtype)
    matmul(a, b, out=out)
    want = a.double() @ b.double()
    own = ((a @ b).double() - want).norm() / want.norm()
    error = (out.double() - want).norm() / want.norm()
    assert error <= 2 * own + torch.finfo(dtype).eps, (error, own)
