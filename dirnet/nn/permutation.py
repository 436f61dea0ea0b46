"""Hidden units of a torch RNN in another order: another matrix for the compressor, the same function."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.grouping import GATES


def states_of(rnn: nn.RNNBase) -> list[str]:
    """`l0`, `l0_reverse`, `l1` ...: the hidden states in the order of torch's `h_n`, as the weights' names end."""
    directions = ("", "_reverse") if rnn.bidirectional else ("",)
    return [f"l{layer}{direction}" for layer in range(rnn.num_layers) for direction in directions]


def permute_units(rnn: nn.RNNBase, orders: Sequence[Tensor]) -> None:
    """Put the hidden units of every layer and direction into `orders`, in place: new unit i is the old `orders[.][i]`.

    orders: one permutation (H,) per state, in the order of `h_n`. What the stack computes stays the same but for the
    order of its output, which is that of the last layer, and of its states (see `permute_states`). Gradients are not
    carried over. Something that is no permutation of the units is a `UserError`.
    """
    states = states_of(rnn)
    _check(orders, len(states), rnn.hidden_size)
    size, gates = rnn.hidden_size, GATES[rnn.mode]
    directions = len(states) // rnn.num_layers
    with torch.no_grad():
        for at, (state, order) in enumerate(zip(states, orders, strict=True)):
            order = order.to(rnn.weight_ih_l0.device)
            rows = torch.cat([gate * size + order for gate in range(gates)])
            reads = [getattr(rnn, f"weight_hh_{state}")]
            for weight in (f"weight_ih_{state}", f"weight_hh_{state}", f"bias_ih_{state}", f"bias_hh_{state}"):
                if rnn.bias or weight.startswith("weight"):
                    getattr(rnn, weight).copy_(getattr(rnn, weight)[rows])
            start = at % directions * size
            above = states[(at // directions + 1) * directions :][:directions]
            reads += [getattr(rnn, f"weight_ih_{consumer}")[:, start : start + size] for consumer in above]
            for weight in reads:
                weight.copy_(weight[:, order])


def permute_states(states, orders: Sequence[Tensor]):
    """States `h`, or `(h, c)`, (states, [B,] H), for the stack after `permute_units`; `inverse` orders lead back."""
    if isinstance(states, tuple):
        return tuple(permute_states(part, orders) for part in states)
    _check(orders, len(states), states.shape[-1])
    return torch.stack([state[..., order.to(state.device)] for state, order in zip(states, orders, strict=True)])


def inverse(orders: Sequence[Tensor]) -> list[Tensor]:
    """The orders that undo `orders`."""
    return [order.argsort() for order in orders]


def permute_acoustic_model(model: AcousticModel, orders: Sequence[Tensor]) -> None:
    """`permute_units` of its RNN, in place, and the columns of `output` with the last layer: the same posteriors."""
    permute_units(model.rnn, orders)
    directions = 2 if model.rnn.bidirectional else 1
    size = model.rnn.hidden_size
    columns = torch.cat([position * size + order for position, order in enumerate(orders[-directions:])])
    with torch.no_grad():
        weight = model.output.weight
        weight.copy_(weight[:, columns.to(weight.device)])


def in_order(model: nn.Module, orders: Mapping[str, Sequence[Sequence[int]]]) -> nn.Module:
    """`model`, or a copy whose hidden units are in the `unit_orders` that a report of compression tells, by RNN."""
    if not orders:
        return model
    model = copy.deepcopy(model)
    for name, states in orders.items():
        moved, layer = [torch.tensor(order) for order in states], dict(model.named_modules()).get(name)
        if layer is None:
            raise UserError(f"unit_orders tells of {name}, which the model has not; give those of its own report")
        if isinstance(model, AcousticModel):
            permute_acoustic_model(model, moved)
        elif isinstance(layer, nn.RNNBase):  # units of a cell stay
            permute_units(layer, moved)
    return model


def _check(orders: Sequence[Tensor], states: int, size: int) -> None:
    if len(orders) != states:
        raise UserError(f"{len(orders)} orders are given, expected one for each of {states} hidden states")
    for number, order in enumerate(orders):
        if order.shape != (size,) or not torch.equal(order.cpu().sort().values, torch.arange(size)):
            raise UserError(f"order {number} is no permutation of the {size} units; give each of them once")
