"""Audio as a microphone delivers it: short pieces in a row, of a recording or of a raw stream."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from dirnet.errors import UserError

RAW = "raw 16-bit little-endian mono PCM, such as that of `arecord -t raw -f S16_LE -c 1`"
CONTAINERS = {b"RIFF": "a wav", b"fLaC": "a flac", b"OggS": "an Ogg"}


def of_recording(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`samples` (n,) in pieces of `size`, the last one shorter."""
    return (samples[start : start + size] for start in range(0, len(samples), size))


def of_raw_stream(stream: BinaryIO, size: int, name: str) -> Iterator[np.ndarray]:
    """Pieces of `size` float32 samples in -1..1 as they arrive on `stream`, 16-bit little-endian PCM without a header.

    Its end or Ctrl-C ends the audio. A file with a header, half a sample at the end and no sample at all are
    `UserError`s that call the stream `name`.
    """
    total = 0
    for content in _until_ctrl_c(stream, 2 * size):
        if not total and (kind := CONTAINERS.get(content[:4])):
            raise UserError(f"{name} begins with the header of {kind} file, expected {RAW}; give the file's name")
        total += len(content)
        if len(content) % 2:
            raise UserError(f"{name} ends after {total} bytes, in the middle of a sample; expected {RAW}")
        yield np.frombuffer(content, "<i2").astype(np.float32) / 2**15
    if not total:
        raise UserError(f"{name} holds no samples, expected {RAW}")


def _until_ctrl_c(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """What `stream` gives, `size` bytes at a time, to its end or to Ctrl-C; a second Ctrl-C interrupts as ever.

    Who stops speaking into a microphone wants to see the words, whether Ctrl-C met this loop or the work between reads.
    """
    reading, stopped = True, False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, before)
        if reading:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        while not stopped and (content := stream.read(size)):
            reading = False
            yield content
            reading = True
    except KeyboardInterrupt:
        if not stopped:
            raise
    finally:
        signal.signal(signal.SIGINT, before)
