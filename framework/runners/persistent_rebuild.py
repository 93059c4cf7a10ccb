"""What a persistent loop keeps for its backward, computed again from the sequences of its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from framework.runners.loop import Chunk
from framework.runners.torch_loop import TorchLoop

if TYPE_CHECKING:
    from framework.runners.triton_persistent import PersistentLoop


def kept_again(
    loop: PersistentLoop, chunk: Chunk, n_ext: int, tensors: Sequence[Tensor], stored: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors `extra<op>`, and in the hoisted buffer what a forward writes there (see `Saved`).

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
    ops = frozenset([*saved.columns, *saved.extra])
    values = {f"V{name[4:]}": x for name, x in stored.items()}
    v = torch_loop.rebuilt(chunk, n_ext, given, values, ops)
    places = torch_loop.source("rebuild", bool(chunk.masks), ops)[0].places
    out = {f"extra{at}": torch_loop.value(v, places[at], chunk).contiguous() for at in saved.extra}
    for at, lo in saved.columns.items():
        place = places[at]
        if place.base != "P" or place.lo != lo:
            v["P"][..., lo : lo + c.cell[at].size] = torch_loop.value(v, place, chunk)
    return out
