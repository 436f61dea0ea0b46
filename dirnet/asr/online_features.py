"""MFCC of audio that is still coming."""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.asr.features import Mfcc
from dirnet.errors import UserError


class OnlineMfcc:
    """`push(samples (n,) float32) -> (t, num_ceps)`, the frames whose windows these samples complete; t may be 0.

    All pushes together give the frames of `Mfcc` over the whole recording, as a frame depends on its own window alone:
    what is kept from one push to the next is the samples from the start of the next window on. A shift longer than
    the window is a `UserError`.
    """

    def __init__(self, mfcc: Mfcc):
        config = mfcc.config
        if config.shift_samples > config.window_samples:
            raise UserError(
                f"MFCC option frame_shift is {config.frame_shift:g} ms, expected at most frame_length, "
                f"{config.frame_length:g} ms, in a stream"
            )
        self._mfcc, self._kept = mfcc, torch.zeros(0)

    def push(self, samples: Tensor) -> Tensor:
        waveform = torch.cat([self._kept, samples])
        features = self._mfcc(waveform[None])[0]
        self._kept = waveform[len(features) * self._mfcc.config.shift_samples :]
        return features
