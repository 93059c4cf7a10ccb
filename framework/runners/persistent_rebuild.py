"""What a persistent loop keeps for its backward, computed again from the sequences of its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from framework.runners.loop import Chunk
from framework.runners.torch_loop import TorchLoop

if TYPE_CHECKING:
    from framework.runners.triton_persistent import PersistentLoop


def kept_again(
    loop: PersistentLoop, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], stored: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors `extra<op>`, `rows`, and in the hoisted buffer what a forward writes there (see `Saved`).

    stored: `node<op>`, [front + T + back, B, size]. The loop takes no random masks of its own.
    """
    c, saved = loop.c, loop.saved(chunk)
    assert not c.masks, "masks are drawn outside"
    torch_loop = TorchLoop(c, by=loop.by) if loop.again is None else loop.again
    loop.again = torch_loop
    given = list(tensors)
    first = bool(c.targets) + n_ext + len(c.runs)
    singles = dict(zip(loop.singles, given[first : first + len(loop.singles)], strict=True))
    given[first : first + len(loop.singles)] = [singles[name] for name in torch_loop.singles]
    over = {at for _, at in saved.rows} - set(loop.stored)
    ops = frozenset([*saved.columns, *saved.extra, *over])
    values = {f"V{name[4:]}": x for name, x in stored.items()}
    v = torch_loop.rebuilt(chunk, n_ext, given, values, ops)
    places = torch_loop.source("rebuild", bool(chunk.masks), ops)[0].places
    out = {f"extra{at}": torch_loop.value(v, places[at], chunk).contiguous() for at in saved.extra}
    if saved.rows:
        whole = {f"node{name[4:]}": x for name, x in stored.items()}
        found = [
            _row(name, torch_loop.value(v, places[at], chunk) if at in over else loop.value(chunk, whole, at))
            for name, at in saved.rows
        ]
        out["rows"] = torch.stack(found, -1)
    for at, lo in saved.columns.items():  # last: other values lie there
        place = places[at]
        if place.base != "P" or place.lo != lo:
            v["P"][..., lo : lo + c.cell[at].size] = torch_loop.value(v, place, chunk)
    return out


def _row(name: str, x: Tensor) -> Tensor:
    """The statistic `name` of the rows of x [T, B, size], as `rows.py` of the kernels: [T, B]."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if name == "mean":
        return wide.mean(-1)
    if name == "rstd":
        return torch.rsqrt(wide.var(-1, unbiased=False) + 1e-5)
    most = wide.amax(-1)
    return most if name == "most" else 1 / (wide - most.unsqueeze(-1)).exp().sum(-1)
