"""Run folders as train.py leaves them, with invented numbers, for tests of what reads them."""

import json

CONFIG = """\
model:
  params: {{input: {{size: 80}}, size: {size}, cell: lstm}}
  nodes: {{l: {{cell: lstm, in: x}}}}
data: {{name: synth_speech, batch_size: 8}}
choices: {{model: stack, cell: {cell}, data: synth_speech}}
optimizer: {{name: adam, lr: {lr}, betas: [0.9, 0.999]}}
train: {{epochs: 2, schedule: cosine}}
seed: 1
run_dir: null
"""


def write_run(folder, *, cell="lstm", size=32, lr=0.001, best=0.8, steps=20, end=True, lines=()):
    """A run of `steps` updates with an evaluation after each half; `lines` stand before the end."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(cell=cell, size=size, lr=lr), encoding="utf-8")
    records = [
        {
            "kind": "start",
            "step": 0,
            "metric": "accuracy",
            "better": "higher",
            "weights": 1000 * size,
            "predicted_bytes_per_frame": 64 * size,
            "plan": f"plan of {cell}",
            "device": "cpu",
            "data": "2 speakers",
        }
    ]
    for step in range(1, steps + 1):
        speed = {"frames_per_s": 1000.0 * size, "step_s": 0.5, "loop_s": 0.25, "cpu_use": 0.75}
        speed["peak_bytes"] = 2**20 * step
        loss = 3.0 / step
        records.append({"kind": "step", "step": step, "epoch": 0, "loss": loss, "lr": lr, **speed})
        if step in (steps // 2, steps):
            score = best if step == steps else best / 2
            dev = {"loss": loss, "accuracy": score, "seconds": 1.0, "best": True}
            records.append({"kind": "eval", "split": "dev", "step": step, "epoch": 1, **dev})
    written = [json.dumps(record) for record in records] + list(lines)
    if end:
        last = {"why": "2 epochs done", "loss": 0.5, "accuracy": best - 0.01, "seconds": 12.5}
        written.append(
            json.dumps(
                {"kind": "end", "split": "test", "step": steps, "best": best, "best_step": steps, **last}
            )
        )
    (folder / "metrics.jsonl").write_text("\n".join(written) + "\n", encoding="utf-8")
    return folder
