"""ESPnet specaug `mfcc`: SpecAugment for cepstra, and random channels."""

from __future__ import annotations

import torch
from espnet2.asr.specaug.specaug import SpecAug
from torch import Tensor


class MfccSpecAug(SpecAug):
    """Masks take the utterance's mean, not zero, which is an extreme value of most cepstra; options as of `SpecAug`.

    `channel`: standard deviation of a random constant added to every cepstrum of an utterance, in units of that
    cepstrum's own deviation within the batch: other microphones, louder or softer, other voices.
    """

    def __init__(self, channel: float = 0.0, **options):
        super().__init__(**options)
        self.channel = channel

    def forward(self, x: Tensor, x_lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, F) features and their lengths; what lies behind the lengths does not count."""
        lengths = torch.full((len(x),), x.shape[1], device=x.device) if x_lengths is None else x_lengths.to(x.device)
        inside = (torch.arange(x.shape[1], device=x.device) < lengths[:, None]).unsqueeze(2)
        mean = (x * inside).sum(dim=1, keepdim=True) / lengths[:, None, None]
        centred, lengths = super().forward((x - mean) * inside, lengths)
        deviation = (centred.square() * inside).sum(dim=(0, 1), keepdim=True).div(inside.sum()).sqrt()
        return centred + mean + self.channel * deviation * torch.randn_like(mean), lengths
