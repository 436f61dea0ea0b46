"""In which order the hidden units of a model lose least when gate rows are kept in blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dirnet.compression.groups import dense_rnns
from dirnet.compression.guide import Guide, guided
from dirnet.compression.methods import Method
from dirnet.compression.plan import Plan
from dirnet.compression.solvers import split
from dirnet.factorization import annealing, blocks, clustering, svd
from dirnet.factorization.threads import one_thread
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.grouping import GATES, Group, groups_of
from dirnet.nn.permutation import permute_acoustic_model, permute_units, states_of

ALTERNATIONS, ROUNDS = 4, 8


def reorder(model: nn.Module, method: Method, plan: Plan, guide: Guide) -> tuple[Guide, dict[str, list[list[int]]]]:
    """Reorder the hidden units of every RNN in `model`, in place, for the method's blocks and the budgets of `plan`.

    The output of the model stays the same: units of a last layer move in an `AcousticModel` only, whose `output` moves
    with them. States (`h_n`) come in the new order: the second value returned, by RNN, as `permute_states` takes it.
    The first is the guide of the reordered model.
    """
    acoustic = isinstance(model, AcousticModel)
    found, statistics, at = {}, [], 0
    for name, rnn in dense_rnns(model).items():
        groups = groups_of(rnn)
        places = range(at, at + len(groups))
        sizes = [split(method, plan.prices[place], plan.budgets[place]) for place in places]
        matrices = [guide.weighted(place, plan.groups[place].matrix) for place in places]
        orders = order_units(rnn, matrices, sizes, method.block, last=acoustic)
        named = dict(zip(states_of(rnn), orders, strict=True))
        if guide.statistics:
            for place, group in zip(places, groups, strict=True):
                rows = named.get(group.name.removeprefix("hidden_"), torch.arange(group.rows))
                columns = _columns(group, named, GATES[rnn.mode])
                statistics.append(guide.statistics[place].permuted(rows, columns))
        permute_acoustic_model(model, orders) if acoustic else permute_units(rnn, orders)
        found[name], at = [order.tolist() for order in orders], at + len(groups)
    return guided(method, guide.data, statistics) if statistics else guide, found


@one_thread()
def order_units(
    rnn: nn.RNNBase, matrices: Sequence[Tensor], sizes: Sequence[tuple[int | None, int]], block: int, *, last: bool
) -> list[Tensor]:
    """An order (H,) of the units of every layer and direction, for `dirnet.nn.permutation.permute_units`.

    matrices: W (N, M) of every group of `groups_of(rnn)`, weighted or not. sizes: the (atoms or None, nonzeros) each
    is to have. last: whether the units of the last layer may move. Codes for orthonormal atoms in the leading span of W
    show which units are alike; orders and atoms are improved in turn. Where blocks reach over the end of a gate (block
    does not divide H), only their common divisor is clustered.
    """
    size, gates = rnn.hidden_size, GATES[rnn.mode]
    together = block if size % block == 0 else math.gcd(size, block)
    orders = {state: torch.arange(size) for state in states_of(rnn)}
    groups, states = groups_of(rnn), list(orders)
    free = states if last else states[: -2 if rnn.bidirectional else -1]
    atoms = [_span(matrix, width) for matrix, (width, _) in zip(matrices, sizes, strict=True)]
    for turn in range(ALTERNATIONS if together > 1 and free else 0):
        grids: dict[str, list[Tensor]] = {state: [] for state in states}
        for at, (group, matrix, (width, nonzeros)) in enumerate(zip(groups, matrices, sizes, strict=True)):
            columns = _columns(group, orders, gates)
            alike = block if turn else 1  # blocks of the given order would only confirm it
            if width is not None:
                atoms[at] = annealing.turn(matrix[:, columns], atoms[at], nonzeros // 2, rounds=ROUNDS, block=alike)
            energies = (atoms[at].T @ matrix).square()
            price = _price(energies[:, columns], nonzeros, block)
            for member, part in zip(group.members, (energies - price).chunk(len(group.members), dim=1), strict=True):
                state = member.weight.split("_", 2)[2]
                grids[state].append(part.unflatten(1, (gates, size)).permute(2, 1, 0).flatten(1))
        for state in free:
            orders[state] = clustering.cluster(torch.cat(grids[state], dim=1), together, orders[state])
    return list(orders.values())


def _span(matrix: Tensor, atoms: int | None) -> Tensor:
    """The leading left singular vectors (N, p); without a dictionary the unit vectors."""
    return torch.eye(len(matrix)) if atoms is None else svd.principal(matrix)[0][:, :atoms]


def _columns(group: Group, orders: dict[str, Tensor], gates: int) -> Tensor:
    """Where the columns of a group come from once the units that write them are in `orders`."""
    parts, start = [], 0
    for member in group.members:
        order = orders[member.weight.split("_", 2)[2]]
        for _ in range(gates):
            parts.append(start + order)
            start += len(order)
    return torch.cat(parts)


def _price(energies: Tensor, nonzeros: int, block: int) -> float:
    """What a code must be worth on average in a block that is kept, `nonzeros` codes being kept in all."""
    sizes = blocks.norms(energies.sqrt(), block).square().flatten()
    kept = min(max(nonzeros // block, 1), len(sizes))
    return float(sizes.kthvalue(len(sizes) - kept + 1).values) / block
