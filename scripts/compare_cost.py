"""What a model costs: time, money and memory of an epoch, as an eager loop, by torch's layer, and by us.

For scripts/compare.py with --cost PRICE. Everything in the report was measured in this process: the systems
take turns on the same weights, with cold caches, after they were seen to compute the same.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from framework.errors import ConfigError
from framework.graph import Graph
from framework.network import Network
from framework.plain import PlainPlan
from framework.plan import Memory
from framework.use import Gauge
from framework.vanilla import Vanilla
from scripts.bench.measure import Device
from scripts.compare import APART, SETTLE, Condition, Row, driver, measure

MOST = 1 << 16  # lanes that are tried


@dataclass(frozen=True)
class Cost:
    """One system. Of an epoch: hours, money, joules (None: the machine does not say). lanes: the largest
    batch that fits into the room (None: no room was given); least: a larger one was not tried, for time.
    """

    name: str
    row: Row
    hours: float
    money: float
    joules: float | None
    lanes: int | None
    least: bool


class System(Condition):
    """A network and how it is run, by a name of its own."""

    def __init__(self, name: str, net: Network, steps: int, streams: int):
        super().__init__(net, steps, streams)
        self.title = name

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.title

    def with_lanes(self, lanes: int) -> System:
        """The same with another batch."""
        return type(self)(self.title, self.net, self.steps, lanes)


class EagerSystem(System):
    """The plan's equations in torch with a loop of Python over the steps, differentiated by autograd."""

    def __init__(self, name: str, net: Network, steps: int, streams: int):
        super().__init__(name, net, steps, streams)
        self.plain = PlainPlan(net.plan, whole=True, eager=True)
        self.history: Mapping[str, Tensor] | None = None

    def outputs(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """All outputs of the next `steps` steps; the state goes on."""
        if self.history is None:
            self.history = self.net.initial_state(self.streams).history
        y, after = self.plain.run(dict(self.net.named_parameters()), inputs, self.history, self.net.like)
        self.history = {name: h.detach() for name, h in after.items()}
        return list(y.values())


def systems(made: Graph, options: Mapping[str, Any]) -> tuple[list[System], str]:
    """The slowest first, which the others are compared with; and why torch's own layer is not there."""

    def net(parallel: Any, runner: str) -> Network:
        memory = cast(Memory, options["memory"]) if parallel == "intra" else "save"
        return Network(made, runner, parallel, memory=memory).to(options["device"])

    steps, lanes = options["steps"], options["streams"]
    ours = net("intra", options["runner"])
    for loop in ours.loops:
        loop.check_device(ours.like.device.type)
    found: list[System] = [
        EagerSystem("eager loop", net("none", "torch"), steps, lanes),
        EagerSystem("eager loop, hoisted", net("intra", "torch"), steps, lanes),
    ]
    why = next((f"loop {c.name}: {c.vanilla}" for c in ours.plan.components
                if not isinstance(c.vanilla, Vanilla)), "")  # fmt: skip
    if not ours.plan.components:
        why = "the model has no loop"
    if not why:
        found.append(System("torch's own layer", net("intra", "torch-fused"), steps, lanes))
    found.append(System("Intrastream", ours, steps, lanes))
    for other in found[:-1]:
        other.net.load_state_dict(ours.state_dict())
    for each in found:
        each.net.eval()  # masks differ between systems: all compute with their means
    return found, why


def check_equal(found: Sequence[System]) -> None:
    """Two chunks by all systems, and gradients. Raises ConfigError where they differ."""
    base, *others = found
    for _ in range(2):
        inputs = base.fresh()
        want, slopes = _computed(base, inputs)
        for other in others:
            got, own = _computed(other, inputs)
            scale = max((float(g.abs().max()) for g in slopes.values()), default=0.0)
            pairs = [("output", a, b, float(a.abs().max())) for a, b in zip(want, got, strict=True)]
            pairs += [
                (name, slopes[name], own[name], scale) for name in slopes
            ]  # tiny ones are sums of large
            for what, a, b, of in pairs:
                apart = float((a - b).abs().max()) / max(of, 1e-30)
                if not apart <= APART:
                    cause = f"{base.name} and {other.name} differ by {apart:.2g} in {what}"
                    raise ConfigError("model", cause, "This is a bug: please report it.")


def _computed(system: System, inputs: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs, and gradients by canonical names (0 where none comes)."""
    system.net.zero_grad(set_to_none=True)
    y = system.outputs(inputs)
    sum(v.square().mean() for v in y).backward()  # type: ignore[union-attr]
    weights, grads = system.net.weights(), system.net.grads()
    slopes = {n: torch.zeros_like(weights[n]) if g is None else g.detach().clone() for n, g in grads.items()}
    return [v.detach() for v in y], slopes


def largest(system: System, device: Device, room: float, seconds: float) -> tuple[int, bool]:
    """(most lanes whose update stays within `room` bytes, to an eighth; whether the time was over before).

    Each size is run, and its memory measured; running out of the device's memory counts as too much.
    """
    end = time.perf_counter() + seconds

    def fits(lanes: int) -> bool:
        trial = system.with_lanes(lanes)
        try:
            trial.ready()()  # what compiles is no part of it
            return device.peak(trial.ready()) <= room
        except torch.OutOfMemoryError:
            return False
        finally:
            trial.net.zero_grad(set_to_none=True)
            if device.kind == "cuda":
                torch.cuda.empty_cache()

    low, high = 0, 1
    while high <= MOST and fits(high):
        low, high = high, high * 2
        if time.perf_counter() > end:
            return low, True
    if high > MOST:
        return low, True
    while low and high - low > max(1, low // 8):
        middle = (low + high) // 2
        if time.perf_counter() > end:
            return low, True
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, False


def joules(system: System, device: Device, seconds: float = 2.0, settle: float = SETTLE) -> float | None:
    """Energy of an update: the driver's power while updates follow each other; None where it says nothing."""
    if device.kind != "cuda":
        return None
    watts, each = driver(Gauge("gpu_watts", system.net.like.device), system.update, seconds, settle)
    return None if watts is None else watts * each


def costs(found: Sequence[System], asked: Mapping[str, Any]) -> list[Cost]:
    """All systems measured in turns, then each alone: energy, and the largest batch."""
    rows = measure(found, asked["seconds"])
    device = Device(found[0].net.like.device.type)
    out = []
    for system, row in zip(found, rows, strict=True):
        hours = row.frame_us * asked["frames"] / 3.6e9
        energy = joules(system, device)
        lanes, least = None, False
        if asked["room"]:
            lanes, least = largest(system, device, asked["room"] * 1e9, max(asked["seconds"], 10.0))
        updates = asked["frames"] / (system.steps * system.streams)
        out.append(
            Cost(system.name, row, hours, hours * asked["cost"], energy and energy * updates, lanes, least)
        )
    return out


def report(made: Graph, asked: Mapping[str, Any], model: str, machine: str, out: Path) -> None:
    """Measure, print, and write cost.md, cost.html, cost.json and cost.png into `out`."""
    from scripts import compare_cost_page as written

    found, why = systems(made, asked)
    check_equal(found)
    rows = costs(found, asked)
    about = {
        "model": model, "steps": asked["steps"], "lanes": asked["streams"], "frames": asked["frames"],
        "price of an hour": asked["cost"], "room": asked["room"], "device": machine,
        "weights": sum(w.numel() for w in found[-1].net.weights().values()),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    written.draw(rows, f"{model}, {machine}", out / "cost.png")
    text = written.markdown(rows, about, why)
    (out / "cost.md").write_text(text, encoding="utf-8")
    whole = written.page(rows, about, why, (out / "cost.png").read_bytes())
    (out / "cost.html").write_text(whole, encoding="utf-8")
    kept = {**about, "torch's own layer": why or "measured", "systems": [dataclasses.asdict(c) for c in rows]}
    (out / "cost.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"{text}\n{out}/cost.html, cost.md, cost.json, cost.png")
