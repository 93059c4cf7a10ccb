"""Checkpoints: plain dicts of tensors, numbers and strings, written so that no crash can lose the run.

A file is written beside its place, synced, and renamed over it; the one before is kept as `<name>.prev`.
So at every moment a whole checkpoint lies on the disk, and `load` finds it. What it reads is first compared
with the sums (CRC-32) in the file, which torch itself does not look at: a flipped bit is a damaged file, not
another weight. Files load with `torch.load(weights_only=True)`: they hold no code.

Weights and optimizer state are stored under the canonical weight names of the graph (`l1/i:full(x)`), not
under the parameters of the network: how a plan packs weights side by side may change, a checkpoint does not.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from framework.errors import ConfigError, TrainingError

FORMAT = 1


# ---- files


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one that was there becomes `<path>.prev`.

    Raises TrainingError when the file cannot be written (a full disk, a folder that is gone); what was there
    before is untouched then.
    """
    memory = io.BytesIO()  # torch.save hides the OSError of a full disk; plain bytes do not
    torch.save({"format": FORMAT, **content}, memory)
    partial = _partial(path)
    try:
        with open(partial, "wb") as file:
            file.write(memory.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, previous(path))
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        size = memory.getbuffer().nbytes / 1e6
        kept = next((p for p in (path, previous(path), path.with_name("last.pt")) if p.exists()), None)
        raise TrainingError(
            str(path),
            f"cannot write the checkpoint of {size:.1f} MB: {error.strerror or error}",
            f"{kept} of before is untouched: make room and resume from it."
            if kept
            else "Nothing was saved yet.",
        ) from error


def load(path: Path) -> tuple[dict[str, Any], str]:
    """The content of a checkpoint, and a line to tell the user ("" when all is well).

    A file that is missing, cut short or changed is replaced by its `.prev`, and the line says so.
    Raises ConfigError when neither is a checkpoint.
    """
    cause = ""
    # The partial one is whole for the moment between the two renames of a save; it counts where the one that
    # was renamed first is damaged.
    for file in (path, previous(path), _partial(path)):
        if not file.exists():
            cause = cause or "there is no such file"
            continue
        try:
            content = _read(file)
        except OSError as error:
            cause = cause or f"the file cannot be read ({error.strerror or error})"
            continue
        except Exception as error:  # of zipfile, pickle and torch: a damaged file raises nearly every kind
            why = (str(error) or type(error).__name__).splitlines()[0]
            cause = cause or f"the file is damaged ({why})"
            continue
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            cause = cause or "this is no checkpoint of train.py"
            continue
        return content, f"{path}: {cause}: using {file.name}, the checkpoint before it." if cause else ""
    best, fix = path.with_name("best.pt"), "Give a run folder or a .pt file that train.py wrote."
    if path.name == "last.pt" and path.exists() and best.exists():
        fix = f"An older one is {best}: resume from it."
    raise ConfigError(str(path), cause, fix)


def _read(file: Path) -> Any:
    """What torch.save wrote; raises where the sums in the file say that it is not what was written."""
    with zipfile.ZipFile(file) as archive:
        if (broken := archive.testzip()) is not None:
            raise ValueError(f"{broken} is not what was written")
    return torch.load(file, map_location="cpu", weights_only=True)


def _partial(path: Path) -> Path:
    """Where a checkpoint is written before it gets its name."""
    return path.with_name(f".{path.name}.partial")


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(path.name + ".prev")


def _sync_folder(folder: Path) -> None:
    """Make the renames of a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---- weights


class Weighted(Protocol):
    """A network whose weights have canonical names: views into its parameters."""

    def weights(self) -> dict[str, Tensor]:
        """Name -> view."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that hold them."""
        ...


def weights_of(net: Weighted) -> dict[str, Tensor]:
    """Copies of a network's weights on the CPU, by canonical name."""
    return {name: view.detach().cpu().clone() for name, view in net.weights().items()}


def evaluated_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Of a checkpoint the weights that were evaluated: the averages where the run kept them (train.ema)."""
    return content.get("averages") or content["weights"]


def put_weights(net: Weighted, saved: Mapping[str, Tensor], place: str) -> None:
    """Write saved weights into a network of the same graph.

    Raises ConfigError naming the first weight that differs, in name or shape; the network is untouched then.
    """
    views = net.weights()
    for name, view in views.items():
        if name not in saved:
            raise ConfigError(place, f"it is of another model: it has no weight '{name}'", _other(saved))
        if saved[name].shape != view.shape:
            raise ConfigError(
                place,
                f"it is of another model: weight '{name}' is {list(saved[name].shape)} there "
                f"and {list(view.shape)} here",
                "Use the config.yaml that lies beside it.",
            )
    for name in saved:
        if name not in views:
            raise ConfigError(
                place, f"it is of another model: this one has no weight '{name}'", _other(views)
            )
    with torch.no_grad():
        for name, view in views.items():
            view.copy_(saved[name])


def _other(names: Mapping[str, Tensor]) -> str:
    shown = list(names)[:3]
    return f"It has {', '.join(shown)}{', ...' if len(names) > len(shown) else ''}."


# ---- optimizer


def optimizer_state(net: Weighted, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """The optimizer's state by weight name: moments in the weight's shape, numbers as they are."""
    found: dict[str, dict[str, Any]] = {}
    for name, (param, view) in _owners(net).items():
        found[name] = {
            key: _part(value, view, param).cpu().clone() if _shaped(value, param) else _plain(value)
            for key, value in optimizer.state.get(param, {}).items()
        }
    return found


def put_optimizer_state(
    net: Weighted, optimizer: torch.optim.Optimizer, saved: Mapping[str, Mapping]
) -> None:
    """Put `optimizer_state` of an equal graph back, whatever the two networks' packing."""
    optimizer.state.clear()
    for name, (param, view) in _owners(net).items():
        state = optimizer.state[param]
        for key, value in saved[name].items():
            if isinstance(value, Tensor) and value.shape == view.shape:
                if key not in state:
                    state[key] = torch.zeros_like(param, memory_format=torch.preserve_format)
                _part(state[key], view, param).copy_(value)
            else:
                state[key] = _plain(value)


def _owners(net: Weighted) -> dict[str, tuple[nn.Parameter, Tensor]]:
    """For every weight the parameter that holds it, and its view into that parameter."""
    holders: dict[int, list[nn.Parameter]] = {}
    for param in net.parameters():
        holders.setdefault(param.untyped_storage().data_ptr(), []).append(param)
    return {
        name: (next(p for p in holders[view.untyped_storage().data_ptr()] if _covers(p, view)), view)
        for name, view in net.weights().items()
    }


def _covers(param: Tensor, view: Tensor) -> bool:
    """True when the elements of `view` lie among those of `param` (both in one storage)."""

    def last(x: Tensor) -> int:
        return int(x.storage_offset() + sum((n - 1) * s for n, s in zip(x.size(), x.stride(), strict=True)))

    return param.storage_offset() <= view.storage_offset() and last(view) <= last(param)


def _part(like: Tensor, view: Tensor, param: Tensor) -> Tensor:
    """The elements of `like` (laid out as `param`) that stand where the weight `view` stands in `param`."""
    assert like.stride() == param.stride(), "an optimizer keeps its state laid out as the parameter"
    offset = view.storage_offset() - param.storage_offset() + like.storage_offset()
    return like.as_strided(view.size(), view.stride(), offset)


def _shaped(value: Any, param: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == param.shape


def _plain(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


# ---- random numbers


def random_state() -> dict[str, Any]:
    """State of every generator that training draws from."""
    state = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def put_random_state(state: Mapping[str, Any]) -> None:
    """Go on drawing where `random_state` was taken."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
