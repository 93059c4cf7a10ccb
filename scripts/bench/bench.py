"""What all measurements of one run share, and how their figures become a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scripts.bench.cases import Case
from scripts.bench.limits import Limits
from scripts.bench.measure import Device, quantile, speedup
from scripts.bench.rows import Row

SEED = 1


class Named(Protocol):
    """What a row says of a system."""

    @property
    def name(self) -> str:
        """As readers know it."""
        ...

    @property
    def entry(self) -> str:
        """As the case asks for it."""
        ...

    @property
    def version(self) -> str:
        """Of what was timed."""
        ...


@dataclass(frozen=True)
class Entrant:
    """A system of which there is nothing to keep but its name."""

    name: str
    entry: str
    version: str


def digits(value: float) -> float:
    """Four digits are enough for a row."""
    return float(f"{value:.4g}")


@dataclass(frozen=True)
class Bench:
    """info: of where.here; seconds: for each pass of a case; limits: of the machine; tiny: a rehearsal."""

    device: Device
    seconds: float
    info: Mapping[str, Any]
    limits: Limits | None = None
    tiny: bool = False

    @property
    def version(self) -> str:
        """Of our own systems."""
        return str(self.info["code"])

    def row(
        self,
        case: Case,
        system: Named,
        pass_: str,
        times: Mapping[str, Sequence[float]],
        work: tuple[float, float],
        *,
        peak_bytes: int | None = None,
        predicted_ms: float | None = None,
        **more: Any,
    ) -> Row:
        """The row of one system. times: name of each system of these rounds -> milliseconds; work: operations
        and least bytes of a call.
        """
        own = times[system.name]
        p20, p50, p80 = (quantile(own, part) for part in (0.2, 0.5, 0.8))
        known = self.limits if self.limits and case.dtype in self.limits.flops else None
        floor = known.floor(case.dtype, *work) * 1e3 if known and work[0] else None
        return Row(
            **self.info,
            table=case.table,
            case=case.name,
            system=system.name,
            entry=system.entry,
            version=system.version,
            dtype=case.dtype,
            T=case.T,
            B=case.B,
            F=case.F,
            H=case.H,
            layers=case.layers,
            pass_=pass_,
            input_product=case.input_product,
            p20_ms=round(p20, 4),
            p50_ms=round(p50, 4),
            p80_ms=round(p80, 4),
            us_per_step=round(p50 * 1e3 / case.T, 4),
            peak_bytes=peak_bytes,
            flops=work[0],
            bytes=work[1],
            flops_per_s=round(work[0] / p50 * 1e3),
            bytes_per_s=round(work[1] / p50 * 1e3),
            ceiling_flops=known and round(known.flops[case.dtype]),
            ceiling_bytes=known and round(known.bandwidth),
            floor_ms=floor and digits(floor),
            limit=floor and digits(floor / p50),
            predicted_ms=predicted_ms and digits(predicted_ms),
            seed=SEED,
            turns=len(own),
            ratios={o: digits(speedup(times, system.name, o)) for o in times if o != system.name},
            options={"cell": case.cell, "bidirectional": case.bidirectional, **dict(case.options)},
            **more,
        )
