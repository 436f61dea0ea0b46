"""ESPnet preencoder `splice`: every frame together with its neighbours."""

from __future__ import annotations

import torch
from espnet2.asr.preencoder.abs_preencoder import AbsPreEncoder

from dirnet.nn.acoustic import splice


class SplicePreEncoder(AbsPreEncoder):
    """(B, T, input_size) -> (B, T, (2 context + 1) input_size), zeros beyond both ends (the paper's 19-frame window).

    Runs after normalisation and SpecAugment, so that these see plain frames.
    """

    def __init__(self, input_size: int = 26, context: int = 9):
        super().__init__()
        self.input_size, self.context = input_size, context

    def output_size(self) -> int:
        return (2 * self.context + 1) * self.input_size

    def forward(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return splice(input, self.context), input_lengths
