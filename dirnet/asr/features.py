"""MFCC features: 26 coefficients of 25 ms windows every 10 ms, from 16 kHz audio.

As a program it makes the features of one data dir, or of one job's part of it (utils/make_mfcc.py runs the jobs).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchaudio
import yaml

from dirnet.asr.ark import write_ark
from dirnet.asr.audio import AudioReader, add_audio_options, audio_reader, faster, is_pipe
from dirnet.asr.datadir import SPEEDS, read_table, write_table
from dirnet.config import from_mapping
from dirnet.errors import UserError, one_line_errors
from dirnet.files import atomic_write, read_json
from dirnet.options import Parser
from dirnet.progress import progress

Named = tuple[str, np.ndarray]


@dataclass(frozen=True)
class MfccConfig:
    """How features are computed; names, units and meanings are those of Kaldi's `compute-mfcc-feats`."""

    sample_frequency: int = 16000  # Hz
    frame_length: float = 25.0  # ms
    frame_shift: float = 10.0  # ms
    window_type: Literal["hamming", "hanning"] = "hamming"
    num_mel_bins: int = 40
    low_freq: float = 20.0  # Hz
    high_freq: float = -400.0  # Hz; zero or less counts from half the sampling rate
    num_ceps: int = 26  # c0 included

    def __post_init__(self) -> None:
        for name in ("sample_frequency", "frame_length", "frame_shift", "num_mel_bins", "num_ceps"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"MFCC option {name} is {getattr(self, name)}, expected a finite number above 0")
        for name, samples in (("frame_length", self.window_samples), ("frame_shift", self.shift_samples)):
            if samples < 1:
                raise UserError(f"MFCC option {name} is {getattr(self, name)}, expected milliseconds, a sample or more")
        if self.num_ceps > self.num_mel_bins:
            bins = self.num_mel_bins
            raise UserError(f"MFCC option num_ceps is {self.num_ceps}, expected at most num_mel_bins, {bins}")
        if not 0 <= self.low_freq < self.upper_hz <= self.sample_frequency / 2:
            raise UserError(
                f"MFCC options low_freq = {self.low_freq} and high_freq = {self.high_freq} give the band "
                f"{self.low_freq}..{self.upper_hz} Hz, expected it rising and within 0..{self.sample_frequency / 2} Hz"
            )

    @property
    def upper_hz(self) -> float:
        """Upper edge of the highest mel filter."""
        return self.high_freq if self.high_freq > 0 else self.sample_frequency / 2 + self.high_freq

    @property
    def window_samples(self) -> int:
        """Samples in one window."""
        return round(self.sample_frequency * self.frame_length / 1000)

    @property
    def shift_samples(self) -> int:
        """Samples from one window to the next."""
        return round(self.sample_frequency * self.frame_shift / 1000)

    def num_frames(self, samples):
        """Whole windows in `samples` samples (an int or an integer tensor): 1 + (samples - window) // shift, or 0."""
        frames = 1 + (samples - self.window_samples) // self.shift_samples
        return frames.clamp(min=0) if isinstance(frames, torch.Tensor) else max(0, frames)

    @classmethod
    def read(cls, path: str | Path) -> MfccConfig:
        """Read a Kaldi option file: a line is `--option=value`, `#` starts a comment."""
        mapping = {}
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise UserError(f"MFCC config {path} does not exist; give a file such as conf/mfcc.conf") from None
        except UnicodeDecodeError:
            raise UserError(f"MFCC config {path} is no text; give a file such as conf/mfcc.conf") from None
        for number, line in enumerate(lines, 1):
            line = line.partition("#")[0].strip()
            if not line:
                continue
            option = re.fullmatch(r"--([a-z][a-z0-9-]*)=(\S+)", line)
            if option is None:
                raise UserError(f"{path}:{number}: {line!r} is not an option; expected the form --option=value")
            try:
                mapping[option[1].replace("-", "_")] = yaml.safe_load(option[2])
            except (yaml.YAMLError, ValueError):  # a ValueError: 2000-99-99, a date
                raise UserError(f"{path}:{number}: --{option[1]} is {option[2]!r}, expected a number or word") from None
        return from_mapping(cls, mapping, str(path))


class Mfcc(torch.nn.Module):
    """MFCC of a batch of waveforms, only of whole windows ("snip edges"), without dither or energy.

    `Mfcc(config)(waveforms (B, n) float32 in -1..1) -> (B, T, num_ceps)`, T = `config.num_frames(n)`. A frame depends
    on its own window alone: padding behind a shorter waveform leaves its first `config.num_frames(its n)` frames as
    they are, and a stream gives the same frames as the whole recording. 1e-6 is added to the mel energies before the
    logarithm, so that digital silence stays finite. The tables are not part of `state_dict()`.
    """

    def __init__(self, config: MfccConfig | None = None):
        super().__init__()
        self.config = config = config or MfccConfig()
        fft = 1 << (config.window_samples - 1).bit_length()
        windows = {"hamming": torch.hamming_window, "hanning": torch.hann_window}
        self.mfcc = torchaudio.transforms.MFCC(
            sample_rate=config.sample_frequency,
            n_mfcc=config.num_ceps,
            log_mels=True,  # the default, decibels below the loudest frame, would tie a frame to the whole utterance
            melkwargs={
                "n_fft": fft,
                "win_length": config.window_samples,
                "hop_length": config.shift_samples,
                "center": False,
                # torch.stft centres a short window in its transform: with half the difference as zeros on each side
                # window t starts at sample t * shift, and as many windows fit as without the longer transform.
                "pad": (fft - config.window_samples) // 2,
                "window_fn": windows[config.window_type],
                "wkwargs": {"periodic": False},
                "n_mels": config.num_mel_bins,
                "f_min": config.low_freq,
                "f_max": config.upper_hz,
            },
        )
        for module in self.mfcc.modules():
            for name, table in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, table, persistent=False)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        if waveforms.shape[-1] < self.config.window_samples:
            return waveforms.new_zeros(*waveforms.shape[:-1], 0, self.config.num_ceps)
        return self.mfcc(waveforms).transpose(-1, -2)


class Statistics:
    """Count, sum and sum of squares of frames, as ESPnet's `GlobalMVN` reads them from an `.npz` file."""

    def __init__(self, count: int = 0, sum: np.ndarray | float = 0.0, sum_square: np.ndarray | float = 0.0):
        self.count, self.sum, self.sum_square = int(count), sum, sum_square

    def add(self, matrix: np.ndarray) -> None:
        """Count the frames of `matrix` (T, n)."""
        matrix = matrix.astype(np.float64)
        self += Statistics(len(matrix), matrix.sum(0), np.square(matrix).sum(0))

    def __iadd__(self, other: Statistics) -> Statistics:
        self.count, self.sum = self.count + other.count, self.sum + other.sum
        self.sum_square = self.sum_square + other.sum_square
        return self

    def write(self, path: str | Path) -> None:
        """Write the keys `count`, `sum` (n,), `sum_square` (n,), float64, to the `.npz` file `path`."""
        with atomic_write(path, "wb") as stream:
            np.savez(stream, count=self.count, sum=self.sum, sum_square=self.sum_square)

    @classmethod
    def read(cls, path: str | Path) -> Statistics:
        """Read what `write` wrote; missing or damaged is a `UserError`."""
        try:
            with np.load(path) as stored:
                return cls(stored["count"], stored["sum"], stored["sum_square"])
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; make the features first (stage 1)") from None
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged ({error}); delete it and make the features again (stage 1)") from None


def extract(audio: Iterable[Named], mfcc: Mfcc, batch_s: float = 60) -> Iterator[Named]:
    """Yield (name, features (T, num_ceps) float32) of every (name, finite samples (n,)), in order.

    The waveforms of `batch_s` seconds are laid end to end, each beginning on a multiple of the frame shift, so that one
    transform serves all of them without padding to the longest; windows that reach over an end are left out.
    """
    shift, limit = mfcc.config.shift_samples, batch_s * mfcc.config.sample_frequency
    batch: list[Named] = []
    filled = 0
    for name, samples in audio:
        batch.append((name, samples))
        filled += len(samples)
        if filled >= limit:
            yield from _extract_batch(batch, mfcc, shift)
            batch, filled = [], 0
    if batch:
        yield from _extract_batch(batch, mfcc, shift)


def _extract_batch(batch: list[Named], mfcc: Mfcc, shift: int) -> Iterator[Named]:
    starts = np.cumsum([0] + [math.ceil(len(samples) / shift) for _, samples in batch])  # in frames
    waveform = torch.zeros(max(starts[-1] * shift, mfcc.config.window_samples))
    for start, (_, samples) in zip(starts, batch, strict=False):
        waveform[start * shift : start * shift + len(samples)] = torch.from_numpy(samples)
    features = mfcc(waveform[None])[0].numpy()
    for start, (name, samples) in zip(starts, batch, strict=False):
        yield name, features[start : start + mfcc.config.num_frames(len(samples))]


def make(data: Path, out: str, config: MfccConfig, reader: AudioReader) -> dict[str, Any]:
    """Write the features of the utterances of `data/wav.scp`; returns the record that `OUT.json` keeps.

    Writes OUT.ark, OUT.scp, OUT.cmvn.npz, OUT.utt2num_frames, OUT.utt2dur and, last, OUT.json, with what was skipped:
    utterances shorter than one window, and those whose samples or features are not finite.
    """
    entries = read_entries(data)
    record: dict[str, Any] = {"fingerprint": fingerprint(entries, config, reader), "skipped": {}}
    Path(f"{out}.json").unlink(missing_ok=True)  # it told of the archive that is about to be replaced
    mfcc, statistics, frames, durations = Mfcc(config), Statistics(), {}, {}
    started = time.perf_counter()

    def waveforms() -> Iterator[Named]:
        for name, (location, speed) in progress(entries.items(), len(entries), f"features of {data}"):
            try:
                samples = faster(reader.read(location), speed, reader.sample_rate)
            except UserError as error:
                raise UserError(f"{data / 'wav.scp'}: utterance {name!r}: {error}") from None
            durations[name] = len(samples) / config.sample_frequency
            if np.isfinite(samples).all():
                yield name, samples
            else:
                record["skipped"][name] = "the audio holds NaN or infinity"

    with write_ark(f"{out}.ark", f"{out}.scp") as writer, torch.inference_mode():
        for name, matrix in extract(waveforms(), mfcc):
            if len(matrix) == 0:
                record["skipped"][name] = f"{durations[name]:.4f} s is shorter than one window"
            elif not np.isfinite(matrix).all():
                record["skipped"][name] = "its features are not finite; the samples are too large"
            else:
                writer.write(name, matrix)
                statistics.add(matrix)
                frames[name] = len(matrix)
    statistics.write(f"{out}.cmvn.npz")
    write_table(f"{out}.utt2num_frames", frames)
    write_table(f"{out}.utt2dur", {name: f"{durations[name]:.4f}" for name in frames})
    record["utterances"], record["audio_s"] = len(entries), sum(durations.values())
    record["elapsed_s"] = time.perf_counter() - started
    with atomic_write(f"{out}.json") as stream:
        json.dump(record, stream, indent=1)
    return record


def read_entries(data: Path) -> dict[str, tuple[str, float]]:
    """Location and speed (1: as it is) of the audio of every utterance of the data dir `data`."""
    speeds = read_table(data / SPEEDS) if (data / SPEEDS).exists() else {}
    return {name: (location, float(speeds.get(name, 1))) for name, location in read_table(data / "wav.scp").items()}


def fingerprint(entries: dict[str, tuple[str, float]], config: MfccConfig, reader: AudioReader) -> str:
    """A sha256 of what the features depend on: audio and speeds, the configuration and the resampling."""
    stamps = {location: _stamp(location, reader) for location, _ in entries.values()}
    audio = [(name, location, *stamps[location], speed) for name, (location, speed) in sorted(entries.items())]
    return hashlib.sha256(json.dumps([asdict(config), reader.resample, audio]).encode()).hexdigest()


def _stamp(location: str, reader: AudioReader) -> tuple[int, ...]:
    """Size and time of an audio file, as another one may take its name; nothing of a command or of a missing file."""
    if is_pipe(location):
        return ()
    try:
        found = os.stat(reader.find(location))
    except (UserError, OSError):  # told when it is read
        return ()
    return found.st_size, found.st_mtime_ns


def check_skipped(skipped: dict[str, str], utterances: int, most: float) -> None:
    """Refuse to go on when more than the fraction `most` of the utterances was skipped."""
    if len(skipped) > most * utterances:
        name, reason = next(iter(skipped.items()))
        raise UserError(
            f"{len(skipped)} of {utterances} utterances have no features, more than {most:.0%} "
            f"(the first: {name!r}, {reason}); repair the audio or remove them"
        )


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Make OUT.ark, OUT.scp and their tables from DATA/wav.scp; a rerun on the same input does nothing."""
    parser = Parser(prog="python -m dirnet.asr.features", description=main.__doc__)
    parser.add_argument("--config", default="conf/mfcc.conf", help="Kaldi-style MFCC options")
    parser.add_argument("--data", required=True, type=Path, help="data dir with wav.scp")
    parser.add_argument("--out", required=True, help="what the outputs' names begin with: dump/mfcc/train/raw_mfcc.1")
    parser.add_argument("--max_skipped", type=float, default=0.05, help="fraction of utterances that may be unusable")
    add_audio_options(parser)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # jobs are the parallelism
    config = MfccConfig.read(arguments.config)
    reader = audio_reader(arguments, arguments.data, config.sample_frequency)
    record = read_json(f"{arguments.out}.json")
    stamp = fingerprint(read_entries(arguments.data), config, reader)
    if record and record["fingerprint"] == stamp and os.path.isfile(f"{arguments.out}.ark"):
        print(f"{arguments.out}: already done")
    else:
        record = make(arguments.data, arguments.out, config, reader)
        audio, elapsed = record["audio_s"], record["elapsed_s"]
        print(f"{arguments.out}: {audio:.1f} s of audio in {elapsed:.1f} s, {audio / elapsed:.0f} x real time")
    check_skipped(record["skipped"], record["utterances"], arguments.max_skipped)
    for name, reason in record["skipped"].items():
        print(f"skipped {name}: {reason}")
    return 0


if __name__ == "__main__":
    main()
