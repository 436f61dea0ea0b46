"""The operators `dirnet::splice` and `dirnet::rnn_layer` as torch knows them.

Schemas, shapes and a plain torch reference; the fast kernels in `csrc/` follow it. `weights` is a layer in one block of
bytes (`dirnet.deploy.packing`). Sizes: T frames, N units, p what the recurrent codes read (p = N without a dictionary),
G gates (lstm 4, gru 3, rnn 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.deploy.packing import StoredMatrix, unpack

CELLS = ("lstm", "gru", "rnn")

_SCHEMAS = {
    "splice": ("Tensor features, Tensor mean, Tensor istd, int context, int stride", 1),
    "rnn_layer": ("Tensor x, Tensor u, Tensor memory, Tensor weights, int cell, bool coded", 3),
}


def splice(features: Tensor, mean: Tensor, istd: Tensor, context: int, stride: int) -> Tensor:
    """(frames, size) -> (T, (2 context + 1) size): normalised windows around every `stride`-th frame.

    `features` bring `context` frames on either side, T = (frames - 2 context) // stride.
    """
    frames = (features.shape[0] - 2 * context) // stride
    windows = ((features - mean) * istd).unfold(0, 2 * context + 1, stride)[:frames]
    return windows.transpose(1, 2).reshape(frames, -1)


def rnn_layer(x, u, memory, weights, cell, coded):
    """The inputs x (T, inputs) through a layer -> y (T, p or N), u (1, p), memory (1, N).

    u is what the recurrent codes read, D^T h, or h itself without a dictionary. memory is c of an LSTM, else h.
    y[t] is u_t if `coded`, for a consumer that shares the dictionary, else h_t. Gate order is torch's.
    """
    inputs, recurrent = unpack(weights)
    gates, outputs = write(inputs, read(inputs, x)), []
    for x in gates.split(1):
        r = write(recurrent, u)
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
        u = read(recurrent, h)
        outputs.append(u if coded else h)
    return torch.cat(outputs), u.clone(), memory.clone()


def read(matrix: StoredMatrix, x: Tensor) -> Tensor:
    """D^T x of x (T, N), (T, rows of Z): of every shift the atoms, one shift after the other; x without dictionary.

    In int8 x is rounded to 255 steps of its largest magnitude, a frame at a time, as everything that meets int8 is.
    """
    if matrix.dictionary is None:
        return x
    dictionary, scales = matrix.dictionary.float(), 1.0
    if matrix.atom_scales is not None:
        scales = matrix.atom_scales.float() * matrix.row_scales.float()
    moved = [matrix.shifts.adjoint(x.t(), offset).t() for offset in matrix.shifts.offsets]
    return torch.cat([product(values, dictionary, matrix) * scales for values in moved], dim=1)


def write(matrix: StoredMatrix, u: Tensor) -> Tensor:
    """Z^T u + bias of u (T, rows of Z)."""
    if matrix.dictionary is None and matrix.row_scales is not None:
        u = u * matrix.row_scales.float()
    y = product(u, code_matrix(matrix), matrix)
    return y if matrix.bias is None else y + matrix.bias


def product(x: Tensor, values: Tensor, matrix: StoredMatrix) -> Tensor:
    """`x @ values`; in int8 of the bytes that x rounds to, whose sums float64 holds exactly."""
    if matrix.codes.dtype != torch.int8:
        return x @ values
    largest = x.abs().amax(dim=1, keepdim=True)
    there = largest > 1e-30
    steps = torch.where(there, 127.0 / largest, torch.zeros(()))
    sums = (x * steps).round().double() @ values.double()
    return sums.float() * torch.where(there, largest / 127.0, torch.zeros(()))


def code_matrix(matrix: StoredMatrix) -> Tensor:
    """Z (rows, M) float32 with its zeros, in int8 without its scales."""
    codes = matrix.codes.float()
    if matrix.index is None:
        return codes
    grid = codes.new_zeros(matrix.code_rows, len(matrix.counts), matrix.block)
    grid[matrix.index, matrix.column()] = codes
    return grid.view(matrix.code_rows, -1)


def _fake_splice(features, mean, istd, context, stride):
    window = 2 * context + 1
    return features.new_empty((features.shape[0] - 2 * context) // stride, window * features.shape[1])


def _fake_rnn_layer(x, u, memory, weights, cell, coded):
    width = (u if coded else memory).shape[1]
    return x.new_empty(x.shape[0], width), torch.empty_like(u), torch.empty_like(memory)


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
    references = {"splice": splice, "rnn_layer": rnn_layer}
    fakes = {"splice": _fake_splice, "rnn_layer": _fake_rnn_layer}
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
