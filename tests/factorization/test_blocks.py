import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirnet.factorization import blocks


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 2, 4, 8]), st.integers(0, 40), st.integers(0, 99))
def test_largest_keeps_exactly_the_blocks_of_largest_norm(rows, grid, block, wanted, seed):
    codes = torch.randn(rows, grid * block, generator=torch.Generator().manual_seed(seed))
    mask = blocks.largest(codes, wanted * block, block)
    assert int(mask.sum()) == min(wanted, rows * grid) * block
    kept = mask.view(rows, grid, block)
    assert (kept.all(2) == kept.any(2)).all()
    sizes, chosen = blocks.norms(codes, block), kept.any(2)
    if chosen.any() and not chosen.all():
        assert sizes[chosen].min() >= sizes[~chosen].max()


def test_equal_blocks_are_taken_in_row_order():
    assert blocks.largest(torch.ones(2, 4), 4, 2).tolist() == [[True] * 4, [False] * 4]


def test_count_is_of_scalars_in_blocks_that_are_not_zero():
    codes = torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 0]])
    assert (blocks.count(codes, 1), blocks.count(codes, 2), blocks.count(codes, 4)) == (1, 2, 4)


def test_expand_is_one_value_for_each_code_of_a_block():
    assert blocks.expand(torch.tensor([[1, 2]]), 3).tolist() == [[1, 1, 1, 2, 2, 2]]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([1, 4]), st.floats(0, 3), st.integers(0, 99))
def test_shrink_is_the_proximal_map(block, penalty, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(8, generator=generator, dtype=torch.float64)

    def cost(codes):
        norms = blocks.norms(codes[None], block).sum() * block**0.5
        return float(0.5 * (codes - values).square().sum() + penalty * norms)

    best = blocks.shrink(values, penalty, block)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(10):
            assert cost(best) <= cost(best + size * torch.randn(8, generator=generator, dtype=torch.float64)) + 1e-12


def test_an_infinite_penalty_switches_a_row_off():
    assert not blocks.shrink(torch.randn(8), float("inf"), 1).any()
    assert not blocks.shrink(torch.randn(8), float("inf"), 4).any()
    assert not blocks.shrink(torch.zeros(8), 0.0, 4).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_largest_of_other_types(dtype):
    codes = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    kept = blocks.largest(codes, 60, 4)
    sizes = codes.double().view(6, -1, 4).norm(dim=2)
    assert int(kept.sum()) == 60 and sizes[kept[:, ::4]].min() >= sizes[~kept[:, ::4]].max() - 0.02
