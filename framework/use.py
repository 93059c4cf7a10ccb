"""How much of the machine training uses: processors by the system's clocks, GPUs by their driver."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from framework.logging import warn
from framework.parallel import ALONE, Group

# NVML counts over 1/6 s to 1 s (nvmlDeviceGetUtilizationRates): who asks more often gets the same again.
PERIOD = 0.15
# Called by their names at each reading. torch asks NVML (of the package nvidia-ml-py) or AMD's SMI.
GAUGES: dict[str, Callable[[str], float]] = {
    "gpu_use": lambda device: torch.cuda.utilization(device) / 100,
    "gpu_watts": lambda device: torch.cuda.power_draw(device) / 1e3,
}


class Gauge:
    """What the driver says of a GPU: the share of time with a kernel on it, or watts; `name` is of GAUGES.

    A reading waits for no kernel. Where the driver does not answer `why` says so, and it is not asked again.
    """

    def __init__(self, name: str, device: str | torch.device):
        self.name, self.device, self.why = name, str(device), ""
        self.value: float | None = None
        self.asked = float("-inf")

    def read(self) -> float | None:
        """The mean over the driver's last period, of a second or less; None where it is not told."""
        now = time.monotonic()
        if self.why or now - self.asked < PERIOD:
            return self.value
        try:
            self.value, self.asked = GAUGES[self.name](self.device), now
        except Exception as error:  # classes of the drivers' own packages, which may be absent
            text = str(error).strip().splitlines()
            self.value, self.why = None, text[0] if text else type(error).__name__
            if isinstance(error, ModuleNotFoundError) and torch.version.hip is None:
                self.why += " `pip install nvidia-ml-py` brings it."
        return self.value


class Use:
    """A stopwatch of training, and what ran meanwhile. device: the one that computes, of this process.

    Of a group all processes make one; the one that leads says, once, what cannot be read.
    """

    def __init__(self, device: str = "cpu", group: Group = ALONE):
        self.group = group
        self.gauges = [Gauge(name, device) for name in GAUGES] if device.startswith("cuda") else []
        self.told = not group.leads
        self.restart()

    def restart(self) -> None:
        """A new stretch begins."""
        self.begun, self.processor_begun = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        """Length of this stretch until now."""
        return time.perf_counter() - self.begun

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What happens inside is no part of the stretch; one may stand inside another."""
        seconds, processor = self.seconds(), time.process_time() - self.processor_begun
        try:
            yield
        finally:
            self.begun = time.perf_counter() - seconds
            self.processor_begun = time.process_time() - processor

    def shares(self) -> dict[str, float]:
        """Of this stretch, over all processes of the group, which call it together.

        cpu_use: processor time over time and torch's threads: 1 is all of them busy, more where others (that
        read data, say) work beside them. gpu_use: mean of the GPUs' shares of time with a kernel, over the
        driver's last period. gpu_watts: of all of them together. What any GPU does not tell is left out.
        """
        seconds = max(self.seconds(), 1e-9)
        parts = [time.process_time() - self.processor_begun, seconds * torch.get_num_threads()]
        for gauge in self.gauges:
            value = gauge.read()
            parts += [value or 0.0, value is None]
        self._tell()
        busy, room, *read = self.group.sum(*parts)
        found = {"cpu_use": busy / room}
        for gauge, value, missing in zip(self.gauges, read[::2], read[1::2], strict=True):
            if not missing:
                found[gauge.name] = value / self.group.world if gauge.name == "gpu_use" else value
        return found

    def _tell(self) -> None:
        causes = list(dict.fromkeys(gauge.why for gauge in self.gauges if gauge.why))
        if causes and not self.told:
            self.told = True
            names = " and ".join(gauge.name for gauge in self.gauges if gauge.why)
            warn(f"no {names} in the records: {'; '.join(causes)}")
