"""The operators `dirnet::splice`, `dirnet::project` and `dirnet::rnn_layer` as torch knows them.

Schemas, shapes and a plain torch reference; the fast kernels in `csrc/` follow it. A stored matrix M (rows, columns) is
a flat `values` tensor in the order in which the kernels read it (`panels`, `dirnet.nn.coded.CodedMatrix.packed`).
Sizes: T frames, N units, p atoms (p = N without a dictionary), G gates (lstm 4, gru 3, rnn 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

CELLS = ("lstm", "gru", "rnn")
BLOCKS = (1, 2, 4, 8, 16)
PANEL = 16

_MATRIX = "Tensor? dictionary, Tensor values, Tensor? index, Tensor? counts, Tensor? bias, int block"
_SCHEMAS = {
    "splice": ("Tensor features, Tensor mean, Tensor istd, int context, int stride", 1),
    "project": (f"Tensor x, {_MATRIX}", 1),
    "rnn_layer": (f"Tensor gates, Tensor u, Tensor memory, {_MATRIX}, int cell, bool coded", 3),
}


def panels(matrix: Tensor) -> Tensor:
    """Dense (rows, columns) -> flat values: panels of 16 columns, the rest in panels of 8, 4, 2, 1."""
    return torch.cat([panel.reshape(-1) for panel in matrix.split(_widths(matrix.shape[1]), dim=1)])


def unpack(values: Tensor, index: Tensor | None, counts: Tensor | None, block: int, rows: int) -> Tensor:
    """The dense (rows, columns) matrix of stored tensors; `block` 0 means dense panels."""
    if block == 0:
        widths = _widths(values.numel() // rows)
        pieces = values.split([rows * width for width in widths])
        return torch.cat([p.view(rows, width) for p, width in zip(pieces, widths, strict=True)], dim=1)
    blocks = counts.shape[0]
    grid = values.new_zeros(rows, blocks, block)
    column = torch.repeat_interleave(torch.arange(blocks), counts.to(torch.int64))
    grid[index.to(torch.int64), column] = values.view(-1, block)
    return grid.view(rows, blocks * block)


def splice(features: Tensor, mean: Tensor, istd: Tensor, context: int, stride: int) -> Tensor:
    """(frames, size) -> (T, (2 context + 1) size): normalised windows around every `stride`-th frame.

    `features` bring `context` frames on either side, T = (frames - 2 context) // stride.
    """
    frames = (features.shape[0] - 2 * context) // stride
    windows = ((features - mean) * istd).unfold(0, 2 * context + 1, stride)[:frames]
    return windows.transpose(1, 2).reshape(frames, -1)


def project(x, dictionary, values, index, counts, bias, block) -> Tensor:
    """(T, N) -> (T, M): Z^T D^T x + bias, without the dictionary Z^T x + bias."""
    if dictionary is not None:
        x = x @ unpack(dictionary, None, None, 0, x.shape[1])
    y = x @ unpack(values, index, counts, block, x.shape[1])
    return y if bias is None else y + bias


def rnn_layer(gates, u, memory, dictionary, values, index, counts, bias, block, cell, coded):
    """The recurrence: input gates (T, G N) -> y (T, p or N), u (1, p), memory (1, N).

    u is what the recurrent codes read, D^T h, or h itself without a dictionary. memory is c of an LSTM, else h.
    y[t] is u_t if `coded`, for a consumer that shares the dictionary, else h_t. Gate order is torch's.
    """
    codes = unpack(values, index, counts, block, u.shape[1])
    atoms = None if dictionary is None else unpack(dictionary, None, None, 0, memory.shape[1])
    outputs = []
    for x in gates.split(1):
        r = u @ codes if bias is None else u @ codes + bias
        if CELLS[cell] == "lstm":
            i, f, g, o = (x + r).chunk(4, dim=1)
            memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
            h = o.sigmoid() * memory.tanh()
        elif CELLS[cell] == "gru":
            (xr, xz, xn), (rr, rz, rn) = x.chunk(3, dim=1), r.chunk(3, dim=1)
            candidate = (xn + (xr + rr).sigmoid() * rn).tanh()
            h = memory = candidate + (xz + rz).sigmoid() * (memory - candidate)
        else:
            h = memory = (x + r).tanh()
        u = h if atoms is None else h @ atoms
        outputs.append(u if coded else h)
    return torch.cat(outputs), u.clone(), memory.clone()


def _widths(columns: int) -> list[int]:
    rest = columns % PANEL
    return [PANEL] * (columns // PANEL) + [width for width in (8, 4, 2, 1) if rest & width]


def _columns(values: Tensor, counts: Tensor | None, block: int, rows: int) -> int:
    return values.shape[0] // rows if block == 0 else counts.shape[0] * block


def _fake_splice(features, mean, istd, context, stride):
    window = 2 * context + 1
    return features.new_empty((features.shape[0] - 2 * context) // stride, window * features.shape[1])


def _fake_project(x, dictionary, values, index, counts, bias, block):
    rows = x.shape[1] if dictionary is None else dictionary.shape[0] // x.shape[1]
    return x.new_empty(x.shape[0], _columns(values, counts, block, rows))


def _fake_rnn_layer(gates, u, memory, dictionary, values, index, counts, bias, block, cell, coded):
    width = (u if coded else memory).shape[1]
    return gates.new_empty(gates.shape[0], width), torch.empty_like(u), torch.empty_like(memory)


def _with_outs(function, outs: int):
    """The `.out` variant of `function`: writes its results into the last arguments."""

    def variant(*arguments, **keywords):
        targets = [keywords.pop(name) for name in (["out"] if outs == 1 else [f"out{i}" for i in range(outs)])]
        results = function(*arguments, **keywords)
        for target, result in zip(targets, [results] if outs == 1 else results, strict=True):
            target.resize_(result.shape).copy_(result)
        return targets[0] if outs == 1 else tuple(targets)

    return variant


def _define() -> torch.library.Library:
    library = torch.library.Library("dirnet", "DEF")
    references = {"splice": splice, "project": project, "rnn_layer": rnn_layer}
    fakes = {"splice": _fake_splice, "project": _fake_project, "rnn_layer": _fake_rnn_layer}
    for name, (arguments, outs) in _SCHEMAS.items():
        names = ["out"] if outs == 1 else [f"out{i}" for i in range(outs)]
        targets = ", ".join(f"Tensor({chr(97 + i)}!) {out}" for i, out in enumerate(names))
        written = ", ".join(f"Tensor({chr(97 + i)}!)" for i in range(outs))
        plain = ", ".join(["Tensor"] * outs)
        library.define(f"{name}({arguments}) -> {plain if outs == 1 else f'({plain})'}")
        library.define(f"{name}.out({arguments}, *, {targets}) -> {written if outs == 1 else f'({written})'}")
        library.impl(name, references[name], "CPU")
        library.impl(f"{name}.out", _with_outs(references[name], outs), "CPU")
        torch.library.register_fake(f"dirnet::{name}", fakes[name], lib=library)
    return library


_LIBRARY = _define()  # torch drops the operators when this object goes
