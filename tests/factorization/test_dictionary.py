import pytest
import torch

from dirnet.factorization import dictionary
from dirnet.factorization.coordinate_descent import lasso, objective


@pytest.fixture
def columns(matrix):
    return dictionary.unit(matrix.double())[0]


def test_both_half_steps_lower_the_objective(columns, draw):
    atoms = dictionary.random_columns(columns, 20, draw)
    penalties = torch.full((20,), 0.1).double()
    codes = columns.new_zeros(20, columns.shape[1])
    values = []
    for _ in range(8):
        codes = lasso(atoms.T @ atoms, atoms.T @ columns, penalties, codes, sweeps=2)
        values.append(objective(columns, atoms, codes, penalties))
        dictionary.update(atoms, codes @ codes.T, columns @ codes.T)
        values.append(objective(columns, atoms, codes, penalties))
    assert all(after <= before + 1e-10 for before, after in zip(values, values[1:], strict=False))
    assert values[-1] < 0.9 * values[0]
    assert torch.allclose(atoms.norm(dim=0), torch.ones(20).double())


def test_an_updated_atom_is_the_best_unit_vector(columns, draw):
    """Eq. 10, checked against random unit vectors for the atom that moved last."""
    atoms = dictionary.random_columns(columns, 6, draw)
    codes = torch.randn(6, columns.shape[1], generator=draw, dtype=torch.float64)
    dictionary.update(atoms, codes @ codes.T, columns @ codes.T)
    best = float((columns - atoms @ codes).norm())
    for _ in range(50):
        other = atoms.clone()
        other[:, 5] += 0.1 * torch.randn(len(columns), generator=draw)
        other[:, 5] /= other[:, 5].norm()
        assert best <= float((columns - other @ codes).norm())


def test_dead_atoms_are_told_left_alone_and_reseeded_by_the_worst_column(columns, draw):
    atoms = dictionary.random_columns(columns, 4, draw)
    codes = torch.randn(4, columns.shape[1], generator=draw, dtype=torch.float64)
    codes[1] = 0
    before = atoms[:, 1].clone()
    dead = dictionary.update(atoms, codes @ codes.T, columns @ codes.T)
    assert dead.tolist() == [False, True, False, False] and torch.equal(atoms[:, 1], before)
    worst = int((columns - atoms @ codes).norm(dim=0).argmax())
    dictionary.reseed(atoms, dead, columns, codes)
    assert torch.allclose(atoms[:, 1], columns[:, worst])


def test_unit_scales_back_and_survives_zero_columns():
    matrix = torch.randn(5, 4)
    matrix[:, 2] = 0
    scaled, lengths = dictionary.unit(matrix)
    assert torch.allclose(scaled * lengths, matrix) and scaled.isfinite().all()


def test_random_columns_are_columns_and_then_noise(draw):
    matrix = torch.eye(6)[:, :3]
    atoms = dictionary.random_columns(matrix, 5, draw)
    assert sorted(atoms[:, :3].argmax(0).tolist()) == [0, 1, 2]
    assert torch.allclose(atoms.norm(dim=0), torch.ones(5))


def test_step_1_learns_atoms_that_fit_better_than_where_it_started(columns, draw):
    start = dictionary.random_columns(columns, 24, draw)
    atoms, codes = dictionary.learn(columns, start)
    penalties = torch.full((24,), 0.1).double()
    untrained = lasso(start.T @ start, start.T @ columns, penalties, sweeps=100)
    assert objective(columns, atoms, codes, penalties) < 0.9 * objective(columns, start, untrained, penalties)


def test_the_statistics_of_the_codes_stay_as_they_are(columns, draw):
    """Online learning goes on from them; whichever way they lie in memory."""
    atoms = dictionary.random_columns(columns, 20, draw)
    codes = atoms.T @ columns
    for lie in (torch.Tensor.contiguous, lambda matrix: matrix.T.contiguous().T):
        code_gram, cross = lie(codes @ codes.T), lie(columns @ codes.T)
        kept = code_gram.clone(), cross.clone()
        dictionary.update(lie(atoms.clone()), code_gram, cross)
        assert torch.equal(code_gram, kept[0]) and torch.equal(cross, kept[1])


@pytest.mark.parametrize("extrapolated", [False, True])
def test_step_1_is_algorithm_1_coefficient_by_coefficient(draw, extrapolated):
    """A loop from the paper: ten rounds of three warm-started lasso sweeps and a pass over the atoms."""
    columns = dictionary.unit(torch.randn(6, 9, generator=draw, dtype=torch.float64))[0]
    start = dictionary.random_columns(columns, 4, draw)
    found, found_codes = dictionary.learn(columns, start, extrapolated=extrapolated)
    atoms, codes, before = start.clone(), torch.zeros(4, 9, dtype=torch.float64), None
    for epoch in range(11):
        if extrapolated and 0 < epoch < 10:
            now = atoms.clone()
            for atom in range(4):
                atoms[:, atom] += epoch / (epoch + 1) * (now[:, atom] - before[:, atom])
                atoms[:, atom] /= atoms[:, atom].norm()
            before = now
        elif epoch == 0:
            before = atoms.clone()
        for _ in range(3):
            for atom in range(4):
                for column in range(9):
                    rest = columns[:, column] - atoms @ codes[:, column] + atoms[:, atom] * codes[atom, column]
                    pull = float(atoms[:, atom] @ rest)
                    codes[atom, column] = max(abs(pull) - 0.1, 0) * (1 if pull > 0 else -1)
        if epoch < 10:  # the codes are fitted once more to the atoms moved last
            for atom in range(4):
                rest = columns - atoms @ codes + torch.outer(atoms[:, atom], codes[atom])
                pull = sum(codes[atom, column] * rest[:, column] for column in range(9))
                atoms[:, atom] = pull / pull.norm()
    assert codes.any(1).all() and 0 < codes.count_nonzero() < 36
    torch.testing.assert_close(found, atoms)
    torch.testing.assert_close(found_codes, codes)


@pytest.mark.parametrize("epochs", [4, 10, 30])
def test_as_many_extrapolated_rounds_come_nearer(trained_like, epochs):
    columns = dictionary.unit(trained_like(60, 480))[0]
    start = dictionary.random_columns(columns, 30, torch.Generator().manual_seed(0))
    penalties = torch.full((30,), 0.1)
    plain, fast = (
        objective(columns, *dictionary.learn(columns, start, epochs=epochs, extrapolated=extrapolated), penalties)
        for extrapolated in (False, True)
    )
    assert fast < plain


def test_an_atom_that_was_seeded_again_is_not_extrapolated(draw, monkeypatch):
    """It has not moved: what stood in its place before has nothing to do with it."""
    columns = dictionary.unit(torch.randn(8, 40, generator=draw, dtype=torch.float64))[0]
    columns = dictionary.unit(columns * (torch.arange(8) < 7)[:, None])[0]
    start = dictionary.random_columns(columns, 5, draw)
    start[:, 2] = torch.eye(8)[7]  # no column has a code for it
    nearest = []

    def watched(gram, correlations, *rest, **options):
        nearest.append(correlations.max(1).values)
        return lasso(gram, correlations, *rest, **options)

    monkeypatch.setattr(dictionary.coordinate_descent, "lasso", watched)
    dictionary.learn(columns, start, epochs=2)
    assert nearest[0][2] == 0 and nearest[1][2] == pytest.approx(1)  # a column now, and nothing else
    assert (nearest[1][[0, 1, 3, 4]] < 1 - 1e-6).all()


def test_step_1_may_learn_on_the_first_columns_alone(columns, draw):
    start, own = dictionary.random_columns(columns, 24, draw), columns.shape[1] // 2
    alone, codes_alone = dictionary.learn(columns[:, :own], start)
    atoms, codes = dictionary.learn(columns, start, learned_on=own)
    assert torch.allclose(atoms, alone) and torch.allclose(codes[:, :own], codes_alone)
    assert codes[:, own:].count_nonzero() > 0 and not torch.allclose(atoms, dictionary.learn(columns, start)[0])


def test_step_1_recovers_a_planted_dictionary(draw):
    planted = torch.linalg.qr(torch.randn(16, 16, generator=draw))[0][:, :8]
    codes = torch.randn(8, 400, generator=draw) * (torch.rand(8, 400, generator=draw) < 0.2)
    columns = dictionary.unit(planted @ codes)[0]
    atoms, _ = dictionary.learn(columns, dictionary.random_columns(columns, 8, draw), epochs=100)
    assert (planted.T @ atoms).abs().max(dim=1).values.median() > 0.99
