"""Sizes as users write them, and prices that equal what is really stored."""

import pytest
import torch

from dirnet.compression import solvers
from dirnet.compression.budget import Price, parse_size
from dirnet.errors import UserError
from dirnet.factorization.shift import Shifts
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.quantised import SCALE_BYTES


@pytest.mark.parametrize(
    "text,kind,value",
    [
        ("7.9x", "ratio", 7.9),
        (" 8X ", "ratio", 8),
        ("1.3M", "params", 1_300_000),
        ("500k", "params", 500_000),
        ("1300000", "params", 1_300_000),
        ("2MB", "bytes", 2_000_000),
        ("900 kB", "bytes", 900_000),
        ("2MiB", "bytes", 2 * 2**20),
        ("300b", "bytes", 300),
    ],
)
def test_sizes(text, kind, value):
    size = parse_size(text)
    assert (size.kind, size.value) == (kind, pytest.approx(value))
    assert size.limit(10_000_000) == int(10_000_000 / value if kind == "ratio" else value)


@pytest.mark.parametrize(
    "text",
    ["", "x", "7,9x", "0.5x", "0", "-1M", "2 bananas", "1e6", "0x", "7.9xx", "9" * 400 + "M", "rtf=" + "9" * 400],
)
def test_nonsense_is_refused(text):
    with pytest.raises(UserError, match="size"):
        parse_size(text)


def test_a_number_is_no_size():
    with pytest.raises(UserError, match="size is 2.0, expected text: '7.9x'"):
        parse_size(2.0)


@pytest.mark.parametrize("atoms,nonzeros", [(5, 40), (300, 80), (None, 40), (5, None), (None, None), (5, 0)])
@pytest.mark.parametrize("block", [1, 4])
def test_a_price_is_what_a_coded_matrix_costs(atoms, nonzeros, block):
    coded = CodedMatrix(12, 32, atoms, None if nonzeros is None else nonzeros // block, block)
    assert Price("params", 12, 32, block).factors(atoms, nonzeros) == coded.params()
    assert Price("bytes", 12, 32, block).factors(atoms, nonzeros) == coded.stored_bytes()
    double = Price("bytes", 12, 32, block, value_bytes=8)
    assert double.factors(atoms, nonzeros) == coded.to(torch.float64).stored_bytes()
    int8 = CodedMatrix(12, 32, atoms, None if nonzeros is None else nonzeros // block, block, "int8")
    assert Price("bytes", 12, 32, block, 1, SCALE_BYTES).factors(atoms, nonzeros) == int8.stored_bytes()
    assert Price("params", 12, 32, block, 1, SCALE_BYTES).factors(atoms, nonzeros) == int8.params()
    assert Price("bytes", 12, 32, block, 1, SCALE_BYTES).dense == CodedMatrix(12, 32, dtype="int8").stored_bytes()
    shifted = CodedMatrix(12, 32, atoms, None if nonzeros is None else nonzeros // block, block, shifts=Shifts(1))
    assert Price("bytes", 12, 32, block, shifted=True).factors(atoms, nonzeros) == shifted.stored_bytes()
    assert Price("params", 12, 32, block, shifted=True).factors(atoms, nonzeros) == shifted.params()


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize(("kept", "value"), [((4, 0), 4), ((1, SCALE_BYTES), 1)])
def test_an_atom_costs_its_values_scales_and_places(kept, value, block):
    """And half of a budget for atoms is half of what is left beside the counts of the block columns."""
    price = Price("bytes", 256, 2048, block, *kept)
    places = 2048 // 8 if block == 1 else 0  # a bit each, even of a Z without codes
    assert price.atom == 256 * value + (2 * SCALE_BYTES if value == 1 else 0) + places
    budget, counts = price.dense // 4, 0 if block == 1 else 2 * 2048 // 8
    assert solvers._half(price, budget) == min((budget - counts) // 2 // price.atom, 256)


@pytest.mark.parametrize("unit", ["params", "bytes"])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("atoms", [None, 5, 300])
@pytest.mark.parametrize("kept", [(4, 0), (1, SCALE_BYTES)])
def test_as_many_codes_as_fit_and_not_one_block_more(unit, block, atoms, kept):
    price = Price(unit, 12, 32, block, *kept)
    for budget in (300, 400, 555, 20000):
        nonzeros = price.nonzeros(atoms, budget)
        assert nonzeros % block == 0
        full = (atoms or 12) * 32
        if nonzeros:
            assert price.factors(atoms, nonzeros) <= budget
        if nonzeros < full:
            assert price.factors(atoms, nonzeros + block) > budget
