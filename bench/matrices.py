"""Matrices like those of a trained recurrent model, for when no trained 5x500 model is at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig

PHONES = tuple(f"p{phone}" for phone in range(42))


def trained_like(rows: int, columns: int, seed: int = 0) -> Tensor:
    """(rows, columns) float32 with the spectrum, kurtosis and column norms of a trained LSTM (3x256, 2.9 h of speech).

    There the leading 10 % of the singular values held 49-77 % of the energy, the leading 40 % 77-92 %, the kurtosis of
    the values was 3.4-9.7, the stable rank 5-19. Here: 57 %, 82 %, 3.7 and 10 for a 500x4000 matrix.
    """
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, columns)
    left, right = (torch.linalg.qr(torch.randn(size, rank, generator=generator))[0] for size in (rows, columns))
    decay = (1 + torch.arange(rank) * 30 / rank) ** -1.0
    low = (left * decay) @ right.T
    uniform = torch.rand(rows, columns, generator=generator).sub_(0.5)
    heavy = uniform.sign() * torch.log1p(-1.99 * uniform.abs())  # Laplace
    scales = torch.exp(0.2 * torch.randn(columns, generator=generator))
    return (low / low.norm() + 0.4 * heavy / heavy.norm()) * scales * (3 * columns) ** 0.5


def trained_like_model(layers: int = 5, units: int = 500, seed: int = 0) -> AcousticModel:
    """The paper's acoustic model (494 inputs, 42 outputs) with `trained_like` weights: 10 M parameters at 5x500."""
    torch.manual_seed(seed)
    model = AcousticModel(AcousticModelConfig("lstm", units, layers, PHONES, name=f"{layers}x{units}")).eval()
    with torch.no_grad():
        for at, (name, weight) in enumerate(model.rnn.named_parameters()):
            if name.startswith("weight"):
                weight.copy_(trained_like(weight.shape[1], weight.shape[0], seed + at).T)
    return model
