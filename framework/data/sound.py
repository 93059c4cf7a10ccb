"""Reading sound files, those that end too early among them: libsndfile plays what is there and says nothing.

| kind | how it is known |
|---|---|
| WAV, AIFF | the chunk of samples is as long as its header says (Microsoft and IBM 1991; Apple 1989) |
| OGG | the last page is whole and marked as the last one (RFC 3533) |
| MP3 | as many samples as its Xing or Info header says; without one it cannot be known |

libsndfile itself looks at FLAC, framework.data.timit_tree at SPHERE.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from framework.errors import DataError

UNKNOWN = 0x7FFFF000  # bytes; who writes into a pipe does not know the size, and gives one from here on, or 0
LITTLE = 64  # bytes that may be missing: some programs count a header as sound
PAGE = 27 + 255 + 255 * 255  # bytes of the largest page of OGG
FRAME = 1152  # samples of a frame of MP3; encoders count up to four too many


def read_sound(path: Path, dtype: Literal["float32", "int16"], fix: str) -> tuple[np.ndarray, int]:
    """Samples [n, channels] and their rate. Raises DataError, with `fix`, for what is no whole sound file."""
    import soundfile  # brings a C library: only where sound is read

    try:
        # It takes bytes, which a name that is no UTF-8 needs, and does not say so.
        name: Any = os.fsencode(path)
        if path.is_file() and not path.stat().st_size:
            raise DataError(str(path), "cannot read the audio: it is empty", fix)
        with soundfile.SoundFile(name) as file:
            promised, rate = file.frames, file.samplerate
            data = file.read(dtype=dtype, always_2d=True)
        missing = _missing(path, promised, len(data))
    except (soundfile.SoundFileError, OSError) as error:
        text = " ".join(str(getattr(error, "error_string", error)).split()).rstrip(".")
        raise DataError(str(path), f"cannot read the audio: {text}", fix) from error
    if missing:
        raise DataError(str(path), f"cut short: {missing}", fix)
    if not len(data):
        raise DataError(str(path), "there is no sound in it", fix)
    return data, rate


def _missing(path: Path, promised: int, samples: int) -> str:
    """What is not there of a file in which libsndfile promised and found as many samples."""
    with open(path, "rb") as file:
        head = file.read(4096)
        if head[:4] == b"RIFF":
            return _chunks(file, b"data", "little")
        if head[:4] == b"FORM":
            return _chunks(file, b"SSND", "big")
        if head[:4] == b"OggS":
            return _pages(file)
    if (b"Xing" in head or b"Info" in head) and samples < promised - 4 * FRAME:
        return f"{samples} of {promised} samples are there"
    return ""


def _chunks(file: BinaryIO, wanted: bytes, order: Literal["little", "big"]) -> str:
    """Whether the chunk `wanted` of a RIFF or an AIFF file is there whole."""
    end = os.fstat(file.fileno()).st_size
    at = 12
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        size = int.from_bytes(head[4:], order)
        if head[:4] == wanted:
            there = end - at - 8
            if size and size < UNKNOWN and there < size - LITTLE:
                return f"{there} of {size} bytes of sound are there"
            return ""
        at += 8 + size + size % 2
    return "its sound is missing"


def _pages(file: BinaryIO) -> str:
    """Whether an OGG file's last page is there."""
    end = os.fstat(file.fileno()).st_size
    file.seek(max(0, end - 2 * PAGE))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    count = page[26] if len(page) > 26 else 0
    whole = len(page) >= 27 + count and len(page) >= 27 + count + sum(page[27 : 27 + count]) > 27
    if not whole or not page[5] & 4:
        return "its last page is missing"
    return ""
