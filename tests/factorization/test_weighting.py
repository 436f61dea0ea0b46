"""The weighted error: its formula, its minimum against the closed form and against plain optimisation."""

import pytest
import torch

from dirnet.errors import UserError
from dirnet.factorization import Factors, pruning, svd
from dirnet.factorization.shift import Shifts
from dirnet.factorization.solve import solve
from dirnet.factorization.weighting import shrunk, weighting


@pytest.fixture
def inputs(draw):
    """(steps, 10) correlated, not centred."""
    mix = torch.randn(10, 10, generator=draw, dtype=torch.float64)
    return torch.randn(400, 10, generator=draw, dtype=torch.float64) @ mix + 1


@pytest.fixture
def small(draw):
    return torch.randn(10, 24, generator=draw)


def cost(moment, gains, matrix, factors):
    """sum_j r_j^2 E[((w_j - D z_j)^T x)^2] from the definition of the second moment."""
    lost = (matrix - factors.reconstruct()).double()
    return float(sum(g**2 * (column @ moment @ column) for g, column in zip(gains.double(), lost.T, strict=True)))


def test_the_plain_error_of_the_weighted_matrix_is_the_mean_squared_error_of_what_gates_read(inputs, small, draw):
    moment = inputs.T @ inputs / len(inputs)
    gains = torch.rand(24, generator=draw) + 0.1
    weigh = weighting(moment, 1e-9, gains)
    factors = svd.truncated(small, 4)
    lost = weigh.apply(small) - weigh.apply(factors.reconstruct())
    naive = ((inputs @ (small - factors.reconstruct()).double()) * gains.double()).square().sum(1).mean()
    scale = 10 / moment.trace()
    assert float(lost.square().sum()) == pytest.approx(float(naive * scale), rel=1e-3)
    assert float(naive) == pytest.approx(cost(moment, gains, small, factors), rel=1e-6)


def test_weighted_svd_is_the_closed_form_and_nothing_of_its_rank_is_better(inputs, small, draw):
    gains = torch.rand(24, generator=draw) + 0.1
    moment = shrunk(inputs.T @ inputs, 0.1)
    weigh = weighting(inputs.T @ inputs, 0.1, gains)
    found = weigh.undo(svd.truncated(weigh.apply(small), 3))
    best = cost(moment, gains, small, found)
    root = torch.linalg.cholesky(moment).T  # any root has the same singular values
    tail = torch.linalg.svdvals(root @ small.double() * gains.double())[3:]
    assert best == pytest.approx(float(tail.square().sum()), rel=1e-4)
    assert torch.allclose(found.dictionary.norm(dim=0), torch.ones(3), atol=1e-5)
    left = torch.randn(10, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    right = torch.randn(3, 24, generator=draw, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([left, right], max_iter=150, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        lost = (small.double() - left @ right) * gains.double()
        value = (lost * (moment @ lost)).sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert best == pytest.approx(float(loss().detach()), rel=1e-3)
    assert best < cost(moment, gains, small, svd.truncated(small, 3))


@pytest.mark.parametrize("block", [1, 4])
def test_weighted_codes_are_at_the_minimum_of_the_weighted_error(inputs, small, draw, block):
    gains = torch.rand(24, generator=draw) + 0.1
    moment = shrunk(inputs.T @ inputs, 0.2)
    weigh = weighting(inputs.T @ inputs, 0.2, gains)
    found = weigh.undo(solve(weigh.apply(small), params=110, block=block)[0])
    plain = solve(small, params=110, block=block)[0]
    assert cost(moment, gains, small, found) < cost(moment, gains, small, plain)
    assert torch.allclose(found.dictionary.norm(dim=0), torch.ones(len(found.codes)), atol=1e-5)
    codes = found.codes.double().requires_grad_()
    lost = (small.double() - found.dictionary.double() @ codes) * gains.double()
    (lost * (moment @ lost)).sum().backward()
    slope = codes.grad[found.codes != 0].abs().max()
    assert slope < 1e-3 * (moment @ small.double()).abs().max()


def test_weighting_keeps_zeros_and_pruning_picks_by_weight_times_activation(inputs, small):
    moment = inputs.T @ inputs / len(inputs)
    weigh = weighting(moment, 1e-6, diagonal=True)
    found = weigh.undo(pruning.magnitude(weigh.apply(small), 60))
    score = small.abs() * inputs.square().mean(0).sqrt().float()[:, None]
    kept = score >= score.flatten().topk(60).values[-1]
    assert torch.equal(found.codes != 0, kept)
    assert torch.allclose(found.codes[kept], small[kept], rtol=1e-4)


def test_shrinkage_leads_to_the_plain_error(inputs, small):
    moment = inputs.T @ inputs
    assert torch.allclose(shrunk(moment, 1.0), torch.eye(10).double())
    assert torch.allclose(weighting(moment, 1.0).apply(small), small, atol=1e-5)
    for share in (0.01, 0.3, 1.0):
        assert shrunk(moment, share).trace() == pytest.approx(10)
        assert torch.linalg.eigvalsh(shrunk(moment, share))[0] >= share * (1 - 1e-9)
        assert torch.allclose(shrunk(moment, share), shrunk(1e6 * moment, share))


def test_inputs_of_low_rank_or_none_do_no_harm(small):
    for moment in (torch.ones(10, 10), torch.zeros(10, 10)):
        weigh = weighting(moment, 0.05)
        factors = weigh.undo(Factors(weigh.root, torch.linalg.solve(weigh.root, weigh.apply(small))))
        assert torch.allclose(factors.reconstruct(), small, atol=1e-3)
    for share in (0, -0.1, 1.5):
        with pytest.raises(UserError, match="shrinkage is .* above 0 and at most 1"):
            shrunk(torch.eye(3), share)


def test_factors_with_shifts_have_no_weighting(inputs, small):
    moment = inputs.T @ inputs / len(inputs)
    weigh = weighting(moment, 0.5, torch.ones(24, dtype=torch.float64))
    shifted, _ = solve(small, params=150, preset="paper", shifts=Shifts(1, "circular"))
    with pytest.raises(UserError, match="weighted factors have shifts"):
        weigh.undo(shifted)


def test_the_smallest_share_of_the_identity_leaves_numbers(small):
    """Of inputs without rank the eigenvalues are the share alone, and rounding may take them below zero."""
    moment = torch.ones(len(small), len(small))
    found = weighting(moment, 1e-16)
    assert found.root.isfinite().all() and found.inverse.isfinite().all()
