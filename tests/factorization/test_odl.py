import pytest
import torch

from dirnet.errors import UserError
from dirnet.factorization import blocks, relative_error
from dirnet.factorization.odl import online_dictionary_learning


@pytest.mark.parametrize("block", [1, 8])
def test_the_budget_is_met_in_whole_blocks(matrix, block):
    factors = online_dictionary_learning(matrix, params=2000, block=block)
    stored = factors.dictionary.numel() + blocks.count(factors.codes, block)
    assert 0.98 * 2000 <= stored <= 2000
    assert torch.allclose(factors.dictionary.norm(dim=0), torch.ones(factors.dictionary.shape[1]), atol=1e-5)


def test_learning_beats_the_columns_it_starts_from(matrix):
    errors = [relative_error(matrix, online_dictionary_learning(matrix, params=3000, epochs=n)) for n in (0, 10)]
    assert errors[1] < 0.97 * errors[0]


def test_statistics_of_older_batches_fade_as_mairal_has_it(draw):
    """A loop of Algorithm 1 there: A and B, of which batch t keeps 1 - 1/t, and one pass of Algorithm 2 a batch."""
    matrix = torch.randn(6, 10, generator=draw, dtype=torch.float64)
    found = online_dictionary_learning(matrix, params=40, atoms=3, seed=5, epochs=2, batch=4).dictionary
    generator = torch.Generator().manual_seed(5)
    columns = matrix / matrix.norm(dim=0)
    atoms = columns[:, torch.randperm(10, generator=generator)[:3]].clone()
    torch.randn(6, 0, generator=generator, dtype=torch.float64)
    gram, cross, batches = torch.zeros(3, 3).double(), torch.zeros(6, 3).double(), 0
    for _ in range(2):
        for chosen in torch.randperm(10, generator=generator).split(4):
            batches += 1
            codes = torch.zeros(3, len(chosen), dtype=torch.float64)
            for _ in range(5):
                for atom in range(3):
                    rest = columns[:, chosen] - atoms @ codes + torch.outer(atoms[:, atom], codes[atom])
                    pull = atoms[:, atom] @ rest
                    codes[atom] = pull.sign() * (pull.abs() - 0.1).clamp_min(0)
            gram, cross = (1 - 1 / batches) * gram, (1 - 1 / batches) * cross
            for column, z in zip(chosen, codes.T, strict=True):
                gram, cross = gram + torch.outer(z, z), cross + torch.outer(columns[:, column], z)
            for atom in range(3):
                pull = cross[:, atom] - atoms @ gram[:, atom] + atoms[:, atom] * gram[atom, atom]
                atoms[:, atom] = pull / pull.norm()
    torch.testing.assert_close(found, atoms)


def test_half_the_budget_goes_into_atoms_unless_told(matrix):
    assert online_dictionary_learning(matrix, params=1920).dictionary.shape == (48, 20)
    assert online_dictionary_learning(matrix, params=1920, atoms=12).dictionary.shape == (48, 12)


def test_equal_seeds_give_equal_bits_and_others_do_not(matrix):
    first, again, other = (online_dictionary_learning(matrix, params=1920, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.codes, again.codes) and torch.equal(first.dictionary, again.dictionary)
    assert not torch.equal(first.dictionary, other.dictionary)


def test_an_impossible_budget_is_named_with_the_range(matrix):
    with pytest.raises(UserError, match="params=48 .* 49 to 9216"):
        online_dictionary_learning(matrix, params=48)
    with pytest.raises(UserError, match="atoms=40 .* 1 to 39"):
        online_dictionary_learning(matrix, params=1920, atoms=40)
