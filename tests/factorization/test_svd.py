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
