import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirnet import sweep
from dirnet.factorization import dictionary, shrinkage
from dirnet.factorization.coordinate_descent import objective


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.floats(1e-2, 1e7), st.floats(0.1, 2), st.integers(0, 99))
def test_theta_sums_to_vartheta_and_minimises_eq_15(atoms, vartheta, gamma, seed):
    generator = torch.Generator().manual_seed(seed)
    usage = torch.rand(atoms, generator=generator, dtype=torch.float64) + 1e-3
    theta = shrinkage.atom_weights(usage, vartheta, gamma)
    assert float(theta.sum()) == pytest.approx(vartheta) and (theta >= 0).all()
    best = float((usage * theta**-gamma).sum())
    for spread in (0.01, 0.3, 3):
        for _ in range(10):
            other = theta * torch.exp(spread * torch.randn(atoms, generator=generator, dtype=torch.float64))
            other *= vartheta / other.sum()
            assert best <= float((usage * other**-gamma).sum()) * (1 + 1e-12)


def test_an_unused_atom_gets_no_weight():
    theta = shrinkage.atom_weights(torch.tensor([1.0, 0.0, 1.0]), 10.0)
    assert theta.tolist() == pytest.approx([5, 0, 5])


@pytest.fixture(scope="module")
def learned(matrix):
    columns, _ = dictionary.unit(matrix.double())
    start = dictionary.random_columns(columns, 32, torch.Generator().manual_seed(0))
    return columns, *dictionary.learn(columns, start)


def test_the_path_runs_from_the_dense_to_the_empty_model(learned):
    columns, atoms, codes = learned
    points = list(shrinkage.path(columns, atoms, codes))
    sizes = [(len(point.kept), point.nonzeros) for point in points]
    assert sizes[0][0] == 32 and sizes[0][1] > 0.7 * 32 * columns.shape[1]
    assert sizes[-1] == (0, 0) and points[-1].relative_error == pytest.approx(1)
    assert all(b[0] <= a[0] for a, b in zip(sizes, sizes[1:], strict=False))
    assert sum(b[1] > a[1] for a, b in zip(sizes, sizes[1:], strict=False)) == 0
    halved = [b.log_vartheta - a.log_vartheta for a, b in zip(points, points[1:], strict=False)]
    assert halved == pytest.approx([-math.log(2)] * len(halved))
    for point in points:
        assert point.codes.shape[0] == len(point.kept) and (point.codes != 0).any(1).all()
        error = float((columns - atoms[:, point.kept] @ point.codes).norm() / columns.norm())
        assert point.relative_error == pytest.approx(error)


@pytest.mark.parametrize("alternations", [1, 2, None])
def test_a_stage_is_that_of_eqs_14_and_17_coefficient_by_coefficient(draw, alternations):
    """A loop from the paper: theta in closed form, then soft thresholding, two sweeps a half-step, gamma 0.4.

    Without a limit it goes on until theta rests, at most ten times.
    """
    columns = dictionary.unit(torch.randn(10, 14, generator=draw, dtype=torch.float64))[0]
    atoms = dictionary.random_columns(columns, 5, draw)
    codes = 0.3 * torch.randn(5, 14, generator=draw, dtype=torch.float64)
    penalty, vartheta, before = 2.0, 1e2, None
    more = {} if alternations is None else {"alternations": alternations}
    point = shrinkage.stage(columns, atoms, codes.clone(), torch.arange(5), penalty, math.log(vartheta), **more)
    for _ in range(10 if alternations is None else alternations):
        used = [sum(abs(float(code)) for code in row) for row in codes]  # c_i of Eq. 15
        powers = [c ** (1 / 1.4) for c in used]
        theta = [vartheta * power / sum(powers) for power in powers]  # Eq. 17
        if before and max(abs(a - b) for a, b in zip(theta, before, strict=True)) <= 1e-2 * vartheta / len(theta):
            break
        before = theta
        for _ in range(2):
            for atom, weight in enumerate(theta):
                threshold = penalty * weight**-0.4 if weight else math.inf  # Eq. 14
                for column in range(14):
                    rest = columns[:, column] - atoms @ codes[:, column] + atoms[:, atom] * codes[atom, column]
                    pull = float(atoms[:, atom] @ rest)
                    codes[atom, column] = math.copysign(max(abs(pull) - threshold, 0), pull)
    kept = [atom for atom in range(5) if codes[atom].any()]
    assert point.kept.tolist() == kept and 0 < point.nonzeros < 70
    torch.testing.assert_close(point.codes, codes[kept], rtol=1e-7, atol=1e-9)


def test_the_papers_constants_are_the_defaults():
    """Sec. 4.3: Theta^0 = 1e7, gamma = 0.4."""
    assert shrinkage.Schedule() == shrinkage.Schedule(vartheta=1e7, gamma=0.4, penalty=None)


def test_alternation_lowers_eq_13(learned):
    columns, atoms, codes = learned
    penalty, vartheta, values = 0.1, 1e4, []
    kept = torch.arange(32)
    for _ in range(6):
        point = shrinkage.stage(columns, atoms, codes, kept, penalty, math.log(vartheta), alternations=1)
        kept, codes = point.kept, point.codes
        theta = shrinkage.atom_weights(codes.abs().sum(1), vartheta)
        values.append(objective(columns, atoms[:, kept], codes, penalty * theta**-shrinkage.GAMMA))
    assert all(after <= before + 1e-9 for before, after in zip(values, values[1:], strict=False))


def test_atoms_of_little_use_are_dropped_first(draw):
    """Two planted atoms carry ten times the codes of the others; they must outlive them."""
    atoms = torch.linalg.qr(torch.randn(12, 8, generator=draw, dtype=torch.float64))[0]
    codes = torch.randn(8, 100, generator=draw, dtype=torch.float64)
    codes[2:] *= 0.1
    points = list(shrinkage.path(atoms @ codes, atoms, torch.zeros_like(codes)))
    assert any(point.kept.tolist() == [0, 1] for point in points)


def test_blocks_stay_whole_along_the_path(learned):
    columns, atoms, codes = learned
    for point in shrinkage.path(columns, atoms, codes, block=4):
        grid = point.codes.unflatten(1, (-1, 4)) != 0
        assert point.nonzeros == 4 * int(grid.any(2).sum()) and torch.equal(grid.all(2), grid.any(2))


@pytest.mark.parametrize("atoms", [10, 100, 101, 500])
def test_lambda_2_is_the_largest_decade_whose_first_penalty_is_small(atoms):
    def first(penalty):
        return penalty * (1e7 / atoms) ** -shrinkage.GAMMA

    found = shrinkage.first_penalty(atoms)
    assert first(found) <= 0.01 < first(10 * found)
    assert shrinkage.first_penalty(atoms, vartheta=1e-9) == 1e-3  # the smallest of the paper's, though too large


@pytest.mark.parametrize("gamma", sweep.GAMMAS)
def test_no_gamma_leaves_the_range_of_numbers(learned, gamma):
    """The penalty grows by 5 % a stage at least, and the path in float32 is that in float64."""
    columns, atoms, codes = learned
    columns, atoms, codes = columns[:, :48], atoms[:, :8], codes[:8, :48]
    paths = [
        list(shrinkage.path(*(part.to(dtype) for part in (columns, atoms, codes)), shrinkage.Schedule(gamma=gamma)))
        for dtype in (torch.float32, torch.float64)
    ]
    assert len(paths[0]) < 300
    sizes = [[point.nonzeros for point in points] for points in paths]
    assert len(sizes[0]) == len(sizes[1])
    assert all(abs(a - b) <= 0.02 * sizes[1][0] for a, b in zip(*sizes, strict=True))
    assert max(a - b for a, b in zip(sizes[1], sizes[1][1:], strict=False)) < 0.5 * sizes[1][0]  # it shrinks by and by


def test_a_zero_matrix_has_a_path_of_numbers():
    zero = torch.zeros(6, 12)
    atoms = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=0)
    for point in shrinkage.path(zero, atoms, torch.zeros(4, 12)):
        assert point.relative_error == 0.0


def test_lambda_2_of_a_large_gamma_is_a_number():
    assert shrinkage.first_penalty(10, 1e-7, 100.0) == 1e-3 and shrinkage.first_penalty(10, 1e7, 100.0) == 1e3
