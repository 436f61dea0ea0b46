"""LSTM-ODL, the dictionary-learning peer: online dictionary learning (Mairal et al. 2009), codes cut to a budget."""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.factorization import blocks, coordinate_descent, dictionary
from dirnet.factorization.factors import Factors, check_matrix, check_params
from dirnet.factorization.threads import one_thread


@one_thread()
def online_dictionary_learning(
    matrix: Tensor,
    *,
    params: int,
    atoms: int | None = None,
    block: int = 1,
    seed: int = 0,
    penalty: float = 0.1,
    epochs: int = 10,
    batch: int = 256,
) -> Factors:
    """Factors of `matrix` (N, M) with `N * p + nnz(Z) <= params`; p is `atoms`, else half the budget goes into D.

    Columns, scaled to unit norm, are drawn in mini-batches of `batch`; their lasso codes feed the sufficient statistics
    A = sum z z^T and B = sum w z^T, in which older batches fade by `beta = 1 - batch / seen` (Sec. 3.4.2 there), and
    one pass over the atoms follows. The lasso codes of all columns are then cut to the budget by magnitude and
    refitted on what remains.
    """
    matrix = check_matrix(matrix, block)
    atoms, nonzeros = check_params(matrix, params, atoms, block)
    generator = torch.Generator().manual_seed(seed)
    columns, lengths = dictionary.unit(matrix)
    learned = dictionary.random_columns(columns, atoms, generator)
    penalties = matrix.new_full((atoms,), penalty)
    code_gram, cross = matrix.new_zeros(atoms, atoms), torch.zeros_like(learned)
    for epoch in range(epochs):
        for step, chosen in enumerate(torch.randperm(columns.shape[1], generator=generator).split(batch)):
            drawn = columns[:, chosen]
            codes = coordinate_descent.lasso(learned.T @ learned, learned.T @ drawn, penalties, sweeps=5)
            keep = 1 - 1 / (1 + epoch * -(-columns.shape[1] // batch) + step)
            code_gram = keep * code_gram + codes @ codes.T
            cross = keep * cross + drawn @ codes.T
            dead = dictionary.update(learned, code_gram, cross)
            if dead.any():
                dictionary.reseed(learned, dead, drawn, codes)
    gram = learned.T @ learned
    codes = coordinate_descent.lasso(gram, learned.T @ columns, penalties, sweeps=20) * lengths
    support = blocks.largest(codes, nonzeros, block)
    return Factors(learned, coordinate_descent.refit(gram, learned.T @ matrix, support))
