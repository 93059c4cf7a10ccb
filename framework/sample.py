"""Text from a character network, one character at a time: each a call with T = 1 and the carried state."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from framework.errors import ConfigError
from framework.network import Network
from framework.state import State


class FrameByFrame:
    """A network that is fed one frame after another, the state carried.

    Raises ConfigError for a network that looks ahead: it cannot say anything before the future is known.
    """

    def __init__(self, net: Network, device: str = "cpu"):
        if net.plan.looks_ahead:
            raise ConfigError(
                "checkpoint", "this model reads later frames", "Train one that runs forward only."
            )
        self.net, self.device = net.eval(), device
        self.state: State | None = None

    @torch.no_grad()
    def feed(self, index: int) -> Tensor:
        """One frame in; returns the logits after it, [classes]."""
        frame = torch.tensor([[index]], device=self.device)  # [T=1, B=1]
        y, self.state = self.net(frame, state=self.state)
        return (y["logits"] if isinstance(y, dict) else y)[0, 0]


def generate(
    net: Network,
    prompt: Tensor,
    length: int,
    *,
    temperature: float = 0.8,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[int]:
    """`length` indices that go on after `prompt` [T] (indices, at least one).

    Each is drawn from softmax(logits / temperature); temperature 0 takes the likeliest. Same seed, same text.
    Raises ConfigError, before the first one is asked for.
    """
    if len(prompt) == 0:
        raise ConfigError("prompt", "it is empty", "Give at least one character.")
    if temperature < 0:
        raise ConfigError("temperature", f"{temperature} is below 0", "Give 0 (the likeliest) to about 1.")
    source = torch.Generator().manual_seed(seed)
    reader = FrameByFrame(net, device)

    def after() -> Iterator[int]:
        for index in prompt.tolist():
            logits = reader.feed(index)
        for _ in range(length):
            index = draw(logits, temperature, source)
            yield index
            logits = reader.feed(index)

    return after()


def draw(logits: Tensor, temperature: float, source: torch.Generator) -> int:
    """One index from softmax(logits / temperature) [classes]; the likeliest at temperature 0."""
    if temperature == 0:
        return int(logits.argmax())
    chances = torch.softmax(logits.double().cpu() / temperature, dim=0)
    return int(torch.multinomial(chances, 1, generator=source))


def difference(net: Network, indices: Tensor, device: str = "cpu") -> tuple[float, float]:
    """How far frame-by-frame logits are from those of the whole sequence at once, for indices [T].

    Returns the largest difference and the largest logit, both absolute: rounding keeps their ratio near 1e-6.
    """
    reader = FrameByFrame(net, device)
    single = torch.stack([reader.feed(index) for index in indices.tolist()])  # [T, classes]
    with torch.no_grad():
        y, _ = net(indices.unsqueeze(1).to(device))
    whole = (y["logits"] if isinstance(y, dict) else y)[:, 0]
    return float((single - whole).abs().max()), float(whole.abs().max())
