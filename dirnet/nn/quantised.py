"""int8 values with one scale per atom; training rounds to them in `dirnet.nn.rounding`.

A value is `q * s`, q in -127..127. s belongs to a column of D or to a row of Z: both meet in `u = D^T h`, so a kernel
applies them in one multiplication per atom, and they cost 4 bytes per atom. On trained layers that loses as much as a
scale per 16 columns of Z would (0.8 % of its norm), and the scale of least squared error is the one of the largest
value. Scales are a function of the values, never parameters. As bfloat16 they make every `q * s` exact in float32, and
the largest value of a row always becomes +-127: rounding what was rounded changes no bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.errors import UserError

DTYPES = ("float32", "int8")
SCALE_BYTES = torch.bfloat16.itemsize


def check_dtype(dtype: str) -> str:
    """`dtype` itself if it is one of DTYPES, else a `UserError`."""
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}, expected {' or '.join(DTYPES)}: how the values of D and Z are kept")
    return dtype


def check_holds_int8(dtype: torch.dtype) -> None:
    """A `UserError` unless values of int8 codes are exact in `dtype`."""
    if dtype not in (torch.float32, torch.float64):
        raise UserError(f"int8 codes of a model in {dtype}: expected float32 or float64; call model.float() before")


def quantise(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """int8 values and bfloat16 scales of a float32 or float64 matrix; a scale serves what lies along `dim`.

    Another dtype is a `UserError`: it cannot hold every `q * s`.
    """
    check_holds_int8(values.dtype)
    scales = scales_of(values.abs().amax(dim, keepdim=True))
    return (values / scales.to(values.dtype)).round_().to(torch.int8), scales.squeeze(dim)


def dequantise(values: Tensor, scales: Tensor, dim: int) -> Tensor:
    """The float32 matrix that `quantise` rounded to, exactly."""
    return values.float() * scales.float().unsqueeze(dim)


def scales_of(largest: Tensor) -> Tensor:
    """Largest magnitudes over 127 in bfloat16; 1 where there is nothing to scale. NaN stays NaN.

    bfloat16 rounds by at most 1 / 257, so the largest value lies at 126.5 .. 127.5 scales: int8 never overflows.
    """
    scales = (largest / 127).to(torch.bfloat16)
    return scales.masked_fill(scales < torch.finfo(torch.bfloat16).tiny, 1.0)
