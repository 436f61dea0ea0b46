"""ESPnet frontend `mfcc`: features computed in the model from audio, or taken as they come from an archive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend

from dirnet.asr.features import Mfcc, MfccConfig
from dirnet.config import from_mapping
from dirnet.errors import UserError


class MfccFrontend(AbsFrontend):
    """(B, n) audio in -1..1 -> (B, T, num_ceps) MFCC; (B, T, num_ceps) features pass unchanged.

    So one config trains on archives and, packed for the model zoo, reads wav files. `mfcc`: options of `MfccConfig`
    that differ from the defaults. Audio shorter than one window is a `UserError`.
    """

    def __init__(self, mfcc: Mapping[str, Any] | None = None):
        super().__init__()
        self.mfcc = Mfcc(from_mapping(MfccConfig, dict(mfcc or {}), "frontend_conf: mfcc"))

    def output_size(self) -> int:
        return self.mfcc.config.num_ceps

    def forward(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if input.dim() == 3:
            if input.shape[2] != self.output_size():
                raise UserError(
                    f"features have {input.shape[2]} values a frame, expected {self.output_size()}; "
                    "make the features again with the MFCC config of this model, or give one-channel audio"
                )
            return input, input_lengths
        config = self.mfcc.config
        lengths = config.num_frames(input_lengths)
        if not bool((lengths > 0).all()):
            raise UserError(
                f"audio of {int(input_lengths.min())} samples is shorter than one window "
                f"({config.window_samples} samples); leave it out"
            )
        return self.mfcc(input)[:, : int(lengths.max())], lengths
