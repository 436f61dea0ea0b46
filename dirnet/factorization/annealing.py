"""Dictionary and codes at a fixed size (p atoms, k codes), by annealed hard thresholding.

The l1 penalty of the paper also shrinks the codes it keeps; here the number of codes is the constraint. The start
decides most of the result: the p leading singular vectors, turned within their span until the codes are sparse. Then
every round moves the atoms, keeps the k largest candidates and fits them, while k falls to the wanted number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dirnet.factorization import blocks, conjugate_gradients, dictionary, shift_steps
from dirnet.factorization.factors import Factors
from dirnet.factorization.shift import IDENTITY, Shifts


def turn(matrix: Tensor, basis: Tensor, nonzeros: int, *, rounds: int = 20, block: int = 1) -> Tensor:
    """Orthonormal atoms with the span of `basis` (N, p), turned so that `nonzeros` codes hold most of the energy.

    Alternates the best codes for orthonormal atoms (the largest of `D^T W`) with the best atoms for these codes
    (the orthogonal Procrustes problem, Schoenemann 1966), all within the span, where W is `basis^T W` (p, M).
    """
    inside, rotation = basis.T @ matrix, torch.eye(basis.shape[1], dtype=basis.dtype)
    for _ in range(rounds):
        codes = rotation.T @ inside
        codes *= blocks.largest(codes, nonzeros, block)
        left, _, right = torch.linalg.svd(inside @ codes.T)
        rotation = left @ right
    return basis @ rotation


def anneal(
    matrix: Tensor,
    initial: Tensor,
    nonzeros: int,
    *,
    rounds: int = 30,
    block: int = 1,
    shifts: Shifts = IDENTITY,
    learned_on: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Factors:
    """Factors of `matrix` (N, M): the atoms of `initial` (N, p) moved, `nonzeros` codes kept.

    One round: one pass over the atoms; the largest of the codes and, where there is none, of what a code would be if it
    came alone (so dropped ones return); three steps of conjugate gradients on this support. The number kept falls
    geometrically from twice `nonzeros`, and is final in the last tenth of the rounds. `tick` follows each round.
    With `shifts` every code competes at its best shift, chosen anew in each round. learned_on: the atoms move to fit
    so many columns, the first; None: all.
    """
    atoms, codes = initial.clone(), initial.T @ matrix
    if shifts.reach:
        codes = shifts.join(codes, torch.zeros_like(codes, dtype=torch.int8))
    for done in range(rounds + 1):
        if done:
            dictionary.move(atoms, codes, matrix, shifts, learned_on)
        expanded = shifts.expand(atoms)
        gram, correlations, tall = expanded.T @ expanded, expanded.T @ matrix, shifts.tall(codes)
        keep = round(nonzeros * 2 ** max(0.0, 1 - done / (0.9 * rounds)))
        if shifts.reach:
            candidates = shift_steps.alone(gram, correlations, tall, len(shifts), block).view_as(codes)
            support = blocks.largest(shifts.strengths(atoms, candidates), keep, block)
            support = (support & blocks.support(candidates, block)).to(codes.dtype)
        else:
            support = blocks.largest(_candidates(gram, correlations, codes), keep, block).to(codes.dtype)
        codes *= support
        conjugate_gradients.fit(gram, correlations, tall, shifts.tall(support))
        tick()
    return Factors.of(atoms, codes, shifts)


def _candidates(gram: Tensor, correlations: Tensor, codes: Tensor) -> Tensor:
    """The codes, and in place of each zero the value that would lower the error most if it alone became a code."""
    return torch.where(codes == 0, torch.addmm(correlations, gram, codes, alpha=-1), codes)
