import pytest
import torch

from dirnet.factorization import conjugate_gradients
from dirnet.factorization.coordinate_descent import refit


@pytest.fixture
def problem():
    draw = torch.Generator().manual_seed(0)
    dictionary = torch.randn(30, 12, generator=draw, dtype=torch.float64)
    dictionary /= dictionary.norm(dim=0)
    matrix = torch.randn(30, 40, generator=draw, dtype=torch.float64)
    support = (torch.rand(12, 40, generator=draw) < torch.linspace(0, 1, 40)).double()
    return matrix, dictionary, support


def test_many_steps_are_the_least_squares_fit_of_every_column(problem):
    matrix, dictionary, support = problem
    gram, correlations = dictionary.T @ dictionary, dictionary.T @ matrix
    codes = torch.randn(12, 40, dtype=torch.float64) * support
    conjugate_gradients.fit(gram, correlations, codes, support, steps=30)
    assert torch.allclose(codes, refit(gram, correlations, support > 0), atol=1e-7)
    assert not codes[support == 0].any()


def test_every_step_lowers_the_error_of_every_column(problem):
    matrix, dictionary, support = problem
    gram, correlations = dictionary.T @ dictionary, dictionary.T @ matrix
    errors = []
    for steps in range(5):
        codes = torch.zeros(12, 40, dtype=torch.float64)
        conjugate_gradients.fit(gram, correlations, codes, support, steps)
        errors.append((matrix - dictionary @ codes).square().sum(0))
    for before, after in zip(errors, errors[1:], strict=False):
        assert (after <= before + 1e-12).all()
    assert (errors[1] < errors[0])[support.any(0)].all()


def test_solved_and_empty_columns_stay_as_they_are():
    codes = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    support = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    correlations = torch.tensor([[2.0, 5.0, 0.0], [9.0, 5.0, 0.0]])
    conjugate_gradients.fit(torch.eye(2), correlations, codes, support)
    assert codes.tolist() == [[2, 0, 0], [0, 0, 0]]
