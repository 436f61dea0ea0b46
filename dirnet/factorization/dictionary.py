"""The dictionary for fixed codes (Eq. 10), and Step 1, which alternates it with the codes (Sec. 3.3).

Shifts of atoms are the identity here, which makes Eq. 9 the plain problem of Eq. 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.factorization import coordinate_descent


def update(dictionary: Tensor, code_gram: Tensor, cross: Tensor) -> Tensor:
    """One block-coordinate pass over the atoms (Eq. 10), in place: each becomes the best unit vector, the others fixed.

    code_gram: A = Z Z^T (p, p). cross: B = W Z^T (N, p). With these, `d_k ~ b_k - D a_k + d_k a_kk`, so the pass does
    not depend on M. Returns the mask (p,) of dead atoms: those no code uses, left as they were.
    """
    scales = code_gram.diagonal()
    dead = scales <= torch.finfo(scales.dtype).eps * scales.max()
    rows, targets, known = dictionary.T.contiguous(), cross.T.contiguous(), scales.tolist()  # an atom is a row here
    columns = rows.T
    for atom in (~dead).nonzero().flatten().tolist():
        row = rows[atom]
        pull = torch.addmv(targets[atom], columns, code_gram[atom], alpha=-1)
        pull.add_(row, alpha=known[atom])
        length = float(pull.norm())
        if length > 0:
            torch.div(pull, length, out=row)
    dictionary.copy_(columns)
    return dead


def reseed(dictionary: Tensor, dead: Tensor, matrix: Tensor, codes: Tensor) -> None:
    """Replace dead atoms, in place, by the worst represented columns of `matrix` (N, M), normalised."""
    wanted = dead.nonzero().flatten()
    errors = (matrix - dictionary @ codes).square().sum(0)
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
    matrix: Tensor, dictionary: Tensor, penalty: float = 0.1, *, epochs: int = 10, sweeps: int = 3, block: int = 1
) -> tuple[Tensor, Tensor]:
    """Step 1: `epochs` rounds of a few sweeps over the codes, warm-started, and one pass over the atoms.

    matrix: (N, M) with unit-norm columns, which is the scale that `penalty` (lambda_1) is meant for.
    Returns the dictionary (N, p) and the codes (p, M) fitted to it last.
    """
    dictionary = dictionary.clone()
    codes = matrix.new_zeros(dictionary.shape[1], matrix.shape[1])
    penalties = matrix.new_full((len(codes),), penalty)
    for epoch in range(epochs + 1):
        gram, correlations = dictionary.T @ dictionary, dictionary.T @ matrix
        codes = coordinate_descent.lasso(gram, correlations, penalties, codes, sweeps=sweeps, block=block)
        if epoch < epochs:
            dead = update(dictionary, codes @ codes.T, matrix @ codes.T)
            if dead.any():
                reseed(dictionary, dead, matrix, codes)
    return dictionary, codes
