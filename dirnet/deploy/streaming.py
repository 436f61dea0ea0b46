"""The acoustic model as a streaming program: a chunk of MFCC frames and the states in, logits and the states out.

Per chunk of T outputs the program reads `T * stride + 2 * context` raw MFCC frames: the T * stride new ones between
`context` frames on either side, so a runner keeps the last 2 * context frames of one call for the next. CMVN is inside;
beyond the ends of an utterance the caller puts the CMVN mean, which is the model's zero padding exactly.
States are two tensors per layer, zero at the start: `u` (1, p), what the recurrent codes read (D^T h, or h where there
is no dictionary), and `memory` (1, N), c of an LSTM, else h. A runner feeds them back and need not know more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dirnet.deploy.ops import BLOCKS, CELLS, panels
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.grouping import GATES, gather, groups_of
from dirnet.nn.recurrent import DirNetRecurrent


def coded_groups(rnn: nn.RNNBase) -> list[CodedMatrix]:
    """The matrices of `rnn` in the order of `groups_of`; a dense layer's W^T stands as dense codes.

    The operators know no shifts: every shifted atom that is used becomes an atom, so a program is then larger than the
    stored model, and computes the same.
    """
    if isinstance(rnn, DirNetRecurrent):
        return [group.unshifted() for group in rnn.groups]
    weights = {name: weight.detach() for name, weight in rnn.named_parameters()}
    matrices = []
    for group in groups_of(rnn):
        matrix = CodedMatrix(group.rows, group.columns)
        matrix.codes.data = gather(weights, group).contiguous()
        matrices.append(matrix)
    return matrices


def unshifting_bytes(model: AcousticModel) -> int:
    """By how many bytes the matrices grow when shifted atoms are written out; 0 without shifts."""
    groups = list(model.rnn.groups) if isinstance(model.rnn, DirNetRecurrent) else []
    return sum(group.unshifted().stored_bytes() - group.stored_bytes() for group in groups)


class StreamingModel(nn.Module):
    """What both engines share: `forward(features, *states) -> (logits (T, outputs), *states)`.

    Subclasses say how windows are made, matrices applied and a layer runs. A bidirectional model is a `UserError`.
    """

    backend: str

    def __init__(self, model: AcousticModel):
        super().__init__()
        rnn, config = model.rnn, model.config
        if rnn.bidirectional:
            raise UserError(f"model {config.name} is bidirectional and cannot stream; train with bidirectional: false")
        self.context, self.stride, self.cell = config.context, config.frame_stride, CELLS.index(config.rnn_type)
        self.mean, self.istd = nn.Buffer(model.cmvn_mean.clone()), nn.Buffer(model.cmvn_istd.clone())
        groups, width = coded_groups(rnn), GATES[rnn.mode] * rnn.hidden_size
        names = dict(rnn.named_parameters())
        own = groups_of(rnn)[0].name == "input"  # else a single layer's W_x stands beside its W_h
        hidden = groups[1:] if own else groups
        self.coded = [group.dictionary is not None for group in hidden]
        inputs, recurrent = [], []
        for layer in range(rnn.num_layers):
            first = layer == 0
            source = groups[layer]
            span = (0, width) if first and own else (width, 2 * width)
            inputs.append(self.matrix(source, *span, names.get(f"bias_ih_l{layer}"), first))
            recurrent.append(self.matrix(hidden[layer], 0, width, names.get(f"bias_hh_l{layer}"), True))
        self.inputs, self.recurrent = nn.ModuleList(inputs), nn.ModuleList(recurrent)
        output = CodedMatrix(model.output.in_features, model.output.out_features)
        output.codes.data = model.output.weight.detach().t().contiguous()
        self.output = self.matrix(output, 0, output.columns, model.output.bias, False)
        self.state_sizes = [size for g in hidden for size in (g.code_rows, rnn.hidden_size)]
        self.requires_grad_(False).eval()

    def matrix(self, group: CodedMatrix, start: int, stop: int, bias: Tensor | None, dictionary: bool) -> nn.Module:
        """A module that maps (T, N) to (T, stop - start) by those columns of `group`, or (T, p) without dictionary."""
        raise NotImplementedError

    def windows(self, features: Tensor) -> Tensor:
        """Normalised, spliced, strided: (T, (2 context + 1) size)."""
        raise NotImplementedError

    def layer(self, matrix: nn.Module, gates: Tensor, u: Tensor, memory: Tensor, coded: bool) -> tuple[Tensor, ...]:
        """The recurrence of one layer: y (T, p if coded else N), u, memory."""
        raise NotImplementedError

    def initial_states(self) -> list[Tensor]:
        """Zeros, two tensors per layer."""
        return [torch.zeros(1, size) for size in self.state_sizes]

    def forward(self, features: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        x, last, new = self.windows(features), len(self.inputs) - 1, []
        for layer, (before, matrix) in enumerate(zip(self.inputs, self.recurrent, strict=True)):
            # The next layer's codes read the same D^T h as the recurrent ones: it is computed once, here.
            coded = self.coded[layer] and layer < last
            x, *state = self.layer(matrix, before(x), states[2 * layer], states[2 * layer + 1], coded)
            new += state
        return self.output(x), *new


class KernelMatrix(nn.Module):
    """Columns `start:stop` of a coded matrix, stored as our operators read it; `stored_bytes` counts what is kept."""

    def __init__(self, group: CodedMatrix, start: int, stop: int, bias: Tensor | None, dictionary: bool):
        super().__init__()
        has_dictionary = dictionary and group.dictionary is not None
        self.dictionary = nn.Buffer(panels(group.dictionary_values().detach())) if has_dictionary else None
        values, index, counts, self.block = stored_codes(group, start, stop)
        self.values = nn.Buffer(values)
        self.index = None if index is None else nn.Buffer(index)
        self.counts = None if counts is None else nn.Buffer(counts)
        self.bias = None if bias is None else nn.Buffer(bias.detach().clone())

    def operands(self) -> tuple:
        """The arguments that every operator takes of a matrix."""
        return self.dictionary, self.values, self.index, self.counts, self.bias, self.block

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.dirnet.project(x, *self.operands())


class KernelModel(StreamingModel):
    """The program of `dirnet::*` operators: any T up to the exported bound, nothing else needed to run it."""

    backend = "dirnet"

    def matrix(self, group, start, stop, bias, dictionary):
        return KernelMatrix(group, start, stop, bias, dictionary)

    def windows(self, features):
        return torch.ops.dirnet.splice(features, self.mean, self.istd, self.context, self.stride)

    def layer(self, matrix, gates, u, memory, coded):
        return torch.ops.dirnet.rnn_layer(gates, u, memory, *matrix.operands(), self.cell, coded)


def stored_codes(group: CodedMatrix, start: int, stop: int) -> tuple[Tensor, Tensor | None, Tensor | None, int]:
    """values, index, counts, block of columns `start:stop` of the codes of `group` (all gate columns of a consumer).

    A block that the kernels do not know, or that straddles two consumers, is cut into the widest that fits.
    """
    codes = group.code_values().detach()
    if group.index is None:
        return panels(codes[:, start:stop]), None, None, 0
    common = math.gcd(group.block, start, stop)
    block = max(size for size in BLOCKS if common % size == 0)
    pieces = group.block // block
    width, index = group.columns // group.block, group.index.long()
    row = (index // width)[:, None].expand(-1, pieces).reshape(-1)
    column = ((index % width)[:, None] * pieces + torch.arange(pieces)).reshape(-1) - start // block
    values, columns = codes.reshape(-1, block), (stop - start) // block
    kept = ((column >= 0) & (column < columns)).nonzero().squeeze(1)
    row, column, values = row[kept], column[kept], values[kept]
    if not len(kept):  # a constant of size 0 cannot be stored
        row, column, values = torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long), torch.zeros(1, block)
    order = torch.argsort(column * group.code_rows + row)
    index = row[order].to(torch.uint8 if group.code_rows <= 256 else torch.uint16)
    counts = torch.bincount(column, minlength=columns).to(torch.uint16)
    return values[order].reshape(-1), index, counts, block


class StockMatrix(nn.Module):
    """Columns `start:stop` of a coded matrix as torch linear layers; sparse codes are stored with their zeros."""

    def __init__(self, group: CodedMatrix, start: int, stop: int, bias: Tensor | None, dictionary: bool):
        super().__init__()
        has_dictionary = dictionary and group.dictionary is not None
        self.dictionary = nn.Buffer(group.dictionary_values().detach().t().contiguous()) if has_dictionary else None
        self.codes = nn.Buffer(group.code_matrix().detach()[:, start:stop].t().contiguous())
        self.bias = None if bias is None else nn.Buffer(bias.detach().clone())

    def read(self, h: Tensor) -> Tensor:
        """D^T h, what the codes read."""
        return h if self.dictionary is None else functional.linear(h, self.dictionary)

    def write(self, u: Tensor) -> Tensor:
        """Z^T u + bias."""
        return functional.linear(u, self.codes, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.read(x))


class StockModel(StreamingModel):
    """The program of stock operators for XNNPACK: `frames` outputs per call, unrolled."""

    backend = "xnnpack"

    def __init__(self, model: AcousticModel, frames: int):
        super().__init__(model)
        self.frames = frames

    def matrix(self, group, start, stop, bias, dictionary):
        return StockMatrix(group, start, stop, bias, dictionary)

    def windows(self, features):
        x, window = (features - self.mean) * self.istd, 2 * self.context + 1
        starts = range(0, self.frames * self.stride, self.stride)
        return _rows([x[start : start + window].reshape(1, -1) for start in starts])

    def layer(self, matrix, gates, u, memory, coded):
        outputs, cell = [], CELLS[self.cell]
        for t in range(self.frames):
            x, r = gates[t : t + 1], matrix.write(u)
            if cell == "lstm":
                i, f, g, o = _gates(x + r, 4)
                memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
                h = o.sigmoid() * memory.tanh()
            elif cell == "gru":
                (xr, xz, xn), (rr, rz, rn) = _gates(x, 3), _gates(r, 3)
                candidate = (xn + (xr + rr).sigmoid() * rn).tanh()
                h = memory = candidate + (xz + rz).sigmoid() * (memory - candidate)
            else:
                h = memory = (x + r).tanh()
            u = matrix.read(h)
            outputs.append(u if coded else h)
        return _rows(outputs), u, memory


def _gates(x: Tensor, count: int) -> list[Tensor]:
    # Slices, not chunk: XNNPACK takes them, and the whole model is one delegate.
    size = x.shape[1] // count
    return [x[:, start : start + size] for start in range(0, x.shape[1], size)]


def _rows(rows: list[Tensor]) -> Tensor:
    return rows[0] if len(rows) == 1 else torch.cat(rows)
