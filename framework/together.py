"""Loops that do not read each other, at the same time: in one launch, or on cuda_streams. No torch.

A launch takes loops of the persistent runner whose programs are all on the chip at once. Two grids whose
programs wait for each other are never launched side by side: each needs the whole of its programs there,
and a half of both would wait for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework import persistent_fit
from framework.errors import ConfigError
from framework.steps import Loop

if TYPE_CHECKING:
    from framework.plan import Plan
    from kernels.persistent_layout import Layout

SPREAD = ("persistent", "streamed")  # runners whose loops can share a launch
# Their programs may wait for each other, which `torch-fused` does not say: cuDNN has such kernels.
WAITING = (*SPREAD, "torch-fused")
HOSTED = "torch"  # its many small kernels are started one by one: the host is what takes the time


@dataclass(frozen=True, slots=True)
class Together:
    """Steps of a plan, all of them loops, that start together: `launches` of one or several, each on a
    cuda_stream (`streams`: its number; 0: the current one, where those that share it follow each other).
    how: the same in words.
    """

    launches: tuple[tuple[int, ...], ...]
    streams: tuple[int, ...]
    how: str

    @property
    def steps(self) -> tuple[int, ...]:
        """All loops."""
        return tuple(k for launch in self.launches for k in launch)


def start_together(plan: Plan) -> tuple[Together, ...]:
    """How loops of a plan that may run at the same time do. Nothing where all go one by one."""
    if plan.apart or not any(c.runner in SPREAD or plan.machine.device == "cuda" for c in plan.choices):
        return ()
    found = (_group(plan, group) for group in plan.groups)
    return tuple(x for x in found if any(x.streams) or len(x.launches) < len(x.steps))


def start_wave(plan: Plan) -> Together:
    """How the loops of a plan start together, each in another part of a call."""
    loops = {k: step for k, step in enumerate(plan.steps) if isinstance(step, Loop)}
    if plan.apart:
        names = ", then ".join(plan.components[step.component].name for step in loops.values())
        return Together(tuple((k,) for k in loops), (0,) * len(loops), f"{names} (together=False)")
    return _group(plan, list(loops))


def check_overlap(plan: Plan) -> None:
    """Raises ConfigError for a plan whose calls cannot run in overlapping parts."""
    if not isinstance(plan.overlap, int) or isinstance(plan.overlap, bool) or plan.overlap < 2:
        cause = f"{plan.overlap!r} is no number of parts"
        raise ConfigError("overlap", cause, "Take a whole number from 2 on, or null.")
    if plan.looks_ahead:
        cause = "a node reads later steps, which lie in the next part"
        raise ConfigError("overlap", cause, "Leave overlap out.")
    if plan.chunk is not None:
        cause = "chunk runs one part after the other, and each again"
        raise ConfigError("overlap", cause, "Leave out chunk or overlap.")
    if not any(isinstance(step, Loop) for step in plan.steps):
        raise ConfigError("overlap", "there is no loop", "Leave overlap out.")


def group_text(plan: Plan, group: Sequence[int]) -> str:
    """What a plan says of loops that do not read each other."""
    found = next((x for x in plan.together if group[0] in x.steps), None)
    if found is not None:
        return f"at the same time: {found.how}"
    names = ", ".join(
        plan.components[s.component].name for k in group if isinstance(s := plan.steps[k], Loop)
    )
    if plan.machine.device == "cpu":
        return f"at the same time: loops {names}"
    return f"one by one: {f'{names} (together=False)' if plan.apart else _group(plan, group).how}"


def _group(plan: Plan, group: Sequence[int]) -> Together:
    """Loops by launches: those that can share one do, others get a cuda_stream where they wait for nobody."""
    number = {k: step.component for k in group if isinstance(step := plan.steps[k], Loop)}
    name = {k: plan.components[i].name for k, i in number.items()}
    runner = {k: plan.choices[i].runner for k, i in number.items()}
    layouts = {
        k: persistent_fit.layout_of(plan.components[i], plan.machine, runner[k] == "streamed")
        for k, i in number.items()
        if runner[k] in SPREAD
    }
    launches, why = _launches(plan, group, layouts)
    streams, free = [], 0
    for launch in launches:
        k = launch[0]
        waits = layouts[k].programs > 1 if k in layouts else runner[k] in WAITING
        held = waits or runner[k] == HOSTED or plan.machine.device != "cuda"
        free += not held
        streams.append(0 if held else free)
    if 0 not in streams:
        streams = [s - 1 for s in streams]
    # Those on streams of their own start first; what the current one does goes on beside them.
    sorted_ = sorted(zip(launches, streams, strict=True), key=lambda x: not x[1])
    launches, streams = [x for x, _ in sorted_], [s for _, s in sorted_]
    texts = [_words(plan, [name[k] for k in x], [layouts[k] for k in x if k in layouts]) for x in launches]
    own = [f"{text} on a cuda_stream" for text, s in zip(texts, streams, strict=True) if s]
    current = [text for text, s in zip(texts, streams, strict=True) if not s]
    how = "; ".join([*own, ", then ".join(current)])
    return Together(tuple(launches), tuple(streams), f"{how}{f' ({why})' if why else ''}")


def _launches(
    plan: Plan, group: Sequence[int], layouts: Mapping[int, Layout]
) -> tuple[list[tuple[int, ...]], str]:
    """Loops that share a launch, the first that fits; why some that could have been with others are not."""
    if plan.memory == "recompute":
        return [(k,) for k in group], "memory=recompute goes block by block" if len(layouts) > 1 else ""
    launches: list[tuple[int, ...]] = []
    why = ""
    for k in group:
        for i, others in enumerate(launches if k in layouts else ()):
            if others[0] not in layouts:
                continue
            found = persistent_fit.side_by_side([layouts[n] for n in (*others, k)], 1, plan.machine)
            if isinstance(found, str):
                why = found
                continue
            launches[i] = (*others, k)
            break
        else:
            launches.append((k,))
    return launches, why


def _words(plan: Plan, names: Sequence[str], layouts: Sequence[Layout]) -> str:
    if len(names) == 1:
        return names[0]
    if layouts[0].programs == 1:
        spread = "a program each for every tile of lanes"
    else:
        room = f" of {plan.machine.units}" if plan.machine.device == "cuda" else ""
        spread = " + ".join(str(layout.programs) for layout in layouts) + f"{room} programs"
    return f"{', '.join(names)} in one launch, {spread}"
