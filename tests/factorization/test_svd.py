import pytest
import torch

from dirnet.errors import UserError
from dirnet.factorization import relative_error, svd


def test_truncated_is_optimal(matrix):
    values = torch.linalg.svdvals(matrix)
    for rank in (1, 10, 48):
        factors = svd.truncated(matrix, rank)
        assert factors.dictionary.shape == (48, rank) and factors.codes.shape == (rank, 192)
        assert torch.allclose(factors.dictionary.T @ factors.dictionary, torch.eye(rank), atol=1e-5)
        best = float(values[rank:].norm() / values.norm())
        assert relative_error(matrix, factors) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("rank", [0, 49])
def test_an_impossible_rank_is_named_with_the_range(matrix, rank):
    with pytest.raises(UserError, match=f"rank={rank} .* 1 to 48"):
        svd.truncated(matrix, rank)


@pytest.mark.parametrize("shape", [(48, 192), (30, 12), (500, 6)])
def test_principal_directions_and_energies_are_those_of_the_svd(trained_like, shape):
    wide = trained_like(*shape)
    left, energies = svd.principal(wide)
    expected, values, _ = torch.linalg.svd(wide, full_matrices=False)
    assert left.shape == expected.shape and left.dtype == wide.dtype
    assert torch.allclose(energies.sqrt().float(), values, atol=1e-5)
    assert torch.allclose((left * expected).sum(0).abs(), torch.ones(min(shape)), atol=1e-4)
