"""What a call is given: checked, in the network's dtype, and with padding that spreads nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from framework.errors import ConfigError
from framework.graph import Input
from framework.state import State


def may_look(v: Tensor) -> bool:
    """Whether reading values of v waits for nothing: on a CPU, unless a graph is being recorded."""
    return v.device.type == "cpu" and v.numel() > 0 and not torch.compiler.is_compiling()


def check_tensor(name: str, v: object) -> None:
    """Raises ConfigError for a list, an array of numpy, and whatever else is no tensor."""
    if not isinstance(v, Tensor):
        cause = f"a {type(v).__module__}.{type(v).__name__}".replace("builtins.", "")
        raise ConfigError(f"x['{name}']", f"{cause}, not a tensor", "Use torch.as_tensor(...).")


def check_kind(name: str, v: Tensor, vocab: int) -> None:
    """Raises ConfigError when v holds no integers."""
    if v.is_floating_point() or v.dtype == torch.bool:
        cause = f"{v.dtype} where the graph says indices"
        raise ConfigError(f"x['{name}']", cause, f"Pass integers below {vocab}.")


def check_indices(name: str, v: Tensor, vocab: int) -> None:
    """Raises ConfigError when v holds other than 0..vocab-1, where that may be looked at."""
    if may_look(v):
        low, high = (int(e) for e in v.aminmax())
        if low < 0 or high >= vocab:
            cause = f"indices run from {low} to {high}, the vocabulary has {vocab}"
            raise ConfigError(f"x['{name}']", cause, f"Pass integers from 0 to {vocab - 1}.")


def read_inputs(
    specs: Mapping[str, Input], x: Tensor | Mapping[str, Tensor], like: Tensor
) -> dict[str, Tensor]:
    """The inputs by name, [T, B, size] in the dtype of `like`, or indices [T, B]. Raises ConfigError."""
    given = dict(x) if isinstance(x, Mapping) else {next(iter(specs)): x}
    if set(given) != set(specs):
        raise ConfigError(
            "x",
            f"the network's inputs are {', '.join(specs)}, given are {', '.join(given)}",
            "Pass a dict with one tensor for each input.",
        )
    out: dict[str, Tensor] = {}
    shape: tuple[int, ...] | None = None
    for name, spec in specs.items():
        v = given[name]
        check_tensor(name, v)
        want = "[T, B]" if spec.vocab is not None else f"[T, B, {spec.size}]"
        fits = v.dim() == 2 if spec.vocab is not None else v.dim() == 3 and v.shape[-1] == spec.size
        if not fits:
            raise ConfigError(f"x['{name}']", f"shape {tuple(v.shape)} does not fit the input {want}",
                              "The layout is time first: [steps, lanes, features].")  # fmt: skip
        if shape is not None and v.shape[:2] != shape:
            cause = f"{tuple(v.shape[:2])} steps and lanes, another input has {shape}"
            raise ConfigError(f"x['{name}']", cause, "All inputs cover the same steps and lanes.")
        if spec.vocab is not None:
            check_kind(name, v, spec.vocab)
        shape = tuple(v.shape[:2])
        out[name] = v.long() if spec.vocab is not None else v.to(like.dtype)
    if not shape or not shape[0]:
        raise ConfigError("x", "no steps: T is 0", "Pass at least one step.")
    if not shape[1]:
        raise ConfigError("x", "no lanes: B is 0", "Pass at least one lane.")
    return out


def check_frames(lengths: Tensor | None, resets: Tensor | None, steps: int, lanes: int) -> None:
    """Shapes and types; values only on a CPU, where looking at them waits for nothing. Raises ConfigError."""
    for name, x in (("lengths", lengths), ("resets", resets)):
        if x is not None and not isinstance(x, Tensor):
            raise ConfigError(name, f"a {type(x).__name__}, not a tensor", "Use torch.tensor(...).")
    if lengths is not None and (lengths.is_floating_point() or lengths.dtype == torch.bool):
        raise ConfigError("lengths", f"{lengths.dtype} where numbers of frames belong", "Pass integers.")
    if lengths is not None and may_look(lengths):
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > steps:
            cause = f"they run from {low} to {high}, the chunk has {steps} steps"
            raise ConfigError("lengths", cause, f"Pass values from 0 to {steps}.")
    if lengths is not None and lengths.shape != (lanes,):
        cause = f"shape {tuple(lengths.shape)}, there are {lanes} lanes"
        raise ConfigError("lengths", cause, f"Pass one length for each lane: [{lanes}].")
    if resets is not None and resets.shape != (steps, lanes):
        cause = f"shape {tuple(resets.shape)}, x has {steps} steps and {lanes} lanes"
        raise ConfigError("resets", cause, f"Pass a bool tensor [{steps}, {lanes}].")


def check_state(state: State, fresh: State) -> None:
    """Whether it is one of this network for as many lanes as `fresh`. Raises ConfigError."""
    if not isinstance(state, State):
        cause = f"a {type(state).__name__}, not what a network returns"
        raise ConfigError("state", cause, "Pass the state of the call before, or None.")
    for name, new in fresh.history.items():
        if name not in state.history or state.history[name].shape != new.shape:
            found = tuple(state.history[name].shape[1:]) if name in state.history else "nothing"
            raise ConfigError(
                "state",
                f"'{name}' holds {found}, this call needs {tuple(new.shape[1:])}",
                "Pass the state that this network returned for the same lanes, or None.",
            )


def padding_of(lengths: Tensor, steps: int) -> Tensor:
    """Bool [T, B, 1]: frames at or past their lane's length."""
    return (torch.arange(steps, device=lengths.device).unsqueeze(1) >= lengths).unsqueeze(-1)


def filled(inputs: Mapping[str, Tensor], lengths: Tensor, padding: Tensor) -> dict[str, Tensor]:
    """Inputs whose padding holds the lane's own frames over again (an empty lane: those of the longest).

    So nothing in them spreads. Zeros would not do: log, 1 / x or a norm may have no slope at 0, and a
    gradient of 0 times an infinite slope is a NaN in the weights' gradients.
    """
    steps = torch.arange(padding.shape[0], device=lengths.device).unsqueeze(1)
    lanes = torch.arange(len(lengths), device=lengths.device)
    lane = torch.where(lengths > 0, lanes, lengths.argmax())
    frame = steps % lengths[lane].clamp(min=1)
    nothing = lengths.max() < 1
    out: dict[str, Tensor] = {}
    for name, v in inputs.items():
        filling = v.detach()[frame, lane].masked_fill(nothing, 0)
        out[name] = torch.where(padding if v.dim() == 3 else padding.squeeze(-1), filling, v)
    return out
