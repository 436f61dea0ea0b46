"""How far a program may be from torch."""

from __future__ import annotations

from torch import Tensor

TOLERANCE = 1e-4  # largest difference of a log posterior between the program and eager torch
INT8_TOLERANCE = 0.02  # of int8 programs: mean divergence of the posteriors from those of float activations, in nats


def disparity(expected: Tensor, found: Tensor, dtype: str) -> tuple[float, float]:
    """How far the log posteriors (T, outputs) of a program of `dtype` are from those expected, and how far they may be.

    float32: the largest difference of a log posterior. int8, where what meets the weights is rounded, too: the mean
    Kullback-Leibler divergence, in nats.
    """
    if dtype == "int8":
        return float((expected.exp() * (expected - found)).sum(dim=1).mean()), INT8_TOLERANCE
    return float((found - expected).abs().max()), TOLERANCE
