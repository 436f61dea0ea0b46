"""Codes in blocks: the unit that is kept or dropped is `block` consecutive columns of one row of `Z`.

`block=1` is plain sparsity; larger blocks are what a vector unit can multiply at once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def norms(codes: Tensor, block: int = 1) -> Tensor:
    """The l2 norm of every block: (p, M) -> (p, M / block)."""
    return codes.abs() if block == 1 else codes.unflatten(1, (-1, block)).norm(dim=2)


def expand(grid: Tensor, block: int = 1) -> Tensor:
    """The inverse direction: one value per block (p, M / block) -> one per code (p, M)."""
    return grid if block == 1 else grid.repeat_interleave(block, dim=1)


def support(codes: Tensor, block: int = 1) -> Tensor:
    """The mask (p, M) of the blocks that are not all zero."""
    return expand(norms(codes, block) > 0, block)


def count(codes: Tensor, block: int = 1) -> int:
    """How many scalars are stored: `block` for each block that is not all zero."""
    return block * int(norms(codes, block).count_nonzero())


def largest(codes: Tensor, keep: int, block: int = 1) -> Tensor:
    """The mask (p, M) of the `keep // block` blocks of largest norm; between equals the first in row order wins."""
    sizes = norms(codes, block).flatten()
    wanted = min(keep // block, sizes.numel())
    if wanted <= 0:
        return torch.zeros_like(codes, dtype=torch.bool)
    place = sizes.numel() - wanted
    known = sizes if sizes.dtype == torch.float64 else sizes.float()
    if known.device.type == "cpu":  # three times as fast as torch's kthvalue
        threshold = float(np.partition(known.numpy(), place)[place])
    else:
        threshold = float(known.kthvalue(place + 1).values)
    chosen = sizes >= threshold
    if (extra := int(chosen.count_nonzero()) - wanted) > 0:
        chosen[(sizes == threshold).nonzero().flatten()[-extra:]] = False
    return expand(chosen.view(len(codes), -1), block)


def shrink(values: Tensor, penalty: Tensor | float, block: int = 1) -> Tensor:
    """Soft threshold of a row (M,), the proximal map of `penalty * |z|_1`.

    For blocks it is that of `penalty * sqrt(block) * |z|_2` per block; the root keeps the meaning of `penalty`: a block
    of equal entries shrinks as each entry would alone.
    """
    if block == 1:
        return torch.nn.functional.softshrink(values, min(float(penalty), torch.finfo(values.dtype).max))
    grid = values.view(-1, block)
    sizes = grid.norm(dim=1, keepdim=True)
    return (grid * (1 - penalty * block**0.5 / sizes).clamp_min(0).nan_to_num(0.0)).flatten()
