"""An order of units in which those with like codes share a block.

Column j of unit u holds `surplus[u, j]`, what the code is worth less its share of the price of a block. A block is kept
where its units are worth more than it costs together, so an order is worth `sum over blocks, j of relu(sum_u surplus)`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def worth(surplus: Tensor, order: Tensor, block: int) -> float:
    """What the kept blocks of `order` (n,) are worth beyond their price, for `surplus` (n, features)."""
    return float(surplus[order].unflatten(0, (-1, block)).sum(1).clamp_min(0).double().sum())


def cluster(surplus: Tensor, block: int, order: Tensor | None = None, *, sweeps: int = 8) -> Tensor:
    """An order (n,) of the units, blocks of `block` consecutive ones being worth much; `block` divides n.

    The better of `order` (default: as they are) and greedily grown blocks, then improved by exchanging two units, the
    best partner for each, until nothing is gained or `sweeps` are over. Never worth less than `order`.
    """
    order = torch.arange(len(surplus)) if order is None else order
    if block == 1 or block == len(surplus):
        return order
    starts = (order, _grown(surplus, block))
    return _exchanged(surplus, max(starts, key=lambda start: worth(surplus, start, block)), block, sweeps)


def _grown(surplus: Tensor, block: int) -> Tensor:
    """Block after block: the unit worth most alone, then again and again the one that adds most."""
    alone = surplus.clamp_min(0).sum(1)
    free, order = torch.ones(len(surplus), dtype=torch.bool), []
    for _ in range(len(surplus) // block):
        chosen = int(torch.where(free, alone, -1).argmax())
        total = torch.zeros_like(surplus[0])
        for _ in range(block):
            order.append(chosen)
            free[chosen] = False
            total = total + surplus[chosen]
            added = (total + surplus).clamp_min(0).sum(1) - alone
            chosen = int(torch.where(free, added, -torch.inf).argmax())
    return torch.tensor(order)


def _exchanged(surplus: Tensor, order: Tensor, block: int, sweeps: int) -> Tensor:
    order, home = order.clone(), torch.arange(len(order)) // block
    units = surplus[order]
    totals = units.unflatten(0, (-1, block)).sum(1)
    values, others = totals.clamp_min(0).sum(1), totals[home] - units  # others: its block without the unit
    added = torch.empty_like(units)
    least = 1e-6 * float(surplus.abs().sum()) / len(order)  # rounding is no gain
    for _ in range(sweeps):
        gained = False
        for place in range(len(order)):
            here, unit = place // block, units[place]
            mine = torch.add(units, others[place], out=added).clamp_min_(0).sum(1)
            theirs = torch.add(others, unit, out=added).clamp_min_(0).sum(1)
            gain = torch.where(home == here, -torch.inf, mine + theirs - values[here] - values[home])
            other = int(gain.argmax())
            if float(gain[other]) > least:
                gained, there = True, other // block
                step = units[other] - unit
                for swapped in (order, units):
                    swapped[[place, other]] = swapped[[other, place]]
                totals[here] += step
                totals[there] -= step
                values[[here, there]] = totals[[here, there]].clamp_min(0).sum(1)
                for changed in (here, there):
                    rows = slice(changed * block, (changed + 1) * block)
                    others[rows] = totals[changed] - units[rows]
        if not gained:
            break
    return order
