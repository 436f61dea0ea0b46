"""LSTM-SVD, the low-rank peer (Prabhavalkar et al. 2016): the best rank-r matrix, with dense codes."""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.factorization.factors import Factors, check_matrix, check_range


def truncated(matrix: Tensor, rank: int) -> Factors:
    """The nearest matrix of rank `rank` to `matrix` (N, M): D = U_r with orthonormal atoms, Z = S_r V_r^T dense."""
    matrix = check_matrix(matrix)
    check_range("rank", rank, 1, min(matrix.shape))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return Factors(left[:, :rank].contiguous(), values[:rank, None] * right[:rank])
