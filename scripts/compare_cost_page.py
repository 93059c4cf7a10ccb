"""The report of scripts/compare_cost.py: Markdown, one HTML file with its picture inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.compare_cost import Cost

HEADS = ("", "runner", "us a frame", "quarter to quarter", "an epoch", "money", "saving", "memory",
         "largest batch", "energy")  # fmt: skip


def cells(found: Sequence[Cost]) -> list[list[str]]:
    """The rows of the table as texts."""
    base = found[0]
    out = []
    for c in found:
        scale = c.row.frame_us / c.row.milliseconds
        lanes = "-" if c.lanes is None else f"{'at least ' if c.least else ''}{c.lanes}"
        out.append([
            c.name, c.row.runners if c.name in ("Intrastream", "torch's own layer") else "autograd",
            f"{c.row.frame_us:.2f}", f"{c.row.low * scale:.2f} to {c.row.high * scale:.2f}",
            duration(c.hours),
            f"{c.money:.4g}", f"{1 - c.money / base.money:.0%} ({c.row.speedup:.2f} times as fast)",
            f"{c.row.peak_bytes / 1e6:.1f} MB", lanes,
            "-" if c.joules is None else f"{c.joules / 3.6e6:.4g} kWh",
        ])  # fmt: skip
    return out


def duration(hours: float) -> str:
    """For people."""
    seconds = hours * 3600
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if hours < 2 else f"{hours:.1f} h"


def notes(found: Sequence[Cost], about: Mapping[str, Any], why: str) -> list[str]:
    """What the numbers are, and what is not there."""
    base, ours = found[0], found[-1]
    out = [
        f"**An epoch of {about['frames']:,} frames costs {ours.money:.4g} instead of {base.money:.4g}**, "
        "and takes "
        f"{duration(ours.hours)} instead of {duration(base.hours)}: {ours.row.speedup:.2f} times as fast.",
        "Measured: forward and backward of an update, systems in turns with cold caches, after outputs and "
        "gradients were seen to agree. An epoch is this time per frame (one step of one lane) times its "
        "frames: the optimizer, reading data and evaluations are not in it. Money: by the price of an hour.",
        "Eager loop: the model's equations in torch, one step after another, differentiated by autograd; "
        "hoisted: with the products of inputs computed before the loop. Savings are over the first row.",
        "Memory: most bytes of tensors alive at once in an update, beyond weights and inputs.",
    ]
    if not why and ours.row.runners == "torch-fused":
        out.append("Intrastream chose torch's own layer here: their rows differ by noise alone.")
    if why:
        out.append(f"Torch's own layer (cuDNN on a GPU) cannot compute this model: {why}.")
    if found[0].lanes is None:
        out.append("Largest batch: not measured, no room was given (room=GB).")
    else:
        out.append(
            f"Largest batch: lanes whose update stays within {about['room']} GB, to an eighth; each was run."
        )
    if found[0].joules is None:
        out.append("Energy: not measured, since the machine's driver reports no power here.")
    return out


def markdown(found: Sequence[Cost], about: Mapping[str, Any], why: str) -> str:
    """The report."""
    lines = [f"# What {about['model']} costs", "", ", ".join(f"{k} {v}" for k, v in about.items()) + ".", ""]
    lines += ["| " + " | ".join(HEADS) + " |", "|---|---|" + "---:|" * (len(HEADS) - 2)]
    lines += ["| " + " | ".join(row) + " |" for row in cells(found)]
    lines += ["", *(f"{note}\n" for note in notes(found, about, why)), "![time and memory](cost.png)", ""]
    return "\n".join(lines)


STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:13px}"
    "td,th{border-bottom:1px solid #ddd;padding:.3em .6em;text-align:right}"
    "td:first-child,td:nth-child(2){text-align:left}tr:last-child td{font-weight:bold}img{max-width:100%}"
)


def page(found: Sequence[Cost], about: Mapping[str, Any], why: str, picture: bytes) -> str:
    """The report as one HTML file, its picture inside."""

    def row(texts: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(t)}</{tag}>" for t in texts) + "</tr>"

    escaped = [html.escape(note) for note in notes(found, about, why)]
    bold = [note.replace("**", "<b>", 1).replace("**", "</b>", 1) for note in escaped]
    model = html.escape(about["model"])
    facts = html.escape(", ".join(f"{k} {v}" for k, v in about.items()))
    image = base64.b64encode(picture).decode()
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{model}: cost</title>'
        f"<style>{STYLE}</style><h1>What {model} costs</h1><p>{bold[0]}</p>"
        f'<img alt="time and memory" src="data:image/png;base64,{image}">'
        f"<table>{row(HEADS, 'th')}{''.join(row(r, 'td') for r in cells(found))}</table>"
        f"{''.join(f'<p>{note}</p>' for note in bold[1:])}<p>{facts}.</p></html>\n"
    )


def draw(found: Sequence[Cost], title: str, path: Path) -> None:
    """Money of an epoch, memory, and the largest batch where it was measured."""
    from matplotlib.figure import Figure

    charts: list[tuple[str, Callable[[Cost], float]]] = [
        ("money of an epoch", lambda c: c.money),
        ("memory of an update, MB", lambda c: c.row.peak_bytes / 1e6),
    ]
    if found[0].lanes is not None:
        charts.append(("largest batch, lanes", lambda c: float(c.lanes or 0)))
    figure = Figure(figsize=(4.5 * len(charts), 2.6), layout="constrained")
    names = [c.name for c in reversed(found)]
    colours = ["#2f6fb0" if name == "Intrastream" else "#9aa5b1" for name in names]
    for axes, (text, value) in zip(figure.subplots(1, len(charts)), charts, strict=True):
        bars = axes.barh(names, [value(c) for c in reversed(found)], color=colours)
        axes.bar_label(bars, fmt="{:.3g}", padding=3)
        axes.margins(x=0.25)
        axes.set_title(text)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
