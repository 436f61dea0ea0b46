"""Which weight matrices of a torch RNN read the same vector: the groups that share a dictionary (Eqs. 5-8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dirnet.errors import UserError

INPUT_GROUPS = ("own", "shared")
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


@dataclass(frozen=True)
class Member:
    """Columns `start:stop` of the torch weight `weight`, transposed: the next G*H columns of its group."""

    weight: str
    start: int
    stop: int


@dataclass(frozen=True)
class Group:
    """Matrices that read the vector of size `rows` called `name`; their matrix is (rows, columns).

    vectors: how many vectors are read per step, above 1 only where a single layer shares D with its input.
    """

    name: str
    rows: int
    columns: int
    members: tuple[Member, ...]
    vectors: int = 1


def groups_of(rnn: nn.RNNBase, input_group: str | None = None) -> list[Group]:
    """The input's group, then per layer and direction that of the hidden state: [W_hh_l^T | W_ih_{l+1}^T ...].

    A hidden state of a bidirectional stack is read by both directions of the layer above. The last hidden state is
    read by its own W_hh only: what else reads it (an output layer) is not part of the RNN.

    input_group: `own` as above, or `shared` for a single layer (Sec. 3.5): no group of the input, but [W_hh^T | W_ih^T]
    per direction; None for what `rnn` itself says, own for a torch layer. Sharing takes input_size = hidden_size, as
    the paper's T_{n,4n} has it: D (n, p) is read by either. Its other axis would not do: a D (4n, p) between codes and
    gates leaves nothing that is computed once for all codes. Another layer is a `UserError`.
    """
    if input_group is None:
        input_group = getattr(rnn, "input_group", "own")
    if input_group not in INPUT_GROUPS:
        raise UserError(f"input_group is {input_group!r}, expected one of {', '.join(INPUT_GROUPS)}")
    directions = ("", "_reverse") if rnn.bidirectional else ("",)
    size, gates = rnn.hidden_size, GATES[rnn.mode] * rnn.hidden_size

    def group(name: str, rows: int, members: list[Member]) -> Group:
        return Group(name, rows, gates * len(members), tuple(members))

    if input_group == "shared":
        _refuse_unshared(rnn)
        pairs = {d: (Member(f"weight_hh_l0{d}", 0, size), Member(f"weight_ih_l0{d}", 0, size)) for d in directions}
        return [Group(f"hidden_l0{d}", size, 2 * gates, members, 2) for d, members in pairs.items()]
    groups = [group("input", rnn.input_size, [Member(f"weight_ih_l0{d}", 0, rnn.input_size) for d in directions])]
    for layer in range(rnn.num_layers):
        for position, direction in enumerate(directions):
            members = [Member(f"weight_hh_l{layer}{direction}", 0, size)]
            if layer + 1 < rnn.num_layers:
                start = position * size
                members += [Member(f"weight_ih_l{layer + 1}{d}", start, start + size) for d in directions]
            groups.append(group(f"hidden_l{layer}{direction}", size, members))
    return groups


def can_share(rnn: nn.RNNBase) -> bool:
    """Whether `rnn` may have the input group `shared`: a single layer that reads as many inputs as it has units."""
    return rnn.num_layers == 1 and rnn.input_size == rnn.hidden_size


def _refuse_unshared(rnn: nn.RNNBase) -> None:
    if can_share(rnn):
        return
    wrong = "input_group 'shared' is for a single layer"
    if rnn.num_layers != 1:
        raise UserError(f"{wrong}, this one has {rnn.num_layers}: they share D from layer to layer; use own or dense")
    sizes = f"{rnn.input_size} inputs and {rnn.hidden_size} units"
    raise UserError(f"{wrong} that reads as many inputs as it has units, this one has {sizes}; use own or dense")


def gather(weights: dict[str, Tensor], group: Group) -> Tensor:
    """The (rows, columns) matrix of `group` from the torch weights by name."""
    return torch.cat([weights[m.weight][:, m.start : m.stop].t() for m in group.members], dim=1)


def scatter(groups: list[Group], matrices: list[Tensor]) -> dict[str, Tensor]:
    """The torch weights by name from the matrices of all groups: the inverse of `gather`."""
    pieces: dict[str, list[Tensor]] = {}
    for group, matrix in zip(groups, matrices, strict=True):
        width = group.columns // len(group.members)
        for member, piece in zip(group.members, matrix.split(width, dim=1), strict=True):
            pieces.setdefault(member.weight, []).append(piece.t())
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts, dim=1) for name, parts in pieces.items()}
