"""MFCC features: 26 coefficients of 25 ms windows every 10 ms, from 16 kHz audio."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torchaudio
import yaml

from dirnet.config import from_mapping
from dirnet.errors import UserError


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
            if getattr(self, name) <= 0:
                raise UserError(f"MFCC option {name} is {getattr(self, name)}, expected more than 0")
        if self.num_ceps > self.num_mel_bins:
            raise UserError(f"MFCC option num_ceps is {self.num_ceps}, expected at most {self.num_mel_bins} (num_mel_bins)")
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
        for number, line in enumerate(lines, 1):
            line = line.partition("#")[0].strip()
            if not line:
                continue
            option = re.fullmatch(r"--([a-z][a-z0-9-]*)=(\S+)", line)
            if option is None:
                raise UserError(f"{path}:{number}: {line!r} is not an option; expected the form --option=value")
            mapping[option[1].replace("-", "_")] = yaml.safe_load(option[2])
        return from_mapping(cls, mapping, str(path))


class Mfcc(torch.nn.Module):
    """MFCC of a batch of waveforms, only of whole windows ("snip edges"), without dither or energy.

    `Mfcc(config)(waveforms (B, n) float32 in -1..1) -> (B, T, num_ceps)` with T = `config.num_frames(n)`. A frame depends
    on its own window alone: padding behind a shorter waveform leaves its first `config.num_frames(its n)` frames as
    they are, and a stream gives the same frames as the whole recording. The mel energies meet a floor of 1e-6
    before the logarithm, so that digital silence stays finite. The tables are not part of `state_dict()`.
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
