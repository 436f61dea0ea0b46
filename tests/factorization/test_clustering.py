"""Units in blocks: planted blocks come back, the best of all orders is nearly met, nothing is ever lost."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirnet.factorization import clustering


def planted(blocks, block, features, seed):
    """(surplus, block of each unit): the units of a block are worth something in the same features, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    used = (torch.rand(blocks, features, generator=generator) < 0.3).float()
    worths = used.repeat_interleave(block, 0) * (0.5 + torch.rand(blocks * block, features, generator=generator)) - 0.25
    shuffle = torch.randperm(blocks * block, generator=generator)
    return worths[shuffle], (torch.arange(blocks * block) // block)[shuffle]


@pytest.mark.parametrize("block", [2, 4, 8])
def test_planted_blocks_are_found(block):
    surplus, home = planted(6, block, 40, seed=block)
    found = home[clustering.cluster(surplus, block)].view(-1, block)
    assert (found == found[:, :1]).all() and len(found[:, 0].unique()) == 6


def test_worth_is_what_the_blocks_bring():
    surplus = torch.tensor([[1.0, -1], [2, -3], [-1, 4], [0, -1]])
    assert clustering.worth(surplus, torch.tensor([0, 1, 2, 3]), 2) == 3 + 3
    assert clustering.worth(surplus, torch.tensor([0, 2, 1, 3]), 2) == 3 + 2


@pytest.mark.parametrize("seed", range(5))
def test_no_other_order_is_worth_much_more(seed):
    surplus = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
    most = max(clustering.worth(surplus, torch.tensor(order), 2) for order in itertools.permutations(range(6)))
    found = clustering.worth(surplus, clustering.cluster(surplus, 2), 2)
    assert 0.9 * most <= found <= most + 1e-5


@settings(deadline=None, max_examples=30)
@given(blocks=st.integers(1, 6), block=st.integers(1, 5), features=st.integers(1, 9), seed=st.integers(0, 99))
def test_an_order_is_a_permutation_and_never_worth_less(blocks, block, features, seed):
    generator = torch.Generator().manual_seed(seed)
    surplus = torch.randn(blocks * block, features, generator=generator)
    start = torch.randperm(blocks * block, generator=generator)
    found = clustering.cluster(surplus, block, start)
    assert torch.equal(found.sort().values, torch.arange(blocks * block))
    assert clustering.worth(surplus, found, block) >= clustering.worth(surplus, start, block) - 1e-5
