"""Codes for a fixed dictionary: cyclic coordinate descent over the atoms, all columns at once.

Only the Gram matrix `G = D^T D` (p, p) and the correlations `C = D^T W` (p, M) are read, so a sweep does not depend on
N. Atom i moves to `z_i = prox(c_i - sum_k g_ik z_k + g_ii z_i) / g_ii`, with the atoms before it already moved. Atoms
are taken in tiles: one matrix product serves a tile, and only what its own atoms change follows one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.factorization import blocks, shift_steps
from dirnet.factorization.shift import IDENTITY, Shifts

TILE = 16


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
        return
    if penalties is None:
        _least_squares_sweep(gram, correlations, codes)
        return
    weights = penalties.tolist()

    def move(row: int, values: Tensor) -> Tensor:
        return blocks.shrink(values, weights[row], block)

    _tiled_sweep(gram, correlations, codes, move)


def _tiled_sweep(gram: Tensor, correlations: Tensor, codes: Tensor, move) -> None:
    diagonal = gram.diagonal()
    near_one = (diagonal - 1).abs() <= 4 * torch.finfo(gram.dtype).eps  # the rounding of unit atoms
    scales = diagonal.masked_fill(near_one, 1).tolist()
    for start in range(0, len(codes), TILE):
        stop = min(start + TILE, len(codes))
        tile = codes[start:stop]
        pulls = torch.addmm(correlations[start:stop], gram[start:stop], codes, alpha=-1)
        pulls.addcmul_(tile, diagonal[start:stop, None])
        steps = torch.empty_like(pulls)
        for at, scale in enumerate(scales[start:stop]):
            before = tile[at]
            if scale <= 0:
                before.zero_()
                steps[at] = 0
                continue
            pull = pulls[at]
            if at:
                pull = torch.addmv(pull, steps[:at].T, gram[start + at, start : start + at], alpha=-1)
            moved = move(start + at, pull)
            if scale != 1:
                moved = moved / scale
            torch.sub(moved, before, out=steps[at])
            before.copy_(moved)


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
    """Codes (p, M) after `sweeps` sweeps from `codes`, or fewer once no code moves by more than `tolerance`.

    A few sweeps find the support (Lin et al. 2014); for the exact solution take many and a tolerance.
    With shifts G and C are those of the expanded dictionary, |Delta| rows a penalty, and the codes wide.
    """
    shifts = len(gram) // len(penalties)
    codes = torch.zeros_like(correlations) if codes is None else codes.reshape(correlations.shape).clone()
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
