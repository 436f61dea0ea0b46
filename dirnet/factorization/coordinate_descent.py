"""Codes for a fixed dictionary: cyclic coordinate descent over the atoms, for every column of `W`.

Only the Gram matrix `G = D^T D` (p, p) and the correlations `C = D^T W` (p, M) are read, so a sweep does not depend on
N. Atom i moves to `z_i = prox(c_i - sum_k g_ik z_k + g_ii z_i) / g_ii`, with the atoms before it already moved. Most
codes are zero and stay so: a compiled loop pays for those that move, a row of G each, where products of whole matrices
would pay for all.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dirnet.factorization import blocks, shift_steps
from dirnet.factorization.compiled import compiled
from dirnet.factorization.shift import IDENTITY, Shifts


def sweep(
    gram: Tensor, correlations: Tensor, codes: Tensor, penalties: Tensor | None = None, *, block: int = 1,
    shifts: int = 1,
) -> None:  # fmt: skip
    """One cyclic step of the lasso `1/2 |w_j - D z_j|^2 + sum_i penalties_i |z_ij|`, in place on `codes` (p, M).

    penalties: (p,), infinite to switch an atom off; None for plain least squares. The objective never rises.
    shifts: |Delta|, the rows of G, C and Z (tall) that belong to one atom; each code takes one of them (Eq. 9).
    """
    if shifts > 1:
        none = codes.new_zeros(len(codes) // shifts)
        shift_steps.sweep(gram, correlations, codes, none if penalties is None else penalties, block)
    elif penalties is None:
        _least_squares_sweep(gram, correlations, codes)
    else:
        codes.copy_(_descend(gram, correlations, codes, penalties, 1, 0.0, block))


def _descend(
    gram: Tensor, correlations: Tensor, codes: Tensor, penalties: Tensor, sweeps: int, tolerance: float, block: int
) -> Tensor:
    """`codes` after `sweeps` sweeps, or fewer; what is worked on column by column is transposed, and a copy."""
    pulls, moved = (rows.T.clone(memory_format=torch.contiguous_format) for rows in (correlations, codes))
    bounds = (penalties * block**0.5).numpy()  # of the norm of a block: `blocks.shrink`
    _columns(gram.contiguous().numpy(), pulls.numpy(), moved.numpy(), bounds, sweeps, tolerance, block)
    return moved.T


@compiled
def _columns(
    gram: np.ndarray, pulls: np.ndarray, codes: np.ndarray, bounds: np.ndarray, sweeps: int, tolerance: float,
    block: int,
) -> None:  # fmt: skip
    """Sweeps over `codes` (M, p), in place, `block` columns after the other; pulls: C^T, then (W - D Z)^T D."""
    columns, atoms = codes.shape
    zero, one = codes.dtype.type(0), codes.dtype.type(1)  # a Python float would make float32 double
    scales, squares = np.diag(gram).copy(), bounds * bounds
    for first in range(0, columns, block):
        pull, code = pulls[first : first + block], codes[first : first + block]
        for column in range(block):
            for atom in range(atoms):
                known = code[column, atom]
                if known != 0:
                    for other in range(atoms):
                        pull[column, other] -= known * gram[atom, other]
        for _ in range(sweeps):
            farthest = zero
            for atom in range(atoms):
                scale, square, used = scales[atom], zero, False
                for column in range(block):
                    square += (pull[column, atom] + scale * code[column, atom]) ** 2
                    used |= code[column, atom] != 0
                if square > squares[atom] and scale > 0:
                    factor = (one - bounds[atom] / np.sqrt(square)) / scale
                elif used:
                    factor = zero
                else:
                    continue
                for column in range(block):
                    moved = factor * (pull[column, atom] + scale * code[column, atom])
                    step = moved - code[column, atom]
                    code[column, atom] = moved
                    farthest = max(farthest, abs(step))
                    for other in range(atoms):
                        pull[column, other] -= step * gram[atom, other]
            if farthest <= tolerance:
                break


def _least_squares_sweep(gram: Tensor, correlations: Tensor, codes: Tensor) -> None:
    """Without a penalty a cyclic sweep is linear: `tril(G) Z_new = C - triu(G, 1) Z_old` (Gauss-Seidel)."""
    lower = gram.tril()
    lower.diagonal().masked_fill_(gram.diagonal() <= 0, 1)
    right = torch.addmm(correlations, gram.triu(1), codes, alpha=-1)
    codes.copy_(torch.linalg.solve_triangular(lower, right, upper=False))


def lasso(
    gram: Tensor,
    correlations: Tensor,
    penalties: Tensor,
    codes: Tensor | None = None,
    *,
    sweeps: int = 3,
    tolerance: float = 0.0,
    block: int = 1,
) -> Tensor:
    """Codes (p, M) after `sweeps` sweeps from `codes`; a block of columns that moves by `tolerance` or less rests.

    A few sweeps find the support (Lin et al. 2014); for the exact solution take many and a tolerance.
    With shifts G and C are those of the expanded dictionary, |Delta| rows a penalty, and the codes wide.
    """
    shifts = len(gram) // len(penalties)
    codes = torch.zeros_like(correlations) if codes is None else codes.reshape(correlations.shape)
    if shifts == 1:
        return _descend(gram, correlations, codes, penalties, sweeps, tolerance, block)
    codes = codes.clone()
    for _ in range(sweeps):
        before = codes.clone() if tolerance > 0 else None
        sweep(gram, correlations, codes, penalties, block=block, shifts=shifts)
        if before is not None and float((codes - before).abs().max()) <= tolerance:
            break
    return codes.view(len(penalties), -1)


def objective(
    matrix: Tensor, dictionary: Tensor, codes: Tensor, penalties: Tensor, block: int = 1, shifts: Shifts = IDENTITY
) -> float:
    """`1/2 |W - D Z|_F^2 + sum_i penalties_i |z_i|_1`, which `sweep` descends (group norms for blocks), in float64."""
    residual = (matrix - shifts.reconstruct(dictionary, codes)).double()
    rows = blocks.norms(codes, block).double().sum(1) * block**0.5
    return 0.5 * float(residual.square().sum()) + float((penalties.double() * rows)[rows > 0].sum())


def refit(gram: Tensor, correlations: Tensor, support: Tensor, *, chunk_bytes: int = 1 << 22) -> Tensor:
    """Exact least squares of every column over its own support: codes (p, M), zero outside the mask `support` (p, M).

    The normal equations of columns with like support sizes are padded to one size and solved as a batch, in float64.
    A trace of ridge (1e-10 of the diagonal) keeps them solvable when atoms of a support depend on each other.
    """
    size = support.sum(0)
    order = size.argsort()
    codes = torch.zeros_like(correlations)
    gram64, start = gram.double(), 0
    ridge = max(torch.finfo(gram.dtype).eps * len(gram), 1e-10)  # atoms may depend on each other, to its rounding
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop - start + 1) * int(size[order[stop]]) ** 2 * 8 <= chunk_bytes:
            stop += 1
        columns = order[start:stop]
        width = int(size[columns[-1]])
        start = stop
        if not width:
            continue
        active = support[:, columns].T  # (batch, p)
        rows = active.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
        real = active.gather(1, rows)
        system = gram64[rows[:, :, None], rows[:, None, :]] * (real[:, :, None] & real[:, None, :])
        diagonal = system.diagonal(dim1=1, dim2=2)
        diagonal.mul_(1 + ridge).add_((diagonal <= 0).double())
        right = correlations[:, columns].T.gather(1, rows).double() * real
        values = torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(system))[:, :, 0]
        codes[rows, columns[:, None]] = values.to(codes.dtype) * real
    return codes
