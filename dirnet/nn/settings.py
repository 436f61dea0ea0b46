"""A compressed layer as a few plain values, and from these an empty one in the place of a dense layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dirnet.config import from_mapping
from dirnet.errors import UserError
from dirnet.nn.cells import as_layer, in_place_of
from dirnet.nn.coding import CodedLayer, Coding
from dirnet.nn.recurrent import coded_class, refuse_projection


@dataclass(frozen=True)
class LayerSettings(Coding):
    """What a compressed layer has beyond the shape of the dense one; see `DirNetRecurrent`."""

    layout: tuple


def settings_of(layer: CodedLayer) -> dict[str, Any]:
    """JSON values; those at their defaults are left out."""
    values = {name: value for name, value in asdict(layer.coding).items() if value != getattr(Coding, name)}
    return {"layout": layer.layout, **values}


def empty_layer(dense: nn.RNNBase | nn.RNNCellBase, settings: dict[str, Any], where: str) -> nn.Module:
    """A compressed layer or cell of the shape of `dense` and of `settings`, with random values, frozen where it is.

    where: names the settings in errors. A layout that does not fit, an unknown setting are `UserError`s.
    """
    rnn = as_layer(dense) if isinstance(dense, nn.RNNCellBase) else dense
    refuse_projection(rnn)
    wanted = from_mapping(LayerSettings, settings, where)
    extra = {"nonlinearity": rnn.nonlinearity} if "RNN" in rnn.mode else {}
    try:
        layer = coded_class(rnn)(
            rnn.input_size, rnn.hidden_size, rnn.num_layers, bias=rnn.bias, batch_first=rnn.batch_first,
            dropout=rnn.dropout, bidirectional=rnn.bidirectional, **extra, **asdict(wanted),
        )  # fmt: skip
    except UserError as error:
        raise UserError(f"{where}: {error}; give a dense layer of the shape that was compressed") from None
    layer.freeze_like(rnn)
    return in_place_of(rnn, layer).train(dense.training)


def scatter_support(layer: CodedLayer) -> None:
    """Draw the places of the kept codes from torch's generator, as many in every column of Z as in any other.

    A layer built from settings has them evenly spread over the rows of Z, where many columns may get none.
    """
    for matrix in layer.groups:
        if matrix.index is None:
            continue
        width = matrix.columns // matrix.block
        turns = torch.rand(matrix.code_rows, width).argsort(0).argsort(0)  # of each column: who is kept first, next
        order = (turns + torch.rand(width)).flatten().argsort()
        matrix.index.copy_(order[: len(matrix.index)].sort().values)
