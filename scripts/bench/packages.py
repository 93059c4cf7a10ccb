"""Peers that are packages of their own. Each computes a shared cell, with our weights, or declines."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scripts.bench.cases import Case
from scripts.bench.cells import Link
from scripts.bench.more_cells import STEPS, MinGRU
from scripts.bench.system import Declined, System
from scripts.bench.where import package


def one_forward_layer(case: Case, *cells: str) -> None:
    """Raises Declined for anything but one layer of one of the cells."""
    if case.cell not in cells:
        raise Declined(f"it computes {' and '.join(cells)}")
    if case.layers > 1 or case.bidirectional:
        raise Declined("only one layer in one direction is compared")


def quiet(what: Callable[[], Any], message: str) -> Any:
    """Do it without a warning that a package gives about itself; others stay."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message)
        return what()


def torchrl(case: Case, device: str) -> System:
    """TorchRL's LSTM or GRU in Python: nn.LSTM's parameters, torch ops step by step."""
    from scripts.bench.peers import TORCH_NAMES, torch_links, without_second_bias

    one_forward_layer(case, "lstm", "gru_cudnn")
    if not case.input_product:
        raise Declined("it always multiplies its input")
    from torchrl.modules import GRU, LSTM

    kind = TORCH_NAMES[case.cell]
    layer = {"LSTM": LSTM, "GRU": GRU}[kind](case.F, case.H, batch_first=False).to(device, case.kind)
    without_second_bias(layer)
    return System(f"TorchRL {kind}", package("torchrl"), layer, lambda x: layer(x)[0], torch_links(case))


def torchrl_triton(case: Case, device: str) -> System:
    """TorchRL's Triton kernels; they want lanes first and a mask of resets, which is part of calling them."""
    from scripts.bench.peers import TORCH_NAMES, torch_links, without_second_bias

    one_forward_layer(case, "lstm", "gru_cudnn")
    if device != "cuda" or not case.input_product:
        raise Declined("Triton kernels, for a GPU, which multiply their input")
    from torchrl.modules.tensordict_module import _rnn_triton as theirs

    kind = TORCH_NAMES[case.cell]
    layer = getattr(nn, kind)(case.F, case.H).to(device, case.kind)
    without_second_bias(layer)
    zero = torch.zeros(case.B, case.T, case.H, device=device, dtype=case.kind)
    first = torch.zeros(case.B, case.T, dtype=torch.bool, device=device)
    weights = [layer.get_parameter(n) for n in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]
    call = theirs.lstm_triton if kind == "LSTM" else theirs.gru_triton
    states = (zero, zero) if kind == "LSTM" else (zero,)

    def run(x: Tensor) -> Tensor:
        y = call(x.transpose(0, 1).contiguous(), *states, *weights, first, case.kind, input_precision="ieee")
        return y[0].transpose(0, 1)

    return System(f"TorchRL Triton {kind}", package("torchrl"), layer, run, torch_links(case))


def sru(case: Case, device: str) -> System:
    """The authors' SRU. Its highway has weights of its own where inputs and units differ in number."""
    one_forward_layer(case, "sru")
    if case.F == case.H or not case.input_product:
        raise Declined("with as many inputs as units its highway is another function")
    SRU = quiet(lambda: __import__("sru").SRU, ".*")
    layer = SRU(case.F, case.H, num_layers=1, rescale=False).to(device, case.kind)
    links = []
    for k, gate in enumerate("wfrk"):  # columns of all four matrices take turns
        rows = slice(k, None, 4)
        links.append(Link(f"l1/{gate}:full(x)", "rnn_lst.0.weight", rows, turned=True))
    for k, gate in enumerate("fr"):
        rows = slice(k * case.H, (k + 1) * case.H)
        links.append(Link(f"l1/{gate}:bias", "rnn_lst.0.bias", rows))
        links.append(Link(f"l1/{gate}:diag(l1/c[t-1])", "rnn_lst.0.weight_c", rows))
    # On a CPU it warns that training there is slow: that is what is measured.
    return System(
        "sru", package("sru"), layer, lambda x: quiet(lambda: layer(x)[0], "Running SRU on CPU.*"), links
    )


class Affine(nn.Module):
    """conf/cell/mingru.yaml around a scan h[t] = a[t] * h[t-1] + b[t] that somebody else does."""

    def __init__(self, case: Case, scan: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.step = MinGRU(case.F, case.H, case.input_product)
        self.scan = scan

    def links(self) -> list[Link]:
        """Where our weights lie."""
        return [Link(i.ours.format(l="l1", x="x"), f"step.{i.theirs}", i.rows) for i in self.step.links()]

    def forward(self, x: Tensor) -> Tensor:
        """x [T, B, inputs] -> h [T, B, size]."""
        u, n = self.step.x(x).chunk(2, -1)
        u = torch.sigmoid(u)
        return self.scan(1 - u, u * n)


def scanning(
    name: str, distribution: str, load: Callable[[Case, str], Callable[[Tensor, Tensor], Tensor]]
) -> Any:
    """(name, distribution, builder) of a package that scans."""

    def build(case: Case, device: str) -> System:
        one_forward_layer(case, "mingru")
        module = Affine(case, load(case, device)).to(device, case.kind)
        return System(name, package(distribution), module, module, module.links())

    return name, distribution, build


def accelerated_reference(case: Case, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """accelerated-scan's parallel prefix in torch ops."""
    from accelerated_scan.ref import scan

    # It wants [lanes, units, time].
    return lambda a, b: scan(a.permute(1, 2, 0).contiguous(), b.permute(1, 2, 0).contiguous()).permute(
        2, 0, 1
    )


def accelerated_scalar(case: Case, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """accelerated-scan's Triton kernel."""
    if device != "cuda":
        raise Declined("a Triton kernel, for a GPU")
    from accelerated_scan.scalar import scan

    return lambda a, b: scan(a.permute(1, 2, 0).contiguous(), b.permute(1, 2, 0).contiguous()).permute(
        2, 0, 1
    )


def hgrn(case: Case, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """flash-linear-attention's hgrn: h[t] = exp(g[t]) * h[t-1] + x[t]."""
    if device != "cuda":
        raise Declined("a Triton kernel, for a GPU")
    from fla.ops.hgrn import fused_recurrent_hgrn

    def scan(a: Tensor, b: Tensor) -> Tensor:
        x, g = b.transpose(0, 1).contiguous(), a.log().transpose(0, 1).contiguous()
        return fused_recurrent_hgrn(x, g)[0].transpose(0, 1)

    return scan


class FlashRNN(nn.Module):
    """flashrnn(Wx, R, b) of one head; the product of the input, where it belongs to the case, by torch."""

    def __init__(self, case: Case, backend: str):
        super().__init__()
        step = STEPS[case.cell](case.F, case.H, case.input_product)
        self.x = (
            nn.Linear(case.F, step.blocks() * case.H, bias=False) if case.input_product else nn.Identity()
        )
        self.function = {"lstm": "lstm", "gru_cudnn": "gru"}[case.cell]
        gates = 3 if self.function == "gru" else 4  # of the recurrent product; biases are always four
        self.R = nn.Parameter(torch.zeros(gates, 1, case.H, case.H))
        self.b = nn.Parameter(torch.zeros(4, 1, case.H))
        self.backend, self.dtype = backend, case.dtype

    def links(self, case: Case) -> list[Link]:
        """Gates i, f, z, o; of the GRU g (the reset part of the candidate), r, u, n (of the input)."""
        out, n = [], case.H
        lstm = self.function == "lstm"
        for k, gate in enumerate("ifzo" if lstm else "run"):
            if case.input_product:
                out.append(Link(f"l1/{gate}:full(x)", "x.weight", slice(k * n, (k + 1) * n)))
        for k, gate in enumerate("ifzo" if lstm else "nru"):
            out.append(Link(f"l1/{gate}:full(l1/h[t-1])", "R", (k, 0)))
        biases = "ifzo" if lstm else ("n:bias#2", "r:bias", "u:bias", "n:bias")
        out += [Link(f"l1/{b if ':' in b else b + ':bias'}", "b", (k, 0)) for k, b in enumerate(biases)]
        return out

    def forward(self, x: Tensor) -> Tensor:
        """x [T, B, inputs] -> h [T, B, size]."""
        from flashrnn import flashrnn

        steps, lanes = x.shape[:2]
        wx = self.x(x).view(steps, lanes, -1, 1, self.R.shape[-1]).transpose(0, 1)  # lanes first
        y, _ = flashrnn(wx, self.R, self.b, function=self.function, backend=self.backend, dtype=self.dtype)
        return y[0].transpose(0, 1).squeeze(2)


def flashrnn(backend: str) -> tuple[str, str, Callable[[Case, str], System]]:
    """One backend of FlashRNN."""
    name = f"FlashRNN {backend}"

    def build(case: Case, device: str) -> System:
        one_forward_layer(case, "lstm", "gru_cudnn")
        if device != "cuda" and backend != "vanilla":
            raise Declined("a GPU's")
        if backend != "vanilla" and case.dtype == "float32":
            raise Declined("in 16 bits")
        if case.cell == "gru_cudnn" and backend not in ("vanilla", "cuda"):
            raise Declined("no GRU in this backend")
        module = FlashRNN(case, backend).to(device, case.kind)
        return System(name, package("flashrnn"), module, module, module.links(case))

    return name, "flashrnn", build


PACKAGES = (
    ("TorchRL", "torchrl", torchrl),
    ("TorchRL Triton", "torchrl", torchrl_triton),
    ("sru", "sru", sru),
    scanning("accelerated-scan ref", "accelerated-scan", accelerated_reference),
    scanning("accelerated-scan scalar", "accelerated-scan", accelerated_scalar),
    scanning("flash-linear-attention hgrn", "fla-core", hgrn),
    *(flashrnn(backend) for backend in ("vanilla", "cuda", "cuda_fused", "triton_fused")),
)
