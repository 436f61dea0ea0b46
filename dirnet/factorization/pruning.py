"""Magnitude pruning, the sparse peer (Han et al. 2015): no dictionary, the largest weights stay."""

from __future__ import annotations

from torch import Tensor

from dirnet.factorization import blocks
from dirnet.factorization.factors import Factors, check_matrix, check_range


def magnitude(matrix: Tensor, nonzeros: int, block: int = 1) -> Factors:
    """Keep the `nonzeros` largest weights of `matrix` (N, M); or blocks of `block` columns of a row, by l2 norm."""
    matrix = check_matrix(matrix, block)
    check_range("nonzeros", nonzeros, block, matrix.numel(), multiple=block)
    return Factors(None, matrix * blocks.largest(matrix, nonzeros, block))
