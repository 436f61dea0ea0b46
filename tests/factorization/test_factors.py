"""Factors: the same matrix in another balance of atoms and codes."""

import pytest
import torch

from dirnet.factorization import Factors, svd
from dirnet.factorization.shift import Shifts
from dirnet.factorization.solve import solve as dirnet_solve


def mean_square(values, dim):
    """Over what is not zero."""
    return values.square().sum(dim) / values.count_nonzero(dim)


@pytest.mark.parametrize("solve", [
    lambda matrix: dirnet_solve(matrix, params=2000)[0],
    lambda matrix: dirnet_solve(matrix, params=2000, block=8)[0],
    lambda matrix: dirnet_solve(matrix, params=2000, preset="paper", shifts=Shifts(1, "circular"))[0],
    lambda matrix: svd.truncated(matrix, 8),
])  # fmt: skip
def test_balanced_factors_are_the_same_matrix_with_values_of_one_size(matrix, solve):
    factors = solve(matrix)
    balanced = factors.balanced()
    torch.testing.assert_close(balanced.reconstruct(), factors.reconstruct(), rtol=1e-4, atol=1e-6)
    assert torch.equal(balanced.codes == 0, factors.codes == 0)
    sizes = mean_square(balanced.dictionary, 0), mean_square(balanced.codes, 1)
    used = factors.codes.any(1)
    torch.testing.assert_close(sizes[0][used], sizes[1][used])
    torch.testing.assert_close(balanced.balanced().dictionary, balanced.dictionary)


def test_an_atom_without_codes_or_of_zeros_stays_finite():
    dictionary, codes = torch.eye(4)[:, :3].clone(), torch.ones(3, 8)
    codes[1], dictionary[:, 2] = 0.0, 0.0
    balanced = Factors(dictionary, codes).balanced()
    assert torch.equal(balanced.dictionary[:, 1], dictionary[:, 1])
    assert balanced.dictionary.isfinite().all() and balanced.codes.isfinite().all()
    assert Factors(None, codes).balanced().codes is codes
