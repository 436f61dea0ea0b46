"""DirNetLSTM, DirNetGRU, DirNetRNN: drop-in replacements for the torch layers, stored as dictionaries and codes."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dirnet.errors import UserError
from dirnet.factorization.shift import IDENTITY
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.coding import CodedLayer, Coding
from dirnet.nn.grouping import Group, groups_of, scatter

if TYPE_CHECKING:
    from dirnet.factorization import Factors

Layout = Sequence[Sequence["int | None"]]


class DirNetRecurrent(CodedLayer, nn.RNNBase):
    """What the three layers share. Arguments as of the torch layer, and

    layout: `[atoms | None, blocks | None]` of every group, in the order of `groups_of` (input, then hidden states)
    coding: the fields of `Coding`: block, dtype, shifts, shift_kind, input_group

    Parameters: `groups.{i}.dictionary`, `groups.{i}.codes` and torch's `bias_*`; buffers `groups.{i}.index` and, with
    shifts, `.offsets`. Subclasses of the torch layers, so `isinstance` tests of an owner hold. `weight_*` are no
    parameters: each is built when it is asked for, so that an owner may read its shape, device or values.
    """

    dense_class: type[nn.RNNBase]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        layout: Layout,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        nonlinearity: str = "tanh",
        **coding: Any,
    ):
        nn.Module.__init__(self)  # RNNBase.__init__ would allocate the dense weights
        self.mode = self._mode(nonlinearity)
        if self.mode.startswith("RNN"):
            self.nonlinearity = nonlinearity
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout, self.proj_size, self.coding = float(dropout), 0, Coding(**coding)
        shifts, shapes = self.shifts, groups_of(self)
        if len(layout) != len(shapes):
            names = ", ".join(group.name for group in shapes)
            raise UserError(f"layout has {len(layout)} groups, expected {len(shapes)}: {names}")
        self.groups = nn.ModuleList(
            CodedMatrix(group.rows, group.columns, atoms, blocks, self.block, self.dtype, shifts)
            for group, (atoms, blocks) in zip(shapes, layout, strict=True)
        )
        self._count_vectors(shapes)
        gate_rows = shapes[0].columns // len(shapes[0].members)
        for name in self._weight_names():
            if name.startswith("bias"):
                self.register_parameter(name, nn.Parameter(torch.empty(gate_rows)))
        self.reset_parameters()

    @classmethod
    def from_dense(cls, dense: nn.RNNBase, factors: Sequence[Factors], **coding: Any) -> DirNetRecurrent:
        """The layer that replaces `dense`; one `Factors` per group of `groups_of(dense, input_group)`.

        coding: the fields of `Coding`, but for the shifts, which the factors have. Biases are copied. What was frozen
        (`requires_grad` false) stays so, a group if all of its weights were.
        """
        refuse_projection(dense)
        sets = {factor.shifts for factor in factors if factor.dictionary is not None}
        if len(sets) > 1:
            raise UserError(f"factors have several sets of shifts, expected one for the layer: {sets}")
        shifts = sets.pop() if sets else IDENTITY
        how = Coding(shifts=shifts.reach, shift_kind=shifts.kind, **coding)
        coded = [CodedMatrix.from_factors(factor, how.block, how.dtype) for factor in factors]
        groups = groups_of(dense, how.input_group)
        shapes = [(group.rows, group.columns) for group in groups]
        if [(matrix.rows, matrix.columns) for matrix in coded] != shapes:
            found = [(matrix.rows, matrix.columns) for matrix in coded]
            raise UserError(f"factors have shapes {found}, expected {shapes} of this layer's groups")
        layer = cls(
            dense.input_size, dense.hidden_size, dense.num_layers, layout=[matrix.layout for matrix in coded],
            bias=dense.bias, batch_first=dense.batch_first, dropout=dense.dropout, bidirectional=dense.bidirectional,
            nonlinearity=getattr(dense, "nonlinearity", "tanh"), **asdict(how),
        )  # fmt: skip
        layer.groups = nn.ModuleList(coded)
        layer._count_vectors(groups)
        with torch.no_grad():
            for name in layer._weight_names():
                if name.startswith("bias"):
                    getattr(layer, name).copy_(getattr(dense, name))
        layer.freeze_like(dense)
        first = dense.weight_ih_l0
        return layer.to(first.device, first.dtype).train(dense.training)

    def freeze_like(self, dense: nn.RNNBase) -> None:
        """Freeze what is frozen (`requires_grad` false) in `dense`: biases, and groups if all of their weights are."""
        for name in self._weight_names():
            if name.startswith("bias"):
                getattr(self, name).requires_grad_(getattr(dense, name).requires_grad)
        for matrix, group in zip(self.groups, groups_of(dense, self.coding.input_group), strict=True):
            matrix.requires_grad_(any(getattr(dense, member.weight).requires_grad for member in group.members))

    def _count_vectors(self, groups: Sequence[Group]) -> None:
        for matrix, group in zip(self.groups, groups, strict=True):
            matrix.vectors = group.vectors

    def dense_weights(self) -> dict[str, Tensor]:
        """torch's `weight_*` and `bias_*` by name, in torch's order; gradients reach D and Z."""
        with uncast(self.groups[0].codes.device):  # torch's layers cast weights themselves
            weights = scatter(groups_of(self), [group.matrix() for group in self.groups])
        return {name: weights[name] if name in weights else getattr(self, name) for name in self._weight_names()}

    def to_dense(self) -> nn.RNNBase:
        """The torch layer with the same outputs: a detached copy."""
        extra = {"nonlinearity": self.nonlinearity} if self.mode.startswith("RNN") else {}
        dense = self.dense_class(
            self.input_size, self.hidden_size, self.num_layers, bias=self.bias, batch_first=self.batch_first,
            dropout=self.dropout, bidirectional=self.bidirectional, **extra,
        )  # fmt: skip
        weights = {name: weight.detach() for name, weight in self.dense_weights().items()}
        first = next(iter(weights.values()))
        dense.to(first.device, first.dtype).load_state_dict(weights)
        return dense.train(self.training)

    def forward(self, input, hx=None):
        """As the torch layer: padded, packed or unbatched input, optional states.

        `W = D Z` is built once per call and lent to a torch layer that lives for this call only, so torch's own
        checks, packing and kernels apply, and threads may share the module.
        """
        weights = list(self.dense_weights().values())
        layer = self.dense_class.__new__(self.dense_class)
        nn.Module.__init__(layer)
        settings = {name: value for name, value in self.__dict__.items() if name not in layer.__dict__}
        layer.__dict__.update(settings, training=self.training, _flat_weights=weights, _update_flat_weights=_nothing)
        with quiet_cudnn() if weights[0].is_cuda else contextlib.nullcontext():
            return self.dense_class.forward(layer, input, hx)

    def reset_parameters(self) -> None:
        """Random values of the torch layers' scale, the support of the codes as it is."""
        bound = 1 / math.sqrt(self.hidden_size)
        for group in self.groups:
            group.reset_parameters(bound)
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith("bias"):
                nn.init.uniform_(parameter, -bound, bound)

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """As of the torch layer: weights and biases per layer and direction, built on the spot."""
        weights = list(self.dense_weights().values())
        step = 4 if self.bias else 2
        return [weights[start : start + step] for start in range(0, len(weights), step)]

    @property
    def _flat_weights(self) -> list[Tensor]:
        return list(self.dense_weights().values())

    def _weight_names(self) -> list[str]:
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if self.bias else ("weight_ih", "weight_hh")
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [f"{k}_l{layer}{d}" for layer in range(self.num_layers) for d in directions for k in kinds]

    @classmethod
    def _mode(cls, nonlinearity: str) -> str:
        if cls.dense_class is not nn.RNN:
            return cls.dense_class.__name__
        if nonlinearity not in ("tanh", "relu"):
            raise UserError(f"nonlinearity {nonlinearity!r} is unknown; use tanh or relu")
        return f"RNN_{nonlinearity.upper()}"

    def __getattr__(self, name: str):
        built = name.startswith("weight_") and "groups" in self.__dict__.get("_modules", {})
        if built and name in self._weight_names():
            return self.dense_weights()[name]
        return super().__getattr__(name)

    # RNNBase caches references to dense weights in these; here there are none to keep.
    def flatten_parameters(self) -> None:
        """Nothing to flatten: the dense weights live for one call."""

    def _init_flat_weights(self) -> None:
        """Nothing to cache."""

    def _update_flat_weights(self) -> None:
        """Nothing to cache."""

    def _apply(self, fn, recurse=True):
        return nn.Module._apply(self, fn, recurse)

    def _replicate_for_data_parallel(self):
        return nn.Module._replicate_for_data_parallel(self)

    def __setattr__(self, name, value) -> None:
        nn.Module.__setattr__(self, name, value)

    def __getstate__(self):
        return self.__dict__.copy()

    def __setstate__(self, state) -> None:
        nn.Module.__setstate__(self, state)


class DirNetLSTM(DirNetRecurrent, nn.LSTM):
    """`torch.nn.LSTM` without projections, its weights kept as `D Z`."""

    dense_class = nn.LSTM


class DirNetGRU(DirNetRecurrent, nn.GRU):
    """`torch.nn.GRU`, its weights kept as `D Z`."""

    dense_class = nn.GRU


class DirNetRNN(DirNetRecurrent, nn.RNN):
    """`torch.nn.RNN`, its weights kept as `D Z`."""

    dense_class = nn.RNN


RNN_TYPES: dict[str, tuple[type[nn.RNNBase], type[DirNetRecurrent]]] = {
    "lstm": (nn.LSTM, DirNetLSTM),
    "gru": (nn.GRU, DirNetGRU),
    "rnn": (nn.RNN, DirNetRNN),
}


def coded_class(dense: nn.RNNBase) -> type[DirNetRecurrent]:
    """The DirNet class that replaces the torch layer `dense`."""
    for torch_class, dirnet_class in RNN_TYPES.values():
        if isinstance(dense, torch_class):
            return dirnet_class
    raise UserError(f"{type(dense).__name__} is not an nn.LSTM, nn.GRU or nn.RNN; nothing here can compress it")


def refuse_projection(dense: nn.RNNBase, where: str = "LSTM") -> None:
    """A `UserError` for an LSTM with projections, at `where`: its hidden state is already low-rank."""
    if dense.proj_size:
        raise UserError(f"{where} has proj_size {dense.proj_size}, expected 0; train it without projections")


def uncast(device: torch.device) -> contextlib.AbstractContextManager:
    """What is computed inside on `device` keeps its dtype, under autocast, too."""
    # There is none on `meta`. Not by `is_autocast_available`, which torch.compile cannot trace.
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _nothing() -> None:
    pass


@contextlib.contextmanager
def quiet_cudnn():
    """Mute cuDNN's remark that weights built per call are not one chunk of memory: it copies them, as it must."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
        yield
