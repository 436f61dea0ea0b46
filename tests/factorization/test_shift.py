import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirnet.errors import UserError
from dirnet.factorization.factors import Factors
from dirnet.factorization.shift import IDENTITY, Shifts

kinds = pytest.mark.parametrize("kind", ["circular", "zero"])
some_shifts = st.builds(Shifts, st.integers(0, 3), st.sampled_from(["circular", "zero"]))


def operator(shifts: Shifts, offset: int, rows: int) -> torch.Tensor:
    """delta as a matrix, entry by entry."""
    matrix = torch.zeros(rows, rows, dtype=torch.float64)
    for target in range(rows):
        source = target - offset
        if shifts.kind == "circular":
            matrix[target, source % rows] = 1
        elif 0 <= source < rows:
            matrix[target, source] = 1
    return matrix


@settings(deadline=None, max_examples=30)
@given(shifts=some_shifts, rows=st.integers(7, 12), seed=st.integers(0, 99))
def test_every_operator_is_its_matrix_and_the_adjoint_its_transpose(shifts, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, rows, 3, generator=generator, dtype=torch.float64)
    assert shifts.offsets[0] == 0 and sorted(shifts.offsets) == list(range(-shifts.reach, shifts.reach + 1))
    for offset in shifts.offsets:
        delta = operator(shifts, offset, rows)
        assert torch.equal(shifts.apply(a, offset), delta @ a)
        assert torch.equal(shifts.adjoint(b, offset), delta.T @ b)
        left, right = (shifts.apply(a, offset) * b).sum(), (a * shifts.adjoint(b, offset)).sum()
        torch.testing.assert_close(left, right)  # <delta a, b> = <a, delta^T b>


def test_circular_shifts_are_orthogonal_and_zero_filled_ones_lose_their_edge():
    a = torch.arange(1.0, 7)[:, None]
    for offset in (0, 1, -1, 2, -2):
        circular, zero = Shifts(2), Shifts(2, "zero")
        assert torch.equal(circular.adjoint(circular.apply(a, offset), offset), a)
        back = zero.adjoint(zero.apply(a, offset), offset)
        assert int((back != a).sum()) == abs(offset) and torch.equal(back[back != 0], a[back != 0])


@settings(deadline=None, max_examples=30)
@given(shifts=some_shifts, columns=st.integers(1, 6), atoms=st.integers(1, 4), seed=st.integers(0, 99))
def test_wide_codes_are_codes_and_offsets(shifts, columns, atoms, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(atoms, columns, generator=generator) * (torch.rand(atoms, columns, generator=generator) < 0.6)
    offsets = torch.randint(-shifts.reach, shifts.reach + 1, codes.shape, generator=generator).to(torch.int8)
    dictionary = torch.randn(8, atoms, generator=generator)
    wide = shifts.join(codes, offsets)
    again, moved = shifts.split(wide)
    assert torch.equal(again, codes) and torch.equal(moved, offsets * codes.ne(0)) and moved.dtype == torch.int8
    assert torch.equal(torch.tensor(shifts.offsets)[shifts.positions(offsets)], offsets.long())
    expected = torch.zeros(8, columns)
    for atom in range(atoms):
        for column in range(columns):
            moved_atom = shifts.apply(dictionary[:, atom], int(offsets[atom, column]))
            expected[:, column] += codes[atom, column] * moved_atom
    torch.testing.assert_close(shifts.reconstruct(dictionary, wide), expected)
    torch.testing.assert_close(Factors.of(dictionary, wide, shifts).reconstruct(), expected)
    assert torch.equal(Factors.of(dictionary, wide, shifts).wide, wide)
    taken = shifts.occupied(wide != 0)
    assert torch.equal(taken, torch.cat([codes != 0] * len(shifts), dim=1))


@kinds
def test_a_code_weighs_as_if_its_atom_were_a_unit_vector(kind):
    shifts, dictionary = Shifts(1, kind), torch.nn.functional.normalize(torch.randn(4, 2), dim=0)
    strengths = shifts.strengths(dictionary, torch.ones(2, 9))
    for place, offset in enumerate(shifts.offsets):
        lengths = shifts.apply(dictionary, offset).norm(dim=0)
        torch.testing.assert_close(strengths[:, 3 * place : 3 * place + 3], lengths[:, None].expand(2, 3))


def test_without_shifts_everything_is_the_thing_itself():
    dictionary, codes = torch.randn(5, 3), torch.randn(3, 4)
    assert IDENTITY.expand(dictionary) is dictionary and IDENTITY.strengths(dictionary, codes) is codes
    assert torch.equal(IDENTITY.reconstruct(dictionary, codes), dictionary @ codes)
    assert Factors.of(dictionary, codes).offsets is None


def test_mistakes_are_named():
    for arguments, message in [((-1,), "shifts is -1"), ((128,), "0 .none. to 127"), ((1, "round"), "'round'.*zero")]:
        with pytest.raises(UserError, match=message):
            Shifts(*arguments)
    with pytest.raises(UserError, match="shifts is 3, too far for 6 rows; choose from 0 to 2"):
        Shifts(3).check(6)
