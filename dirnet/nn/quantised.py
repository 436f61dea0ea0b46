"""int8 values with one scale per atom, and their rounding as training feels it.

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


def quantise(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """int8 values and bfloat16 scales of a float32 or float64 matrix; a scale serves what lies along `dim`."""
    scales = _scales(values.abs().amax(dim, keepdim=True))
    return (values / scales.to(values.dtype)).round_().to(torch.int8), scales.squeeze(dim)


def dequantise(values: Tensor, scales: Tensor, dim: int) -> Tensor:
    """The float32 matrix that `quantise` rounded to, exactly."""
    return values.float() * scales.float().unsqueeze(dim)


# Not for torch.compile: it loses the gradient that passes through, and may leave out the rounding to bfloat16.
@torch.compiler.disable
def rounded(values: Tensor, dim: int) -> Tensor:
    """`values` as int8 keeps them, in their own dtype; the gradient passes straight through (Bengio et al. 2013)."""
    return _Rounded.apply(values, _scales(values.detach().abs().amax(dim, keepdim=True)))


@torch.compiler.disable
def rounded_blocks(values: Tensor, rows: Tensor, number: int) -> Tensor:
    """`rounded` for what is not zero in a matrix of `number` rows: blocks (n, width), each in one of `rows` (n,)."""
    largest = values.detach().abs().amax(1)
    scales = _scales(largest.new_zeros(number).scatter_reduce(0, rows, largest, "amax"))
    return _Rounded.apply(values, scales[rows, None])


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, scales: Tensor) -> Tensor:
        scales = scales.to(values.dtype)
        return (values / scales).round_().mul_(scales)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _scales(largest: Tensor) -> Tensor:
    """Largest magnitudes over 127 in bfloat16; 1 where there is nothing to scale. NaN stays NaN.

    bfloat16 rounds by at most 1 / 257, so the largest value lies at 126.5 .. 127.5 scales: int8 never overflows.
    """
    scales = (largest / 127).to(torch.bfloat16)
    return scales.masked_fill(scales < torch.finfo(torch.bfloat16).tiny, 1.0)
