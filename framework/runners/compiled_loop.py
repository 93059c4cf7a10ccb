"""The `compiled` runner: all steps of a loop in one native call, on a CPU.

The function is generated from the cell and its derivative (compiled_steps, compiled_nests, compiled_function)
and compiled by LLVM on first use. Values lie where the torch runner has them, and what is not a loop (weight
gradients, edges) is that runner's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from framework.component import Component
from framework.errors import ConfigError
from framework.products import By
from framework.runners import compiled_native as native
from framework.runners.compiled_function import Emitter, Function
from framework.runners.compiled_nests import WIDE, Step, nests_of
from framework.runners.compiled_rebuild import Rebuild, slab_steps
from framework.runners.compiled_steps import Forward, Reverse
from framework.runners.compiled_threads import at_once
from framework.runners.loop import Chunk
from framework.runners.source import Buffer, Source, pads
from framework.runners.torch_loop import TorchLoop

# In what it computes, and in what numbers lie in memory where that is smaller.
REALS = {
    torch.float32: ("float", ""),
    torch.float64: ("double", ""),
    torch.bfloat16: ("float", "bfloat"),
    torch.float16: ("float", "half"),
}
# Weights up to this many bytes stay in a core's second cache: threads then share lanes, and each reads all of
# them at every step.
NEAR = 1 << 20
WORK = 1 << 20  # multiplications of a whole call for each thread, so that it is worth its start


def computed(dtype: torch.dtype) -> torch.dtype:
    """In what a loop on such tensors computes."""
    return torch.promote_types(dtype, torch.float32)


class CompiledLoop(TorchLoop):
    """One component, compiled to machine code on first use. narrow: it runs on bfloat16 or float16, and
    computes in float32.
    """

    def __init__(self, c: Component, by: By = "torch", narrow: bool = False):
        super().__init__(c, by=by)
        self.narrow = narrow
        self._sources: dict[tuple[str, bool, frozenset[int] | None], tuple[Source, _Native]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles make their functions again."""
        return {**super().__getstate__(), "_sources": {}}

    def check_device(self, device: str) -> None:
        """Raises ConfigError for other devices than a CPU."""
        if device != "cpu":
            cause = f"'compiled' runs on a CPU, the network is on {device}"
            raise ConfigError("runner", cause, "Move it to a CPU, or take runner=auto.")

    def source(
        self, kind: str, masked: bool, given: frozenset[int] | None = None
    ) -> tuple[Source, Callable[..., None]]:
        """See `TorchLoop.source`."""
        known = self._sources.get((kind, masked, given))
        if known is None:
            made: Forward | Reverse
            slabs = kind == "rebuild"
            if kind == "backward":
                places = self.source("train", masked)[0].places
                d = self.backward_cell(given)
                made = Reverse(self.c, d, places, self.weights, masked, self.narrow)
            else:
                saved = self.backward_cell().saved if kind != "infer" else frozenset()
                make = Rebuild if slabs else Forward
                made = make(self.c, saved if given is None else given, self.weights, masked, self.narrow)
            known = (made.source, _Native(self.c, made.step(), made.source, kind != "backward", slabs))
            self._sources[kind, masked, given] = known
        return known

    def rebuilt(
        self,
        chunk: Chunk,
        n_ext: int,
        tensors: Sequence[Tensor],
        stored: dict[str, Tensor],
        ops: frozenset[int] | None = None,
    ) -> dict[str, Any]:
        """See `TorchLoop.rebuilt`."""
        source, run = self.source("rebuild", bool(chunk.masks), ops)
        v = self.environment(chunk, n_ext, tensors) | stored
        block = slab_steps(chunk.lanes)
        self.allocate(source, chunk, self._like(v), block * torch.get_num_threads(), v)
        run(chunk.steps, block, v)
        return v

    def products(self, w: Tensor, rows: int) -> Mapping[str, Callable[..., object]]:
        """None: machine code multiplies itself."""
        return {}

    def packed(self, dtype: torch.dtype) -> int:
        """Bytes of the copies of its weights that a call on such tensors makes."""
        source = self.source("train", False)[1]
        assert isinstance(source, _Native)
        return sum(source.function(dtype)[0].packs.values()) * computed(dtype).itemsize


class _Native:
    """Runs a step of `compiled_nests` for all steps of a chunk. Adds the rows of one step to the source."""

    def __init__(self, c: Component, step: Step, source: Source, forward: bool, slabs: bool):
        self.c, self.source, self.slabs = c, source, slabs
        self.forward = (c.direction > 0) == forward
        self.nests, self.scheduler = nests_of(step)
        for name in [name for name, s in source.buffers.items() if s.mode == "temp"]:
            del source.buffers[name]
        for nest in self.nests:
            places = [place for _, place in nest.stores]
            if nest.product is not None:
                places.append(nest.product.out)
            for place in places:
                if place.mode == "temp":
                    mode, size = "block" if slabs else "temp", self._size(place.base, step)
                    source.buffers.setdefault(place.base, Buffer(mode, size, wide=place.base[0] in WIDE))
        self._functions: dict[torch.dtype, tuple[Function, Callable[..., None]]] = {}

    def _size(self, base: str, step: Step) -> int:
        """The columns of what is there for one step: N<run>, H<op>, M<op>, M<op>p that products add to it."""
        if base[0] == "N":
            run = self.c.runs[int(base[1:])]
            return run.hi - run.lo
        return step.ops[int(base.strip("HMp"))].size

    def _widths(self) -> dict[str, int]:
        """The columns of each buffer."""
        out = {name: s.size for name, s in self.source.buffers.items()}
        out["P"] = out["G"] = self.c.width
        for i, op in enumerate(self.c.cell):
            out.setdefault(f"V{i}", op.size)
            out.setdefault(f"S{i}", op.size)
            out.setdefault(f"R{i}", op.size)
            out.setdefault(f"DY{i}", op.size)
            if op.kind == "ext":
                out[f"E{op.lo}"] = op.size
            if op.kind == "shift":
                out[f"K{abs(op.shift)}"] = out[f"L{abs(op.shift)}"] = 1
        return out

    def function(self, dtype: torch.dtype) -> tuple[Function, Callable[..., None]]:
        """The text, and what it is compiled to."""
        known = self._functions.get(dtype)
        if known is None:
            v = native.vectors(*REALS[dtype])
            made = Emitter(self.nests, self.scheduler, self._widths(), self.forward, v, self.slabs).emit()
            known = self._functions[dtype] = (made, native.function(made.text))
        return known

    def __call__(self, steps: int, block: int, v: dict[str, Any]) -> None:
        """Run over the buffers v."""
        if not self.nests:  # all that a backward reads may be there
            return
        like = next(x for x in v.values() if isinstance(x, Tensor) and x.is_floating_point())
        made, run = self.function(like.dtype)
        lanes = next(v[n].shape[1] for n in made.bases if n[0] in "PVGESRXD")
        held: list[Any] = []
        back: list[tuple[Tensor, Tensor]] = []
        addresses = []
        for name in made.bases:
            if name in made.packs:
                x = like.new_empty(made.packs[name], dtype=computed(like.dtype))
            else:
                x = v[name]
            if isinstance(x, list):  # a ring: its rows one after the other
                x = v[name] = torch.stack(x)
                if name[0] == "Z":
                    self._enter(x, int(name[1:]), steps, v)
            if not x.is_contiguous():
                packed = x.contiguous()
                if name[0] in "PVSRGXCM":
                    back.append((x, packed))
                x = packed
            held.append(x)
            addresses.append(x.data_ptr())
        pointers = (ctypes.c_void_p * len(addresses))(*addresses)
        sync = (ctypes.c_int64 * 16)()
        n, units = self._threads(made, steps, lanes, computed(like.dtype).itemsize)

        def part(i: int, of: int) -> None:
            if self.slabs:
                lo, hi = i * steps // of, (i + 1) * steps // of
                run(pointers, steps, lanes, lo, hi, i, of, block, 1, sync)
                return
            lo, hi = (0, lanes) if units else (i * lanes // of, (i + 1) * lanes // of)
            who, among = (i, of) if units else (0, 1)
            run(pointers, steps, lanes, lo, hi, i, of, who, among, sync)

        def let_go() -> None:
            sync[0] = 1 << 62  # threads wait until it has come up to a number

        at_once(part, n, let_go)
        for x, packed in back:
            x.copy_(packed)

    def _enter(self, ring: Tensor, root: int, steps: int, v: dict[str, Any]) -> None:
        """Fill a ring with the states around the chunk, which stand with those of the chunk in V."""
        lo, hi = v[f"span{root}"]
        front = pads(self.c)[0]
        for row in range(lo, hi):
            ring[(row - front) % len(ring)] = v[f"V{root}"][row]

    def _threads(self, made: Function, steps: int, lanes: int, itemsize: int) -> tuple[int, bool]:
        """(how many, whether they share units rather than lanes)."""
        weights = sum(made.packs.values())
        pointwise = sum(nest.size * max(1, len(nest.ops)) for nest in self.nests if nest.product is None)
        work = (weights + 8 * pointwise) * steps * lanes  # a function is some 8 multiplications
        n = min(torch.get_num_threads(), work // max(1, WORK))  # so that each has enough to do
        if n < 2:
            return 1, False
        if self.slabs:
            return min(n, steps), False
        if weights * itemsize > NEAR and lanes < 8 * n:
            return n, True
        return min(n, lanes), False
