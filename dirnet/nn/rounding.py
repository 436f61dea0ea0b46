"""What int8 keeps of values, as training feels it. Only int8 layers import it: torch's compiler takes seconds."""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.nn.quantised import scales_of


# Not for torch.compile: it loses the gradient that passes through, and may leave out the rounding to bfloat16.
@torch.compiler.disable
def rounded(values: Tensor, dim: int) -> Tensor:
    """`values` as int8 keeps them, in their own dtype; the gradient passes straight through (Bengio et al. 2013)."""
    return _Rounded.apply(values, scales_of(values.detach().abs().amax(dim, keepdim=True)))


@torch.compiler.disable
def rounded_blocks(values: Tensor, rows: Tensor, number: int) -> Tensor:
    """`rounded` for what is not zero in a matrix of `number` rows: blocks (n, width), each in one of `rows` (n,)."""
    largest = values.detach().abs().amax(1)
    scales = scales_of(largest.new_zeros(number).scatter_reduce(0, rows, largest, "amax"))
    return _Rounded.apply(values, scales[rows, None])


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, scales: Tensor) -> Tensor:
        scales = scales.to(values.dtype)
        return (values / scales).round_().mul_(scales)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
