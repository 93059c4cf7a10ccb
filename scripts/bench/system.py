"""What takes part: a module with weights that can be set and gradients that can be read by our names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from framework import Network
from framework.errors import ConfigError
from framework.graph import Graph
from scripts.bench.cells import Link

OURS = "intrastream"


class Declined(Exception):
    """Why a system does not take part in a case; not an error of ours."""


@dataclass
class System:
    """`run(x)` gives the output [T, B, units]. version: what was timed; links: where our weights lie.

    counted: whether its memory can be counted on a CPU. first_s: seconds of its first call, with compiling;
    entry: its name in a case.
    """

    name: str
    version: str
    module: nn.Module
    run: Callable[[Tensor], Tensor]
    links: Sequence[Link] = ()
    counted: bool = True
    first_s: float = 0.0
    entry: str = ""
    figures: dict[str, float | str | None] = field(default_factory=dict)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over our weights. Raises KeyError for a link to nothing, ValueError when one is left over."""
        if isinstance(self.module, Network):
            self.module.load_state_dict(weights)
            return
        left = set(weights)
        with torch.no_grad():
            for link in self.links:
                link.view(self.module).copy_(weights[link.ours])
                left.discard(link.ours)
        if left:
            raise ValueError(f"{self.name} has no place for {', '.join(sorted(left))}")

    def grads(self) -> dict[str, Tensor]:
        """Gradients by our names. Raises ValueError where there is none."""
        if isinstance(self.module, Network):
            found = self.module.grads()
            absent = [name for name, g in found.items() if g is None]
            if absent:
                raise ValueError(f"no gradient of {', '.join(absent)}")
            return {name: g for name, g in found.items() if g is not None}
        return {link.ours: link.view(self.module, grad=True) for link in self.links}

    @property
    def ours(self) -> bool:
        """Whether it is a network of this project."""
        return isinstance(self.module, Network)


def network(name: str, graph: Graph, device: str, kind: torch.dtype, version: str) -> System:
    """A network as `name` describes it: "intrastream", a runner, then options, as in
    "intrastream torch memory=recompute chunk=64". Raises Declined when the runner that is named declines.
    """
    words = name.split()[1:]
    options: dict[str, Any] = dict(w.split("=", 1) for w in words if "=" in w)
    if "chunk" in options:
        options["chunk"] = int(options["chunk"])
    runner = next((w for w in words if "=" not in w), "auto")
    try:
        net = Network(graph, runner=runner, **options).to(device, kind)
    except ConfigError as error:  # no such runner here, or not with these options
        raise Declined(str(error)) from error
    if runner != "auto" and all(c.runner != runner for c in net.plan.choices):
        notes = dict.fromkeys(n.removeprefix(f"{runner}: ") for c in net.plan.choices for n in c.notes)
        raise Declined("; ".join(notes) or "it took no loop")
    runners = ", ".join(dict.fromkeys(c.runner for c in net.plan.choices))
    return System(name, version, net, _first(net), figures={"runner": runners})


def _first(net: Network) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        y = net(x)[0]
        assert isinstance(y, Tensor)
        return y

    return run
