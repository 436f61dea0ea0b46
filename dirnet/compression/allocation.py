"""One budget for the model, divided over its groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

# A group gets at least half and at most twice its equal share: the error of a matrix is not the error of the network,
# and an allocation by energy alone starves the upper layers.
SPREAD = 2.0
INCREMENTS = 400


def equal(limit: int, dense: Sequence[int], least: Sequence[int]) -> list[float]:
    """Budgets of one factor for all groups, none below its `least` or above its `dense` cost, `limit` in total.

    `sum(least) <= limit <= sum(dense)` is the caller's to ensure.
    """
    low, high = 0.0, 1.0
    for _ in range(60):  # the total grows with the factor: bisection
        middle = (low + high) / 2
        if sum(_clipped(middle, dense, least)) <= limit:
            low = middle
        else:
            high = middle
    return _clipped(low, dense, least)


def by_error(
    limit: int,
    dense: Sequence[int],
    least: Sequence[int],
    errors: Callable[[int, list[int]], list[float]],
    mapped: Callable[..., Iterable[list[float]]] = map,
) -> list[float]:
    """Budgets with the least total squared error. `errors(group, budgets)` is asked for three points per group.

    mapped: applies it to all groups, as `map` does. Between the points the error is a power law of the budget. The
    limit goes in small increments to the group in which it removes most.
    """
    fair = equal(limit, dense, least)
    lows = [max(share / SPREAD, float(floor)) for share, floor in zip(fair, least, strict=True)]
    highs = [min(share * SPREAD, float(whole)) for share, whole in zip(fair, dense, strict=True)]
    asked = [sorted({math.ceil(point) for point in points}) for points in zip(lows, fair, highs, strict=True)]
    curves = [
        (torch.tensor(budgets).double().log(), torch.tensor(found).double())
        for budgets, found in zip(asked, mapped(errors, range(len(asked)), asked), strict=True)
    ]
    shares, increment = list(lows), (limit - sum(lows)) / INCREMENTS
    for _ in range(INCREMENTS):
        gains = [
            float(_error(curve, share) - _error(curve, share + increment)) if share + increment <= high else -1.0
            for curve, share, high in zip(curves, shares, highs, strict=True)
        ]
        best = max(range(len(gains)), key=gains.__getitem__)
        if gains[best] < 0:
            break
        shares[best] += increment
    left = limit - sum(shares)
    room = [high - share for high, share in zip(highs, shares, strict=True)]
    return [share + left * part / max(sum(room), left, 1e-9) for share, part in zip(shares, room, strict=True)]


def by_variance(limit: int, spectra: Sequence[Tensor], costs: Sequence[Callable[[int], int]]) -> list[float]:
    """Budgets of ranks that explain one and the same share of every matrix's variance (Prabhavalkar et al. 2016).

    spectra: squared singular values of each group, the largest first. costs: what a rank costs in each group. The share
    is the largest whose ranks, at least one each, cost no more than `limit`.
    """
    explained = [values.double().cumsum(0) / values.double().sum().clamp_min(1e-300) for values in spectra]

    def budgets(share: float) -> list[int]:
        ranks = [int((curve < share).sum()) + 1 for curve in explained]
        found = [min(rank, len(curve)) for rank, curve in zip(ranks, explained, strict=True)]
        return [cost(rank) for cost, rank in zip(costs, found, strict=True)]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(budgets(middle)) <= limit else (low, middle)
    return list(map(float, budgets(low)))


def rounded(shares: Sequence[float], limit: int, steps: Sequence[int], dense: Sequence[int]) -> list[int]:
    """Whole budgets: multiples of each group's step, what is left over going to those that lost most."""
    budgets = [
        whole if share >= whole else int(share + 1e-6) // step * step
        for share, step, whole in zip(shares, steps, dense, strict=True)
    ]
    left = limit - sum(budgets)
    order = sorted(range(len(shares)), key=lambda group: (budgets[group] - shares[group]) / steps[group])
    for group in order + order:
        more = steps[group] if steps[group] > 1 else left
        more = min(more, max(dense[group] - budgets[group], 0))
        if 0 < more <= left:
            budgets[group] += more
            left -= more
    return budgets


def _clipped(factor: float, dense: Sequence[int], least: Sequence[int]) -> list[float]:
    return [min(max(factor * whole, float(floor)), float(whole)) for whole, floor in zip(dense, least, strict=True)]


def _error(curve: tuple[Tensor, Tensor], budget: float) -> float:
    """The error at `budget`, linear in log-log between the points of `curve`."""
    budgets, errors = curve
    logs = errors.clamp_min(1e-30).log()
    if len(budgets) == 1:
        return math.exp(logs[0])
    at = math.log(budget)
    piece = min(max(int(torch.searchsorted(budgets, at)) - 1, 0), len(budgets) - 2)
    slope = float((logs[piece + 1] - logs[piece]) / (budgets[piece + 1] - budgets[piece]))
    return math.exp(float(logs[piece]) + slope * (at - float(budgets[piece])))
