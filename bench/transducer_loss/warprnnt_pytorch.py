"""The one class of `warprnnt_pytorch` that ESPnet's transducer needs, on torchaudio's loss: that package has no wheel."""

from __future__ import annotations

import torchaudio
from torch import Tensor, nn


class RNNTLoss(nn.Module):
    """`(activations (B, T, U + 1, V), labels (B, U), lengths (B,), label lengths (B,))` -> mean loss over a batch.

    fastemit_lambda: ESPnet's transducers give 0, anything else is a ValueError.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", fastemit_lambda: float = 0.0):
        super().__init__()
        if fastemit_lambda:
            raise ValueError(f"fastemit_lambda is {fastemit_lambda}, expected 0 with torchaudio's loss")
        self.blank, self.reduction = blank, reduction

    def forward(self, activations: Tensor, labels: Tensor, lengths: Tensor, label_lengths: Tensor) -> Tensor:
        return torchaudio.functional.rnnt_loss(
            activations, labels.int(), lengths.int(), label_lengths.int(), blank=self.blank, reduction=self.reduction
        )
