"""A trained network for other programs: torch.export and ONNX, one step of a stream or whole sequences.

What is exported is the plan as plain torch (`framework.plain`), so hoisted products stay large products, and
a loop over a sequence is one `scan` (torch) or `Scan` (ONNX). Steps and lanes are free in all of them. States
go in and come out as tensors [delay, B, units], oldest first, named as in `State`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from framework.errors import ConfigError
from framework.network import Network
from framework.plain import PlainPlan
from framework.state import State

FORMS = ("step", "sequence")
KINDS = ("torch", "onnx")
BEFORE, AFTER = "state:", "after:"  # before the names of states that go into an ONNX model and come out


class Plain(nn.Module):
    """`y, after = plain(x, state)`: dicts of tensors by name. form: "step" or "sequence".

    Inputs [B, size] or [T, B, size] (indices without size), outputs alike. Raises ConfigError for a step of
    a network that reads later ones.
    """

    def __init__(self, net: Network, form: str):
        super().__init__()
        if form not in FORMS:
            raise ConfigError("form", f"'{form}' is not known", f"There are {', '.join(FORMS)}.")
        self.plain = PlainPlan(net.plan, whole=form == "sequence")
        for name, parameter in net.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
        self.like: Tensor
        self.register_buffer("like", net.like.clone(), persistent=False)

    def forward(
        self, x: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See the class."""
        weights: dict[str, Tensor] = dict(self.named_parameters())
        return self.plain.run(weights, x, state, self.like)


def example(net: Network, form: str, steps: int = 3, lanes: int = 2) -> tuple[dict[str, Tensor], State]:
    """Random inputs and the state to begin with."""
    generator = torch.Generator().manual_seed(0)
    lead = (steps, lanes) if form == "sequence" else (lanes,)
    x: dict[str, Tensor] = {}
    for name, spec in net.graph.inputs.items():
        if spec.vocab is not None:
            x[name] = torch.randint(spec.vocab, lead, generator=generator).to(net.like.device)
        else:
            x[name] = torch.randn(*lead, spec.size, generator=generator).to(net.like)
    return x, net.initial_state(lanes).detach()


def export(net: Network, form: str) -> torch.export.ExportedProgram:
    """`Plain(net, form)` as a graph of torch's own operators, with T and B free.

    Masks of dropout and zoneout are their means. `torch.export.save` writes it; loading needs torch alone.
    """
    plain = Plain(net, form)
    x, state = example(net, form)
    with torch.no_grad(), _quiet():
        return torch.export.export(plain, (x, dict(state.history)), dynamic_shapes=free_sizes(net, form))


def free_sizes(net: Network, form: str) -> tuple[dict[str, dict[int, Any]], ...]:
    """Which dimensions of the inputs and of the states are free: T and B."""
    T, B = torch.export.Dim("T", min=1), torch.export.Dim("B", min=1)
    lead = {0: T, 1: B} if form == "sequence" else {0: B}
    return {name: lead for name in net.graph.inputs}, {name: {1: B} for name in net.plan.history}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters tell about themselves: old functions, packages they could also use."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def onnx_names(net: Network) -> tuple[list[str], list[str]]:
    """Names of the inputs and the outputs of the ONNX models of a network, in order."""
    states = list(net.plan.history)
    inputs = [*net.graph.inputs, *(BEFORE + name for name in states)]
    return inputs, [*net.graph.outputs, *(AFTER + name for name in states)]


def save_onnx(
    net: Network, form: str, path: Path, program: torch.export.ExportedProgram | None = None
) -> None:
    """Write an ONNX model. program: of `export`, where it is there already.

    Raises ConfigError where the packages for it are missing.
    """
    need("onnx", "onnxscript")
    inputs, outputs = onnx_names(net)
    with _quiet():
        made = torch.onnx.export(
            program or export(net, form),
            dynamo=True,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=free_sizes(net, form),  # for their names alone: the program has them
        )
        assert made is not None
        made.model.metadata_props.update(about(net, form, flat=True))
        made.save(str(path), external_data=False)


def need(*packages: str) -> None:
    """Raises ConfigError for packages that are not there."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        cause = f"it needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise ConfigError("onnx", cause, "Run pip install 'intrastream[export]', or leave onnx out.")


def about(net: Network, form: str, flat: bool = False) -> dict[str, Any]:
    """What a user of an exported network has to know: shapes, and what states begin with.

    initial: of each state a number for all units, or a list of one for each. flat: values as texts.
    """
    lead = "T, B" if form == "sequence" else "B"
    inputs = {
        n: f"[{lead}, {s.size}]" if s.vocab is None else f"[{lead}] of 0..{s.vocab - 1}"
        for n, s in net.graph.inputs.items()
    }
    outputs = {n: f"[{lead}, {net.graph.nodes[node].size}]" for n, node in net.graph.outputs.items()}
    fresh = net.initial_state(1).detach()
    states = {
        n: f"[{', '.join(map(str, (h.shape[0], 'B', *h.shape[2:])))}]" for n, h in fresh.history.items()
    }
    initial = {n: _short(h) for n, h in fresh.initial.items()}
    found = {
        "form": form, "dtype": str(net.like.dtype).removeprefix("torch."), "inputs": inputs,
        "outputs": outputs, "states": states, "initial": initial,
    }  # fmt: skip
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in found.items()} if flat else found


def _short(value: Tensor) -> float | list[float]:
    """One number where all are the same."""
    numbers = value.detach().flatten().tolist()
    return numbers[0] if len(set(numbers)) == 1 else numbers


# Checks ---------------------------------------------------------------------------------------------------


def truth(net: Network, form: str, x: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
    """What the network itself gives, by the names of ONNX outputs."""
    given = {n: v.unsqueeze(0) for n, v in x.items()} if form == "step" else dict(x)
    was = net.training
    try:
        with torch.no_grad():
            y, after = net.eval()(given, state)
    finally:
        net.train(was)
    shown = y if isinstance(y, dict) else {next(iter(net.graph.outputs)): y}
    out = {n: v.squeeze(0) if form == "step" else v for n, v in shown.items()}
    return {**out, **{AFTER + n: v for n, v in after.history.items()}}


def apart(found: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> float:
    """The largest difference, of the largest value of its tensor. Raises ConfigError for wrong shapes."""
    worst = 0.0
    for name, value in want.items():
        if name not in found or found[name].shape != value.shape:
            shape = tuple(found[name].shape) if name in found else "nothing"
            cause = f"'{name}' is {shape}, the network gives {tuple(value.shape)}"
            raise ConfigError("export", cause, "This is a bug: please report it.")
        if value.numel():
            scale = max(float(value.abs().max()), 1e-30)
            worst = max(worst, float((found[name].cpu().to(value.dtype) - value.cpu()).abs().max()) / scale)
    return worst


def run_torch(
    program: torch.export.ExportedProgram, x: Mapping[str, Tensor], state: State
) -> dict[str, Tensor]:
    """Outputs of an exported program, by the names of ONNX outputs."""
    y, after = program.module()(dict(x), dict(state.history))
    return {**y, **{AFTER + n: v for n, v in after.items()}}


def run_onnx(path: Path, x: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
    """Outputs of an ONNX model by name: by onnxruntime where it is there, else by onnx's own evaluator."""
    before = {BEFORE + n: v for n, v in state.history.items()}
    feed = {n: v.cpu().numpy() for n, v in {**x, **before}.items()}
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names, run = [o.name for o in session.get_outputs()], session.run
    else:
        need("onnx")
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(path))
        names, run = [str(n) for n in evaluator.output_names], evaluator.run
    return {n: torch.as_tensor(v) for n, v in zip(names, run(None, feed), strict=True)}
