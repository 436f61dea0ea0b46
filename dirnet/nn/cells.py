"""DirNetLSTMCell, DirNetGRUCell, DirNetRNNCell: drop-in replacements for torch's one-step cells."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from dirnet.errors import UserError
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.coding import CodedLayer
from dirnet.nn.grouping import groups_of
from dirnet.nn.recurrent import DirNetGRU, DirNetLSTM, DirNetRecurrent, DirNetRNN, Layout
from dirnet.nn.sequence import Sequences


class DirNetCell(CodedLayer, nn.RNNCellBase):
    """What the three cells share. Arguments as of the torch cell, and those of `DirNetRecurrent`.

    Parameters: `groups.{i}.dictionary`, `groups.{i}.codes`, `bias_ih`, `bias_hh`; buffers as there. A step computes
    `(x D) Z` and builds no `W`: for the few rows that a decoder's step has, that is less work. `Z` is built once a
    sequence, see `Sequences`.
    """

    dense_class: type[nn.RNNCellBase]
    layer_class: type[DirNetRecurrent]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        layout: Layout,
        bias: bool = True,
        nonlinearity: str = "tanh",
        **coding: Any,
    ):
        nn.Module.__init__(self)  # RNNCellBase.__init__ would allocate the dense weights
        settings = {"layout": layout, "bias": bias, "nonlinearity": nonlinearity, **coding}
        self._take(self.layer_class(input_size, hidden_size, **settings))

    @classmethod
    def from_layer(cls, layer: DirNetRecurrent) -> DirNetCell:
        """The cell that takes over the matrices and biases of a coded layer of one direction."""
        cell = cls.__new__(cls)
        nn.Module.__init__(cell)
        cell._take(layer)
        return cell.train(layer.training)

    def _take(self, layer: DirNetRecurrent) -> None:
        self.input_size, self.hidden_size, self.bias = layer.input_size, layer.hidden_size, layer.bias
        self.coding = layer.coding
        if hasattr(layer, "nonlinearity"):
            self.nonlinearity = layer.nonlinearity
        self._reads = tuple(  # of the input or of the state, by which matrix, which of its columns
            (member.weight.startswith("weight_ih"), at, number * group.columns // len(group.members))
            for at, group in enumerate(groups_of(layer))
            for number, member in enumerate(group.members)
        )
        self.groups = layer.groups
        self.bias_ih = layer.bias_ih_l0 if layer.bias else None
        self.bias_hh = layer.bias_hh_l0 if layer.bias else None
        self._sequences = Sequences()

    def reset_parameters(self) -> None:
        """Random values of the torch cells' scale, the support of the codes as it is."""
        bound = self.hidden_size**-0.5
        for group in self.groups:
            group.reset_parameters(bound)
        for bias in (self.bias_ih, self.bias_hh):
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    def forward(self, input: Tensor, hx=None):
        """As the torch cell: input (B, N) or (N,), optional state (B, H) or (H,), for an LSTM a pair of them.

        Other shapes are a ValueError, as of the torch cell.
        """
        _check_shape("input", input, (*input.shape[:-1], self.input_size) if input.dim() in (1, 2) else None)
        if hx is not None:
            is_pair = isinstance(hx, tuple | list)
            if is_pair != (self.dense_class is nn.LSTMCell):
                raise TypeError(f"{type(self).__name__}: state is a {type(hx).__name__}, expected "
                                f"{'a tensor' if is_pair else 'a pair of tensors'}")  # fmt: skip
            for state in hx if is_pair else (hx,):
                _check_shape("state", state, (*input.shape[:-1], self.hidden_size))
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = (zeros, zeros) if self.dense_class is nn.LSTMCell else zeros
        factors = self._sequences.factors_before(_hidden(hx), self.groups) or self._factors()
        after = self._step(*self._gates(factors, input, _hidden(hx)), hx)
        self._sequences.keep(_hidden(after), self.groups, factors)
        return after

    def _factors(self) -> list[list[Tensor]]:
        """What the input, then what the hidden state is multiplied by to give the gates: `[D, Z]`, `[Z]` or `[W]`."""
        width = self.groups[0].columns * len(self.groups) // len(self._reads)  # G H
        whole = [_chain(matrix) for matrix in self.groups]
        of = {of_input: (whole[at], start) for of_input, at, start in self._reads}
        return [[*first, last[:, start : start + width]] for (*first, last), start in (of[True], of[False])]

    def _gates(self, factors: list[list[Tensor]], input: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the input and the hidden state give to the gates, (..., G H) each."""
        from_input, from_hidden = (
            functools.reduce(torch.matmul, matrices, vector)
            for matrices, vector in zip(factors, (input, hidden), strict=True)
        )
        if self.bias:
            from_input, from_hidden = from_input + self.bias_ih, from_hidden + self.bias_hh
        return from_input, from_hidden

    def _step(self, from_input: Tensor, from_hidden: Tensor, hx):
        raise NotImplementedError


def _check_shape(name: str, values: Tensor, expected: tuple[int, ...] | None) -> None:
    if tuple(values.shape) != expected:
        wanted = "one or two dimensions" if expected is None else f"{expected}"
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected {wanted}")


def _hidden(state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return state if isinstance(state, Tensor) else state[0]


def _chain(matrix: CodedMatrix) -> list[Tensor]:
    """What a vector is multiplied by, one after the other."""
    if matrix.dictionary is None or matrix.offsets is not None:
        return [matrix.matrix()]
    return [matrix.dictionary_values(), matrix.code_matrix()]


class DirNetLSTMCell(DirNetCell, nn.LSTMCell):
    """`torch.nn.LSTMCell`, its weights kept as `D Z`."""

    dense_class, layer_class = nn.LSTMCell, DirNetLSTM

    def _step(self, from_input: Tensor, from_hidden: Tensor, hx) -> tuple[Tensor, Tensor]:
        take, forget, cell, give = (from_input + from_hidden).chunk(4, dim=-1)
        state = forget.sigmoid() * hx[1] + take.sigmoid() * cell.tanh()
        return give.sigmoid() * state.tanh(), state


class DirNetGRUCell(DirNetCell, nn.GRUCell):
    """`torch.nn.GRUCell`, its weights kept as `D Z`."""

    dense_class, layer_class = nn.GRUCell, DirNetGRU

    def _step(self, from_input: Tensor, from_hidden: Tensor, hx) -> Tensor:
        (reset, update, new), (reset_h, update_h, new_h) = from_input.chunk(3, dim=-1), from_hidden.chunk(3, dim=-1)
        new = (new + (reset + reset_h).sigmoid() * new_h).tanh()
        update = (update + update_h).sigmoid()
        return new + update * (hx - new)


class DirNetRNNCell(DirNetCell, nn.RNNCell):
    """`torch.nn.RNNCell`, its weights kept as `D Z`."""

    dense_class, layer_class = nn.RNNCell, DirNetRNN

    def _step(self, from_input: Tensor, from_hidden: Tensor, hx) -> Tensor:
        gates = from_input + from_hidden
        return gates.relu() if self.nonlinearity == "relu" else gates.tanh()


CELLS: dict[type[nn.RNNCellBase], type[DirNetCell]] = {
    cell.dense_class: cell for cell in (DirNetLSTMCell, DirNetGRUCell, DirNetRNNCell)
}


def as_layer(cell: nn.RNNCellBase) -> nn.RNNBase:
    """A one-layer torch RNN with the parameters of the torch `cell` itself, not copies: changes reach the cell.

    `origin` gives the cell back. A cell of another kind is a `UserError`.
    """
    kinds = [(dense, coded) for dense, coded in CELLS.items() if isinstance(cell, dense)]
    if not kinds:
        raise UserError(f"{type(cell).__name__} is not an LSTMCell, GRUCell or RNNCell; nothing here can compress it")
    extra = {"nonlinearity": cell.nonlinearity} if kinds[0][0] is nn.RNNCell else {}
    with torch.device("meta"):
        layer = kinds[0][1].layer_class.dense_class(cell.input_size, cell.hidden_size, bias=cell.bias, **extra)
    for name, parameter in cell.named_parameters(recurse=False):
        setattr(layer, f"{name}_l0", parameter)
    layer.__dict__["cell"] = cell  # not a child of the layer
    return layer.train(cell.training)


def origin(rnn: nn.RNNBase) -> nn.Module:
    """The cell that `as_layer` made `rnn` of, else `rnn`."""
    return rnn.__dict__.get("cell", rnn)


def in_place_of(rnn: nn.RNNBase, layer: DirNetRecurrent) -> DirNetRecurrent | DirNetCell:
    """What takes the place of `origin(rnn)` if `layer` is to take that of `rnn`: a cell for a cell."""
    cell = origin(rnn)
    if cell is rnn:
        return layer
    return next(coded for dense, coded in CELLS.items() if isinstance(cell, dense)).from_layer(layer)
