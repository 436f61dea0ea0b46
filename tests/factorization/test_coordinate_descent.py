import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

from dirnet.factorization import blocks
from dirnet.factorization.coordinate_descent import lasso, objective, refit, sweep


def problem(rows, atoms, columns, seed=0, unit=True):
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.randn(rows, atoms, generator=generator, dtype=torch.float64)
    if unit:
        dictionary /= dictionary.norm(dim=0)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return matrix, dictionary, dictionary.T @ dictionary, dictionary.T @ matrix


@settings(deadline=None, max_examples=10)
@given(st.integers(8, 20), st.integers(1, 24), st.integers(1, 10), st.integers(0, 9), st.booleans())
def test_lasso_meets_the_kkt_conditions(rows, atoms, columns, seed, unit):
    matrix, dictionary, gram, correlations = problem(rows, atoms, columns, seed, unit)
    penalties = torch.rand(atoms, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    codes = lasso(gram, correlations, penalties, sweeps=5000, tolerance=1e-8)
    slope = dictionary.T @ (matrix - dictionary @ codes)
    bound = penalties[:, None].expand_as(slope)
    assert (slope.abs() <= bound + 1e-5).all()
    active = codes != 0
    assert torch.allclose(slope[active], (bound * codes.sign())[active], atol=1e-5)


def test_group_lasso_meets_the_kkt_conditions():
    matrix, dictionary, gram, correlations = problem(20, 12, 24)
    codes = lasso(gram, correlations, torch.full((12,), 0.6).double(), sweeps=5000, tolerance=1e-10, block=4)
    slope = dictionary.T @ (matrix - dictionary @ codes)
    sizes, pulls, active = blocks.norms(codes, 4), blocks.norms(slope, 4), blocks.norms(codes, 4) > 0
    assert active.any() and not active.all()
    assert (pulls <= 0.6 * 2 + 1e-5).all()
    direction = codes / blocks.expand(sizes, 4)
    mask = blocks.expand(active, 4)
    assert torch.allclose(slope[mask], 1.2 * direction[mask], atol=1e-5)


def test_lasso_agrees_with_scikit_learn():
    matrix, dictionary, gram, correlations = problem(30, 40, 6)
    codes = lasso(gram, correlations, torch.full((40,), 0.3).double(), sweeps=5000, tolerance=1e-8)
    peer = Lasso(alpha=0.3 / 30, fit_intercept=False, tol=1e-12, max_iter=100000)
    assert numpy.allclose(codes.T, peer.fit(dictionary.numpy(), matrix.numpy()).coef_, atol=1e-5)


@pytest.mark.parametrize("block", [1, 4])
def test_the_objective_never_rises(block):
    matrix, dictionary, gram, correlations = problem(30, 45, 32)
    penalties = torch.linspace(0.01, 0.5, 45, dtype=torch.float64)
    codes = torch.zeros_like(correlations)
    values = [objective(matrix, dictionary, codes, penalties, block)]
    for _ in range(15):
        sweep(gram, correlations, codes, penalties, block=block)
        values.append(objective(matrix, dictionary, codes, penalties, block))
    assert all(after <= before + 1e-10 for before, after in zip(values, values[1:], strict=False))


def test_a_sweep_is_the_textbook_cyclic_one_for_every_column():
    """Tiles and the triangular solve are only faster ways: 37 atoms span tiles of unequal size."""
    matrix, dictionary, gram, correlations = problem(20, 37, 5, unit=False)
    start = torch.randn_like(correlations)
    for penalty in (0.3, 0.0):
        expected = start.clone()
        for column in range(5):
            for atom in range(37):
                others = gram[atom] @ expected[:, column] - gram[atom, atom] * expected[atom, column]
                value = correlations[atom, column] - others
                expected[atom, column] = value.sign() * (value.abs() - penalty).clamp_min(0) / gram[atom, atom]
        codes = start.clone()
        sweep(gram, correlations, codes, torch.full((37,), penalty).double() if penalty else None)
        assert torch.allclose(codes, expected, atol=1e-9)


@pytest.mark.parametrize("atoms", [1, 4])
def test_what_is_given_stays_as_it_is(atoms):
    """Whichever way it lies in memory."""
    matrix, dictionary, gram, correlations = problem(10, atoms, 6)
    codes = torch.randn_like(correlations)
    rows = (gram, correlations, codes)
    for tensors in (rows, [tensor.T.contiguous().T for tensor in rows]):
        kept = [tensor.clone() for tensor in tensors]
        moved = lasso(*tensors[:2], torch.full((atoms,), 0.1).double(), tensors[2])
        assert not torch.equal(moved, codes)
        assert all(torch.equal(now, before) for now, before in zip(tensors, kept, strict=True))


def test_a_zero_atom_and_an_infinite_penalty_leave_no_codes():
    matrix, dictionary, _, _ = problem(10, 5, 4)
    dictionary[:, 2] = 0
    gram, correlations = dictionary.T @ dictionary, dictionary.T @ matrix
    codes = torch.ones_like(correlations)
    sweep(gram, correlations, codes)
    assert not codes[2].any() and codes.isfinite().all()
    codes = torch.ones_like(correlations)
    sweep(gram, correlations, codes, torch.tensor([0.1, float("inf"), 0.1, 0.1, 0.1]).double())
    assert not codes[1:3].any() and codes.isfinite().all()


@pytest.mark.parametrize("chunk_bytes", [1 << 22, 4096])
def test_refit_equals_least_squares_on_each_support(chunk_bytes):
    matrix, dictionary, gram, correlations = problem(40, 30, 50)
    support = torch.rand(30, 50, generator=torch.Generator().manual_seed(3)) < torch.linspace(0, 1, 50)
    codes = refit(gram, correlations, support, chunk_bytes=chunk_bytes)
    assert not codes[~support].any()
    for column in range(50):
        atoms = support[:, column].numpy()
        expected = numpy.linalg.lstsq(dictionary.numpy()[:, atoms], matrix.numpy()[:, column], rcond=None)[0]
        assert numpy.allclose(codes[atoms, column], expected, atol=1e-6)


def test_refit_survives_atoms_that_are_equal():
    matrix, dictionary, _, _ = problem(10, 4, 3)
    dictionary[:, 1] = dictionary[:, 0]
    codes = refit(dictionary.T @ dictionary, dictionary.T @ matrix, torch.ones(4, 3, dtype=torch.bool))
    best = torch.linalg.lstsq(dictionary, matrix, driver="gelsd").solution
    assert float((matrix - dictionary @ codes).norm()) <= float((matrix - dictionary @ best).norm()) * (1 + 1e-6)
