import pytest
import torch

from dirnet.errors import UserError
from dirnet.factorization import pruning


def test_the_largest_weights_stay_as_they_are(matrix):
    factors = pruning.magnitude(matrix, 1000)
    kept = factors.codes != 0
    assert factors.dictionary is None and factors.params == int(kept.sum()) == 1000
    assert torch.equal(factors.reconstruct()[kept], matrix[kept])
    assert matrix[kept].abs().min() >= matrix[~kept].abs().max()


def test_blocks_of_largest_norm_stay(matrix):
    grid = pruning.magnitude(matrix, 800, block=8).codes.unflatten(1, (-1, 8))
    kept = grid.any(2)
    assert int(kept.sum()) == 100
    norms = matrix.unflatten(1, (-1, 8)).norm(dim=2)
    assert norms[kept].min() >= norms[~kept].max()


@pytest.mark.parametrize("nonzeros, block", [(0, 1), (48 * 192 + 1, 1), (12, 8)])
def test_impossible_sizes_are_named(matrix, nonzeros, block):
    with pytest.raises(UserError, match=f"nonzeros={nonzeros} "):
        pruning.magnitude(matrix, nonzeros, block)
