"""One checkpoint for a group of processes: lanes in the order of the whole batch, generators by rank.

So a run goes on with another number of processes, too; exactly, where it draws no random numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from framework.checkpoint import Weighted
from framework.parallel import Group

LANES = {"x": 1, "lengths": 0, "resets": 1}  # the dimension of lanes, of what a window of BPTT(h; h') holds


def collected(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the processes hold, by rank, as a checkpoint's entries.

    Each part has `state` (names -> [D, B, ...], or None), `windows` (see `Windows.state`) and `random`.
    """
    return {
        "state": _named([part["state"] for part in parts]),
        "windows": [_window(each) for each in zip(*(part["windows"] for part in parts), strict=True)],
        "random": parts[0]["random"],
        "others_random": [part["random"] for part in parts[1:]],
    }


def own_part(content: Mapping[str, Any], group: Group) -> dict[str, Any]:
    """A checkpoint's content with the lanes and the generators of this process.

    Of a checkpoint that fewer processes wrote, a new one draws anew, from its rank and the update.
    """
    windows = content.get("windows", [])
    generators = [content["random"], *content.get("others_random", [])]
    found = {
        **content,
        "state": _cut(content["state"], group),
        "windows": [
            {
                **window,
                **{key: _lanes(window[key], dim, group) for key, dim in LANES.items()},
                "entry": _cut(window["entry"], group),
                "random": [window["random"], *window.get("others_random", [])][
                    group.rank if group.rank < len(generators) else 0
                ],
            }
            for window in windows
        ],
    }
    if group.rank < len(generators):
        found["random"] = generators[group.rank]
    else:
        draw = torch.Generator().manual_seed(own_seed(content["position"]["step"], group.rank))
        found["random"] = {**content["random"], "torch": draw.get_state()}
    return found


def own_seed(seed: int, rank: int) -> int:
    """A seed for each process, of any size that torch takes; that of the first one is `seed` itself."""
    return (seed + rank * 0x9E3779B97F4A7C15) % (1 << 63)


def weights_digest(net: Weighted) -> int:
    """A number that two networks share when their weights are the same bit for bit."""
    digest = 0
    for param in net.parameters():
        flat = param.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest = zlib.crc32(flat.numpy().tobytes(), digest)
    return digest


def _window(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One window of all processes; its weights are the same everywhere."""
    return {
        "weights": parts[0]["weights"],
        "entry": _named([part["entry"] for part in parts]),
        "random": parts[0]["random"],
        "others_random": [part["random"] for part in parts[1:]],
        **{key: _joined([part[key] for part in parts], dim) for key, dim in LANES.items()},
    }


def _named(parts: Sequence[Mapping[str, Tensor] | None]) -> dict[str, Tensor] | None:
    first = parts[0]
    if first is None:
        return None
    return {name: _joined([part[name] for part in parts if part is not None], 1) for name in first}


def _cut(named: Mapping[str, Tensor] | None, group: Group) -> dict[str, Tensor] | None:
    return None if named is None else {name: _lanes(x, 1, group) for name, x in named.items()}


def _lanes(x: Any, dim: int, group: Group) -> Any:
    """This process's lanes of a tensor; None stays."""
    return None if x is None else x[(slice(None),) * dim + (slice(group.rank, None, group.world),)]


def _joined(parts: Sequence[Any], dim: int) -> Any:
    """The lanes of all processes in the order of the whole: lane b comes from process b % world."""
    if parts[0] is None:
        return None
    lanes = sum(part.shape[dim] for part in parts)
    whole = parts[0].new_empty([*parts[0].shape[:dim], lanes, *parts[0].shape[dim + 1 :]])
    for rank, part in enumerate(parts):
        whole[(slice(None),) * dim + (slice(rank, None, len(parts)),)] = part
    return whole
