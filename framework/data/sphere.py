"""Writing NIST SPHERE audio, the format of TIMIT's .WAV files: a text header of 1024 bytes, then PCM."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from framework.data.features import SAMPLE_RATE

HEADER = 1024


def write_sphere(path: Path, wave: np.ndarray, utterance_id: str) -> None:
    """Write a wave [samples] int16 as 16 kHz mono, 16-bit little-endian PCM, as TIMIT's own files are."""
    if wave.dtype != np.int16 or wave.ndim != 1:
        raise ValueError(f"a wave is [samples] int16, not {wave.dtype} {wave.shape}")
    fields = [
        f"utterance_id -s{len(utterance_id)} {utterance_id}",
        "channel_count -i 1",
        f"sample_count -i {len(wave)}",
        f"sample_rate -i {SAMPLE_RATE}",
        f"sample_min -i {int(wave.min()) if len(wave) else 0}",
        f"sample_max -i {int(wave.max()) if len(wave) else 0}",
        "sample_n_bytes -i 2",
        "sample_byte_format -s2 01",
        "sample_sig_bits -i 16",
    ]
    header = "\n".join(["NIST_1A", f"{HEADER:7d}", *fields, "end_head", ""]).encode("ascii")
    if len(header) > HEADER:
        raise ValueError(f"utterance_id is too long: {utterance_id!r}")
    path.write_bytes(header.ljust(HEADER, b" ") + wave.astype("<i2").tobytes())
