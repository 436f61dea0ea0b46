"""Dictionary and codes at a fixed size (p atoms, k codes), by annealed hard thresholding.

The l1 penalty of the paper also shrinks the codes it keeps. Here the number of codes is the constraint: every round all
codes are fitted once, so that dropped ones can return, the k largest stay, and k falls from all to the wanted number
over the first half of the rounds.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dirnet.factorization import blocks, coordinate_descent, dictionary
from dirnet.factorization.factors import Factors


def anneal(
    matrix: Tensor,
    initial: Tensor,
    nonzeros: int,
    *,
    rounds: int = 30,
    block: int = 1,
    tick: Callable[[], None] = lambda: None,
) -> Factors:
    """Factors of `matrix` (N, M): the atoms of `initial` (N, p) moved, `nonzeros` codes kept and refitted exactly.

    One round: a least-squares sweep over all codes; the largest kept; two sweeps on their support; one pass over the
    atoms. `tick` is called after each round.
    """
    atoms = initial.clone()
    codes = atoms.T @ matrix
    for done in range(1, rounds + 1):
        gram, correlations = atoms.T @ atoms, atoms.T @ matrix
        coordinate_descent.sweep(gram, correlations, codes)
        keep = round(codes.numel() * (nonzeros / codes.numel()) ** min(1.0, 2 * done / rounds))
        support = blocks.largest(codes, max(keep, nonzeros), block).to(codes.dtype)
        codes *= support
        for _ in range(2):
            coordinate_descent.support_sweep(gram, correlations, codes, support)
        dead = dictionary.update(atoms, codes @ codes.T, matrix @ codes.T)
        if dead.any():
            dictionary.reseed(atoms, dead, matrix, codes)
        tick()
    gram, correlations = atoms.T @ atoms, atoms.T @ matrix
    coordinate_descent.sweep(gram, correlations, codes)
    support = blocks.largest(codes, nonzeros, block)
    return Factors(atoms, coordinate_descent.refit(gram, correlations, support))
