"""LSTM-SVD, the low-rank peer (Prabhavalkar et al. 2016): the best rank-r matrix, with dense codes.

Also the leading directions of a matrix, where the other solvers start.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.factorization.factors import Factors, check_matrix, check_range


def truncated(matrix: Tensor, rank: int) -> Factors:
    """The nearest matrix of rank `rank` to `matrix` (N, M): D = U_r with orthonormal atoms, Z = S_r V_r^T dense."""
    matrix = check_matrix(matrix)
    check_range("rank", rank, 1, min(matrix.shape))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return Factors(left[:, :rank].contiguous(), values[:rank, None] * right[:rank], dense=True)


def principal(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors (N, r) and squared singular values (r,), the largest first, r = min(N, M).

    From the eigenvectors of W W^T in float64, several times as fast as the SVD of a wide matrix; only values below
    1e-8 of the largest are less exact. A tall matrix, whose W W^T would be large, is decomposed itself.
    """
    wide = matrix.double()
    if len(wide) > wide.shape[1]:
        vectors, values, _ = torch.linalg.svd(wide, full_matrices=False)
        return vectors.to(matrix.dtype), values.square()
    energies, vectors = torch.linalg.eigh(wide @ wide.T)
    return vectors.flip(1).to(matrix.dtype), energies.flip(0).clamp_min(0)
