"""Where kept codes stand: bits against a loop, and bytes against what a file holds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirnet.nn.indices import from_mask, index_bytes, is_masked, runs, to_mask


@settings(deadline=None, max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_a_mask_has_a_bit_for_every_place_and_gives_them_back(places):
    mask = to_mask(torch.tensor(places))
    by_hand = [sum(1 << at for at, kept in enumerate(places[start : start + 8]) if kept)
               for start in range(0, len(places), 8)]  # fmt: skip
    assert mask.dtype == torch.uint8 and mask.tolist() == by_hand
    assert from_mask(mask)[: len(places)].tolist() == places and not from_mask(mask)[len(places) :].any()


def test_a_run_is_as_many_rows_as_a_byte_tells_apart():
    assert [runs(rows) for rows in (1, 256, 257, 512, 513)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("rows", "blocks", "block", "shifted", "expected"),
    [
        (20, None, 1, False, 0),  # a dense Z has no indices
        (20, 30, 8, False, 30 + 2 * 10),  # a byte a block, two a block column
        (20, 100, 1, False, 20 * 80 // 8),  # of single codes 200 bytes of bits are fewer than 260
        (20, 10, 1, False, 10 + 2 * 80),  # few codes: rows and counts
        (20, 100, 1, True, 200 + 100),
        (20, None, 1, True, 20 * 80),
        (257, 100, 8, False, 100 + 2 * 2 * 10),  # of two runs
    ],
)
def test_bytes_by_hand(rows, blocks, block, shifted, expected):
    assert index_bytes(rows, 80, blocks, block, shifted) == expected
    if blocks is not None:
        assert is_masked(rows, 80, blocks, block) == (expected in (200, 300))
