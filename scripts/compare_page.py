"""What scripts/compare.py writes: the table of all conditions, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.compare import Row


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows: a condition a line."""
    lines = [
        "| parallel | streams | runner | us a frame | quarter to quarter | speedup | memory | cores | GPU |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        scale = r.frame_us / r.milliseconds
        lines.append(
            f"| {r.parallel} | {r.streams} | {r.runners} | {r.frame_us:.2f} | {r.low * scale:.2f} to "
            f"{r.high * scale:.2f} | {r.speedup:.2f} | {r.peak_bytes / 1e6:.1f} MB | {r.cores:.2f} | "
            f"{'-' if r.gpu is None else f'{r.gpu:.0%}'} |"
        )
    return "\n".join(lines)


def text(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """The page: what was measured, where, and the table."""
    what = ", ".join(f"{key} {value}" for key, value in about.items())
    several = len({r.runners for r in rows}) > 1
    note = " Runners differ, so the speedup is not that of hoisting alone: runner=torch takes one for all."
    return (
        f"# {about['model']}: hoisting and streams\n\n{what}.\n\n{table(rows)}\n\n"
        "Time of forward and backward, per step of one stream; median, speedup by rounds over the first row. "
        "Memory: most bytes of tensors alive at once in an update. Cores: CPU time over time."
        f"{note * several}\n"
    )


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Time per frame with the speedup, memory, and use of the GPU, or of the cores, as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    times, memory, use = figure.subplots(1, 3)
    names = [f"{r.parallel}\n{r.streams} stream{'s' * (r.streams > 1)}" for r in rows]
    colours = ["#9aa5b1" if r.parallel == "none" else "#2f6fb0" for r in rows]
    scale = [r.frame_us / r.milliseconds for r in rows]
    spread = [
        [r.frame_us - r.low * s for r, s in zip(rows, scale, strict=True)],
        [r.high * s - r.frame_us for r, s in zip(rows, scale, strict=True)],
    ]
    bars = times.bar(names, [r.frame_us for r in rows], color=colours, yerr=spread, capsize=3)
    times.bar_label(bars, [f"{r.speedup:.1f}x" for r in rows], label_type="center", color="white")
    times.set_yscale("log")
    times.set_ylim(bottom=min(r.frame_us for r in rows) / 3)  # a logarithmic bar has to begin somewhere
    times.set_title("us per frame (log), and speedup")
    shares = [r.gpu for r in rows if r.gpu is not None]
    if len(shares) == len(rows):
        used = (use, shares, "GPU in use", "{:.2f}")
    else:
        used = (use, [r.cores for r in rows], "cores in use", "{:.2f}")
    megabytes = (memory, [r.peak_bytes / 1e6 for r in rows], "memory of an update, MB", "{:.3g}")
    for axes, values, text, form in (megabytes, used):
        axes.bar_label(axes.bar(names, values, color=colours), fmt=form)
        axes.margins(y=0.15)
        axes.set_title(text)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
