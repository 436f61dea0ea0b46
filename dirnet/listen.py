"""Recordings or a microphone through an exported program: partial words while they change, final words, latency."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dirnet.asr import pieces
from dirnet.asr.audio import AudioReader
from dirnet.asr.decode import DecodeConfig, Decoder, GreedyDecoder
from dirnet.captions import Captions
from dirnet.deploy.program import Program
from dirnet.errors import UserError
from dirnet.live import LiveRecogniser

STDIN = "-"


@dataclass
class Times:
    """Seconds: computation for each piece, from the last piece to the final words of each file, sound in all."""

    pieces: list[float] = field(default_factory=list)
    endings: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    audio: float = 0.0


def search_for(program: Program, lang: Path | None, settings: DecodeConfig) -> Decoder | GreedyDecoder:
    """The search in the graph of `lang`, or that for phones where it is None; a graph of other phones: `UserError`."""
    if lang is None:
        return GreedyDecoder(program.phones)
    decoder = Decoder(lang, settings)
    decoder.check_outputs(program.phones, program.path)
    return decoder


def listen(
    names: Sequence[str], program: Program, search: Decoder | GreedyDecoder, resample: bool, piece_ms: int, quiet: bool
) -> Times:
    """Print `NAME WORDS` for every audio file, before that partial words, unless `quiet`, and at the end the latency.

    Sound comes in pieces of `piece_ms`, as from a microphone; the name `-` is standard input, raw 16-bit PCM.
    """
    recogniser, times = LiveRecogniser(program, search), Times()
    reader = AudioReader(program.sample_rate, resample=resample)
    size = max(1, program.sample_rate * piece_ms // 1000)
    for name in names:
        sound = (
            pieces.of_raw_stream(sys.stdin.buffer, size, "standard input")
            if name == STDIN
            else pieces.of_recording(reader.read_finite(name), size)
        )
        print(name, *_words(recogniser, name, sound, Captions(name, quiet), times), flush=True)
    print(
        f"latency = {1000 * max(times.endings):.1f} ms from the last sample to the final words, "
        f"{1000 * statistics.median(times.pieces):.1f} ms (at most {1000 * max(times.pieces):.1f}) for a piece of "
        f"{piece_ms} ms; the model looks {recogniser.look_ahead_ms:g} ms ahead"
    )
    return times


def _words(
    recogniser: LiveRecogniser, name: str, sound: Iterator[np.ndarray], captions: Captions, times: Times
) -> list[str]:
    """The words of one utterance; what it took is added to `times`."""
    config = recogniser.mfcc
    recogniser.start()
    samples, spent = 0, []
    for piece in sound:
        started = time.perf_counter()
        recogniser.push(piece)
        words = recogniser.words()
        spent.append(time.perf_counter() - started)
        samples += len(piece)
        captions.show(samples / config.sample_frequency, words)
    captions.clear()
    if not config.num_frames(samples):
        raise UserError(f"{name} has {samples} samples, expected at least one window of {config.frame_length:g} ms")
    started = time.perf_counter()
    words = recogniser.finish()
    ending = time.perf_counter() - started
    times.pieces += spent
    times.endings.append(spent[-1] + ending)
    times.elapsed += sum(spent) + ending
    times.audio += samples / config.sample_frequency
    return words
