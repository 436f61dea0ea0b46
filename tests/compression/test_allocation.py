"""Dividing a budget: totals, bounds, and the optimum where it is known."""

import pytest
import torch

from dirnet.compression import allocation


def test_equal_shrinks_all_alike_except_where_it_cannot():
    assert allocation.equal(300, [1000, 2000], [10, 10]) == pytest.approx([100, 200])
    assert allocation.equal(300, [1000, 2000], [10, 260]) == pytest.approx([40, 260])
    assert allocation.equal(3000, [1000, 2000], [10, 10]) == pytest.approx([1000, 2000])


def test_the_optimum_of_power_laws_is_found():
    """Of a_1/P_1 + a_2/P_2 with P_1 + P_2 fixed the minimum has P_i proportional to sqrt(a_i)."""
    weights = [1.0, 2.25]

    def errors(group, budgets):
        return [weights[group] / budget for budget in budgets]

    shares = allocation.by_error(1000, [10_000, 10_000], [1, 1], errors)
    assert shares == pytest.approx([400, 600], rel=0.02)


def test_no_group_starves():
    def errors(group, budgets):
        return [1e6 * group / budget for budget in budgets]

    shares = allocation.by_error(1000, [10_000, 10_000], [1, 1], errors)
    assert sum(shares) == pytest.approx(1000)
    assert shares[0] >= 500 / allocation.SPREAD - 1e-6 and shares[1] <= 500 * allocation.SPREAD + 1e-6


def test_flat_and_vanishing_errors_still_use_the_budget():
    for value in (0.0, 1.0):
        shares = allocation.by_error(900, [600, 600], [1, 1], lambda group, budgets, v=value: [v] * len(budgets))
        assert sum(shares) == pytest.approx(900) and max(shares) <= 600 + 1e-6


def test_ranks_explain_the_same_variance():
    spectra = [torch.tensor([8.0, 1.0, 1.0]), torch.tensor([4.0, 3.0, 2.0, 1.0])]
    costs = [lambda rank: 10 * rank, lambda rank: 7 * rank]
    # 80 % of the variance: ranks 1 and 3; 90 %: ranks 2 and 3; all of it: 3 and 4
    assert allocation.by_variance(31, spectra, costs) == [10, 21]
    assert allocation.by_variance(40, spectra, costs) == [10, 21]
    assert allocation.by_variance(41, spectra, costs) == [20, 21]
    assert allocation.by_variance(1000, spectra, costs) == [30, 28]


def test_rounding_keeps_the_limit_and_gives_the_rest_to_those_that_lost_most():
    assert allocation.rounded([104.0, 197.0], 301, [1, 1], [1000, 1000]) == [104, 197]
    budgets = allocation.rounded([109.9, 150.1], 260, [10, 50], [1000, 1000])
    assert budgets == [110, 150]
    assert allocation.rounded([99.5, 205.0], 310, [10, 100], [99, 1000]) == [99, 200]
