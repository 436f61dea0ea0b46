"""Audio named by a `wav.scp`: wav, flac, ogg/opus files, or commands where the user allows them."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from dirnet.config import boolean
from dirnet.errors import UserError

UNKNOWN_SIZE = 0x7FFFF000  # bytes of a RIFF file from which on a size is one of those that streams are given


@dataclass(frozen=True)
class AudioReader:
    """Reads the entries of a `wav.scp` as float32 samples at `sample_rate` Hz.

    A relative path is looked for in each of `roots`, then in the current folder. `resample` converts other sampling
    rates, `allow_pipe` runs entries that end in `|` through the shell; both are errors otherwise. Without `roots` the
    entry is a file that the user named.
    """

    sample_rate: int = 16000
    roots: Sequence[Path] = field(default=())
    resample: bool = False
    allow_pipe: bool = False

    def read(self, location: str) -> np.ndarray:
        """Samples (n,) float32 in -1..1 of the entry `location`; a `UserError` names what is wrong with it."""
        source = io.BytesIO(self._output(location)) if is_pipe(location) else self.find(location)
        name = location if is_pipe(location) else source
        try:
            with soundfile.SoundFile(source) as audio:
                rate, channels, expected = audio.samplerate, audio.channels, audio.frames
                samples = audio.read(dtype="float32")
        except soundfile.LibsndfileError as error:
            raise UserError(f"audio {name} cannot be read ({error.error_string}); replace the file") from None
        except OSError as error:
            raise UserError(f"audio {name} cannot be read ({error.strerror}); check its permissions") from None
        except TypeError:  # soundfile's, who goes by the name
            raise UserError(f"audio {name} is called raw, samples without a header; convert it to wav") from None
        if channels != 1:
            raise UserError(f"audio {name} has {channels} channels, expected 1; extract or mix one first")
        if len(samples) == 0:
            raise UserError(f"audio {name} holds no samples; remove the utterance or replace the file")
        if not is_pipe(location) and len(samples) < expected:
            raise UserError(f"audio {name} ends after {len(samples)} of {expected} samples; replace the file")
        if not is_pipe(location) and (lost := missing_bytes(source)):
            raise UserError(f"audio {name} lacks the last {lost} bytes that its header announces; replace the file")
        if rate == self.sample_rate:
            return samples
        if not self.resample:
            raise UserError(
                f"audio {name} has {rate} Hz, expected {self.sample_rate} Hz; give --resample true or convert it"
            )
        return resample(samples, rate, self.sample_rate)

    def read_finite(self, location: str) -> np.ndarray:
        """As `read`, where NaN and infinity are a `UserError`, too: a recogniser cannot leave the utterance out."""
        samples = self.read(location)
        if not np.isfinite(samples).all():
            raise UserError(f"audio {location} has samples that are no numbers (NaN or infinity); replace the file")
        return samples

    def find(self, location: str) -> Path:
        """The existing file that `location` names, or a `UserError` with the places where it was looked for."""
        candidates = [root / location for root in self.roots] + [Path(location)]
        for path in candidates:
            if path.is_file():
                return path
        if Path(location).is_dir():
            raise UserError(f"audio {location} is a folder; give the audio files in it")
        if not self.roots:
            raise UserError(f"audio {location} does not exist; correct the path")
        places = ", ".join(dict.fromkeys(os.path.dirname(os.path.abspath(path)) for path in candidates))
        raise UserError(f"audio {location} does not exist in {places}; correct wav.scp or give --data_root")

    def _output(self, location: str) -> bytes:
        command = location.rstrip().removesuffix("|")
        if not self.allow_pipe:
            raise UserError(f"wav.scp names the command `{location}`; give --allow_pipe true if you trust it")
        result = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, capture_output=True)
        if result.returncode != 0:
            said = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise UserError(f"command `{command.strip()}` of wav.scp ended with {result.returncode}: {said[0]}")
        return result.stdout


def missing_bytes(path: Path) -> int:
    """By how many bytes a wav file is shorter than its RIFF header says; libsndfile takes what is left as the whole.

    A size of a program that could not know it, 0 or about 2^31 or 2^32, announces nothing.
    """
    with open(path, "rb") as stream:
        head = stream.read(8)
    announced = int.from_bytes(head[4:], "little")
    if head[:4] != b"RIFF" or announced >= UNKNOWN_SIZE:
        return 0
    lost = announced + 8 - path.stat().st_size
    return lost if lost > 1 else 0  # some programs count the byte that pads an odd length, and do not write it


def resample(samples: np.ndarray, old_hz: int, new_hz: int) -> np.ndarray:
    """`samples` (n,) float32 at `old_hz` as about n * new_hz / old_hz samples at `new_hz`."""
    import torch  # here, as most programs that look at audio entries need no torch
    import torchaudio

    return torchaudio.functional.resample(torch.from_numpy(samples), old_hz, new_hz).numpy()


def faster(samples: np.ndarray, speed: float, rate_hz: int) -> np.ndarray:
    """`samples` (n,) played `speed` times as fast, about n / speed samples at the same rate: pitch and tempo change."""
    return samples if speed == 1 else resample(samples, round(rate_hz * speed), rate_hz)


def is_pipe(location: str) -> bool:
    """Whether the `wav.scp` entry `location` is a command (Kaldi's trailing `|`)."""
    return location.rstrip().endswith("|")


def add_audio_options(parser: argparse.ArgumentParser) -> None:
    """Add `--data_root`, `--resample` and `--allow_pipe`, the options of an `AudioReader`, to a program."""
    parser.add_argument("--data_root", action="append", default=[], help="folder that relative audio paths start from")
    parser.add_argument("--resample", type=boolean, default=False, help="true: convert other sampling rates")
    parser.add_argument("--allow_pipe", type=boolean, default=False, help="true: run the commands in wav.scp")


def audio_reader(arguments: argparse.Namespace, data: Path, sample_rate: int = 16000) -> AudioReader:
    """The reader that the options of `add_audio_options` ask for; relative paths start from `data` first."""
    roots = (data, *map(Path, arguments.data_root))
    return AudioReader(sample_rate, roots, arguments.resample, arguments.allow_pipe)
