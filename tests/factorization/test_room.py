import pytest
import torch

from dirnet.errors import UserError
from dirnet.factorization import room
from dirnet.factorization.factors import check_params
from dirnet.factorization.solve import solve


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("params", [60, 300, 1111, 5000])
def test_parameters_leave_the_room_that_the_checks_allow(params, block):
    matrix = torch.zeros(40, 128)
    codes = room.of_params(40, params, block)
    most = (params - block) // 40
    assert room.widest(128, codes, block) == most
    fewest = room.fewest(128, codes, block)  # with one atom less even dense codes leave some
    assert fewest in (1, most) or codes(fewest - 1) > (fewest - 1) * 128
    assert fewest == most or codes(fewest) <= fewest * 128
    for atoms in range(1, most + 1):
        assert min(codes(atoms), atoms * 128) == check_params(matrix, params, atoms, block)[1]


@pytest.mark.parametrize("preset", ["best", "paper"])
@pytest.mark.parametrize("price", [3, 1 / 3], ids=["dear", "cheap"])
def test_any_room_is_kept_and_used_up(matrix, preset, price):
    """A code costs `price` values of D; the number of atoms is chosen for that, not for parameters."""

    def codes(atoms):
        return max(int((2500 - 48 * atoms) / price), 0)

    factors, report = solve(matrix, nonzeros=codes, preset=preset)
    used = 48 * report["atoms"] + price * report["nonzeros"]
    assert 0.98 * 2500 <= used <= 2500
    if preset == "best":
        atoms = solve(matrix, params=2500)[1]["atoms"]
        other = solve(matrix, atoms=atoms, nonzeros=codes(atoms))[1]
        assert report["relative_error"] <= 1.005 * other["relative_error"]


def test_a_room_for_nothing_is_refused(matrix):
    with pytest.raises(UserError, match="must admit one atom"):
        solve(matrix, nonzeros=room.fixed(0))
    with pytest.raises(UserError, match="excludes params=99"):
        solve(matrix, nonzeros=room.fixed(10), params=99)
