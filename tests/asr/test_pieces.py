"""Audio in pieces, from a recording and from a raw stream."""

from __future__ import annotations

import io
import signal

import numpy as np
import pytest
import soundfile

from dirnet.asr import pieces
from dirnet.errors import UserError


def test_a_recording_comes_whole_and_in_order():
    samples = np.arange(10, dtype=np.float32)
    found = list(pieces.of_recording(samples, 4))
    assert [len(piece) for piece in found] == [4, 4, 2] and np.array_equal(np.concatenate(found), samples)


def test_a_raw_stream_holds_what_soundfile_reads_from_the_same_samples(tmp_path):
    values = np.random.default_rng(0).integers(-(2**15), 2**15, 1000).astype("<i2")
    soundfile.write(tmp_path / "a.wav", values, 16000)
    found = list(pieces.of_raw_stream(io.BytesIO(values.tobytes()), 300, "stdin"))
    assert [len(piece) for piece in found] == [300, 300, 300, 100]
    assert np.array_equal(np.concatenate(found), soundfile.read(tmp_path / "a.wav", dtype="float32")[0])


def test_pieces_are_there_before_the_stream_ends():
    class Endless:
        def read(self, size):
            return bytes(size)

    stream = pieces.of_raw_stream(Endless(), 5, "stdin")
    assert [len(next(stream)) for _ in range(3)] == [5, 5, 5]


class Interrupted(io.BytesIO):
    """Ctrl-C is pressed while it is read for the second time."""

    def read(self, size):
        if self.tell():
            signal.raise_signal(signal.SIGINT)
        return super().read(size)


def test_ctrl_c_ends_the_audio():
    before = signal.getsignal(signal.SIGINT)
    assert [len(piece) for piece in pieces.of_raw_stream(Interrupted(bytes(100)), 10, "stdin")] == [10]
    found = []
    for piece in pieces.of_raw_stream(io.BytesIO(bytes(100)), 10, "stdin"):  # and so it does between two reads
        found.append(len(piece))
        if len(found) == 2:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is before
    assert found == [10, 10] and signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_interrupts():
    stream = pieces.of_raw_stream(io.BytesIO(bytes(100)), 10, "stdin")
    next(stream)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "stdin holds no samples, expected raw 16-bit little-endian mono PCM"),
        (bytes(7), "stdin ends after 7 bytes, in the middle of a sample"),
        (b"RIFF" + bytes(100), "stdin begins with the header of a wav file"),
        (b"fLaC" + bytes(100), "stdin begins with the header of a flac file"),
    ],
)
def test_what_is_no_raw_sound_is_told(content, message):
    with pytest.raises(UserError, match=message):
        list(pieces.of_raw_stream(io.BytesIO(content), 2, "stdin"))
