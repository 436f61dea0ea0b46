"""How far a program may be from torch."""

from __future__ import annotations

from torch import Tensor

from dirnet.errors import UserError

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


def checked(expected: Tensor, logits: Tensor, dtype: str, what: str) -> float:
    """The `disparity` of the `logits` of a program not written yet; above the tolerance a `UserError` about `what`."""
    apart, limit = disparity(expected, logits.log_softmax(dim=-1), dtype)
    if not apart <= limit:  # NaN is refused too
        raise UserError(f"parity of {what} is {apart:.2g}, expected at most {limit:g}; nothing was written: "
                        "please report this model")  # fmt: skip
    return apart
