"""The acoustic model as a streaming program: a chunk of MFCC frames and the states in, logits and the states out.

Per chunk of T outputs the program reads `T * stride + 2 * context` raw MFCC frames: the T * stride new ones between
`context` frames on either side, so a runner keeps the last 2 * context frames of one call for the next. CMVN is inside;
beyond the ends of an utterance the caller puts the CMVN mean, which is the model's zero padding exactly.
States are two tensors per layer, zero at the start: `u` (1, p), what the recurrent codes read (D^T h, or h where there
is no dictionary), and `memory` (1, N), c of an LSTM, else h. A runner feeds them back and need not know more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dirnet.deploy.ops import CELLS
from dirnet.deploy.packing import pack, read_size, stored_matrix
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.coding import CodedLayer
from dirnet.nn.grouping import GATES, gather, groups_of


def coded_groups(rnn: nn.RNNBase) -> list[CodedMatrix]:
    """The matrices of `rnn` in the order of `groups_of`; a dense layer's W^T stands as dense codes."""
    if isinstance(rnn, CodedLayer):
        return list(rnn.groups)
    weights = {name: weight.detach() for name, weight in rnn.named_parameters()}
    matrices = []
    for group in groups_of(rnn):
        matrix = CodedMatrix(group.rows, group.columns)
        matrix.codes.data = gather(weights, group).contiguous()
        matrices.append(matrix)
    return matrices


@dataclass(frozen=True)
class Part:
    """Columns `start:stop` of a coded matrix, those of one consumer; `dictionary`: whether D^T x is still to be had."""

    group: CodedMatrix
    start: int
    stop: int
    bias: Tensor | None
    dictionary: bool


class StreamingModel(nn.Module):
    """What both engines share: `forward(features, *states) -> (logits (T, outputs), *states)`.

    Subclasses say how windows are made and how a layer runs. A bidirectional model is a `UserError`.
    """

    backend: str

    def __init__(self, model: AcousticModel):
        super().__init__()
        rnn, config = model.rnn, model.config
        if rnn.bidirectional:
            raise UserError(f"model {config.name} is bidirectional and cannot stream; train with bidirectional: false")
        self.context, self.stride, self.cell = config.context, config.frame_stride, CELLS.index(config.rnn_type)
        self.mean, self.istd = nn.Buffer(model.cmvn_mean.clone()), nn.Buffer(model.cmvn_istd.clone())
        groups, width = self.groups(rnn), GATES[rnn.mode] * rnn.hidden_size
        names = dict(rnn.named_parameters())
        own = groups_of(rnn)[0].name == "input"  # else a single layer's W_x stands beside its W_h
        hidden = groups[1:] if own else groups
        layers, self.state_sizes = [], []
        for layer in range(rnn.num_layers):
            first = layer == 0
            span = (0, width) if first and own else (width, 2 * width)
            inputs = Part(groups[layer], *span, names.get(f"bias_ih_l{layer}"), first)
            recurrent = Part(hidden[layer], 0, width, names.get(f"bias_hh_l{layer}"), True)
            # The next layer's codes read the same D^T h as the recurrent ones: it is computed once.
            coded = hidden[layer].dictionary is not None and layer < rnn.num_layers - 1
            layers.append(self.layer(inputs, recurrent, coded))
            self.state_sizes += [self.read_size(hidden[layer]), rnn.hidden_size]
        self.layers = nn.ModuleList(layers)
        self.weight, self.bias = (nn.Buffer(tensor.detach().clone()) for tensor in model.output.parameters())
        self.requires_grad_(False).eval()

    def groups(self, rnn: nn.RNNBase) -> list[CodedMatrix]:
        """The matrices of `rnn` as this engine takes them."""
        return coded_groups(rnn)

    def read_size(self, group: CodedMatrix) -> int:
        """How many values the codes of `group` read."""
        return group.code_rows

    def windows(self, features: Tensor) -> Tensor:
        """Normalised, spliced, strided: (T, (2 context + 1) size)."""
        raise NotImplementedError

    def layer(self, inputs: Part, recurrent: Part, coded: bool) -> nn.Module:
        """A module that maps x, u, memory to y (T, p if coded else N), u, memory."""
        raise NotImplementedError

    def initial_states(self) -> list[Tensor]:
        """Zeros, two tensors per layer."""
        return [torch.zeros(1, size) for size in self.state_sizes]

    def forward(self, features: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        x, new = self.windows(features), []
        for number, layer in enumerate(self.layers):
            x, *state = layer(x, states[2 * number], states[2 * number + 1])
            new += state
        return functional.linear(x, self.weight, self.bias), *new


class KernelLayer(nn.Module):
    """A layer as one call of our operator; all that it keeps is one block of bytes."""

    def __init__(self, inputs: Part, recurrent: Part, cell: int, coded: bool):
        super().__init__()
        stored = [stored_matrix(p.group, p.start, p.stop, p.bias, p.dictionary) for p in (inputs, recurrent)]
        self.weights, self.cell, self.coded = nn.Buffer(pack(*stored)), cell, coded

    def forward(self, x: Tensor, u: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        return torch.ops.dirnet.rnn_layer(x, u, memory, self.weights, self.cell, self.coded)


class KernelModel(StreamingModel):
    """The program of `dirnet::*` operators: any T up to the exported bound; XNNPACK runs the output layer."""

    backend = "dirnet"

    def read_size(self, group):
        return read_size(group)

    def windows(self, features):
        return torch.ops.dirnet.splice(features, self.mean, self.istd, self.context, self.stride)

    def layer(self, inputs, recurrent, coded):
        return KernelLayer(inputs, recurrent, self.cell, coded)


class StockMatrix(nn.Module):
    """A `Part` as torch linear layers; sparse codes are stored with their zeros, int8 as the floats it stands for."""

    def __init__(self, part: Part):
        super().__init__()
        group, own = part.group, part.dictionary and part.group.dictionary is not None
        self.dictionary = nn.Buffer(group.dictionary_values().detach().t().contiguous()) if own else None
        self.codes = nn.Buffer(group.code_matrix().detach()[:, part.start : part.stop].t().contiguous())
        self.bias = None if part.bias is None else nn.Buffer(part.bias.detach().clone())

    def read(self, h: Tensor) -> Tensor:
        """D^T h, what the codes read."""
        return h if self.dictionary is None else functional.linear(h, self.dictionary)

    def write(self, u: Tensor) -> Tensor:
        """Z^T u + bias."""
        return functional.linear(u, self.codes, self.bias)


class StockLayer(nn.Module):
    """A layer of stock operators, unrolled over its frames."""

    def __init__(self, inputs: Part, recurrent: Part, cell: int, coded: bool, frames: int):
        super().__init__()
        self.inputs, self.recurrent = StockMatrix(inputs), StockMatrix(recurrent)
        self.cell, self.coded, self.frames = CELLS[cell], coded, frames

    def forward(self, x: Tensor, u: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        gates, outputs = self.inputs.write(self.inputs.read(x)), []
        for t in range(self.frames):
            x, r = gates[t : t + 1], self.recurrent.write(u)
            if self.cell == "lstm":
                i, f, g, o = _gates(x + r, 4)
                memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
                h = o.sigmoid() * memory.tanh()
            elif self.cell == "gru":
                (xr, xz, xn), (rr, rz, rn) = _gates(x, 3), _gates(r, 3)
                candidate = (xn + (xr + rr).sigmoid() * rn).tanh()
                h = memory = candidate + (xz + rz).sigmoid() * (memory - candidate)
            else:
                h = memory = (x + r).tanh()
            u = self.recurrent.read(h)
            outputs.append(u if self.coded else h)
        return _rows(outputs), u, memory


class StockModel(StreamingModel):
    """The program of stock operators for XNNPACK: `frames` outputs per call, unrolled.

    Stock operators know no shifts: every shifted atom that is used becomes an atom.
    """

    backend = "xnnpack"

    def __init__(self, model: AcousticModel, frames: int):
        self.frames = frames
        super().__init__(model)

    def groups(self, rnn):
        return [group.unshifted() for group in coded_groups(rnn)]

    def windows(self, features):
        x, window = (features - self.mean) * self.istd, 2 * self.context + 1
        starts = range(0, self.frames * self.stride, self.stride)
        return _rows([x[start : start + window].reshape(1, -1) for start in starts])

    def layer(self, inputs, recurrent, coded):
        return StockLayer(inputs, recurrent, self.cell, coded, self.frames)


def _gates(x: Tensor, count: int) -> list[Tensor]:
    # Slices, not chunk: XNNPACK takes them, and the whole model is one delegate.
    size = x.shape[1] // count
    return [x[:, start : start + size] for start in range(0, x.shape[1], size)]


def _rows(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)
