"""The dictionary for fixed codes (Eq. 10), and Step 1, which alternates it with the codes (Sec. 3.3).

Without shifts of atoms Eq. 9 is the plain problem of Eq. 4; with them `dirnet.factorization.shift_steps` does the work.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dirnet.factorization import coordinate_descent, shift_steps
from dirnet.factorization.compiled import compiled
from dirnet.factorization.shift import IDENTITY, Shifts


def update(dictionary: Tensor, code_gram: Tensor, cross: Tensor) -> Tensor:
    """One block-coordinate pass over the atoms (Eq. 10), in place: each becomes the best unit vector, the others fixed.

    code_gram: A = Z Z^T (p, p). cross: B = W Z^T (N, p). With these, `d_k ~ b_k - D a_k + d_k a_kk`, so the pass does
    not depend on M. Returns the mask (p,) of dead atoms: those no code uses, left as they were.
    """
    scales = code_gram.diagonal()
    dead = scales <= torch.finfo(scales.dtype).eps * scales.max()
    rows, targets = (columns.T.clone(memory_format=torch.contiguous_format) for columns in (dictionary, cross))
    _atoms(rows.numpy(), targets.numpy(), code_gram.contiguous().numpy(), dead.numpy())
    dictionary.copy_(rows.T)
    return dead


@compiled
def _atoms(rows: np.ndarray, pulls: np.ndarray, code_gram: np.ndarray, dead: np.ndarray) -> None:
    """`update` of the atoms `rows` (p, N), in place; pulls: B^T, overwritten."""
    atoms, size = rows.shape
    for atom in range(atoms):
        if dead[atom]:
            continue
        pull = pulls[atom]
        for other in range(atoms):
            share = code_gram[atom, other] if other != atom else rows.dtype.type(0)
            for at in range(size):
                pull[at] -= share * rows[other, at]
        length = np.sqrt((pull * pull).sum())
        if length > 0:
            for at in range(size):
                rows[atom, at] = pull[at] / length


def move(
    dictionary: Tensor, codes: Tensor, matrix: Tensor, shifts: Shifts = IDENTITY, learned_on: int | None = None
) -> Tensor:
    """Eq. 10 for `codes` (p, M), wide with shifts: every atom moves, in place, and a dead one is seeded again.

    learned_on: only so many columns, the first, count; None: all. Returns the mask (p,) of the seeded ones.
    """
    tall, matrix = shifts.tall(codes)[:, :learned_on], matrix[:, :learned_on]
    statistics = tall @ tall.T, matrix @ tall.T
    dead = shift_steps.update(dictionary, *statistics, shifts) if shifts.reach else update(dictionary, *statistics)
    if dead.any():
        reseed(dictionary, dead, matrix, tall, shifts)
    return dead


def reseed(dictionary: Tensor, dead: Tensor, matrix: Tensor, tall: Tensor, shifts: Shifts = IDENTITY) -> None:
    """Replace dead atoms, in place, by the columns of `matrix` (N, M) that tall codes represent worst, normalised."""
    wanted = dead.nonzero().flatten()
    errors = (matrix - shifts.expand(dictionary) @ tall).square().sum(0)
    worst = errors.argsort(descending=True, stable=True)[: len(wanted)]
    dictionary[:, wanted[: len(worst)]] = unit(matrix[:, worst])[0]


def unit(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Columns scaled to unit norm, and the norms (M,) that scale them back; a zero column keeps the scale one."""
    lengths = matrix.norm(dim=0)
    lengths = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    return matrix / lengths, lengths


def random_columns(matrix: Tensor, atoms: int, generator: torch.Generator) -> Tensor:
    """`atoms` unit vectors (N, atoms): columns of `matrix` drawn once each, then noise if there are too few."""
    used = matrix.square().sum(0).nonzero().flatten()
    drawn = matrix[:, used[torch.randperm(len(used), generator=generator)[:atoms]]]
    noise = torch.randn(len(matrix), atoms - drawn.shape[1], generator=generator, dtype=matrix.dtype)
    return unit(torch.cat([drawn, noise], dim=1))[0]


def learn(
    matrix: Tensor, dictionary: Tensor, penalty: float = 0.1, *, epochs: int = 10, sweeps: int = 3, block: int = 1,
    shifts: Shifts = IDENTITY, learned_on: int | None = None, extrapolated: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Step 1: `epochs` rounds of a few sweeps over the codes, warm-started, and one pass over the atoms.

    matrix: (N, M) with unit-norm columns, which is the scale that `penalty` (lambda_1) is meant for.
    learned_on: the dictionary fits so many columns, the first (W_h in Eq. 5), and the codes all; None: both fit all.
    extrapolated: in round e the atoms first go on by e / (e + 1) of their last move (as Nesterov's do), which takes
    fewer rounds to the same objective; no round of plain alternation raises it, one of these may.
    Returns the dictionary (N, p) and the codes fitted to it last: (p, M), or wide with shifts.
    """
    dictionary, before, codes = dictionary.clone(), dictionary.clone(), None
    penalties = matrix.new_full((dictionary.shape[1],), penalty)
    for epoch in range(epochs + 1):
        if extrapolated and 0 < epoch < epochs:
            onwards = unit(dictionary + epoch / (epoch + 1) * (dictionary - before))[0]
            dictionary, before = onwards, dictionary
        expanded = shifts.expand(dictionary)
        gram, correlations = expanded.T @ expanded, expanded.T @ matrix
        codes = coordinate_descent.lasso(gram, correlations, penalties, codes, sweeps=sweeps, block=block)
        if epoch < epochs:
            seeded = move(dictionary, codes, matrix, shifts, learned_on)
            before[:, seeded] = dictionary[:, seeded]  # which have not come from anywhere
    return dictionary, codes
