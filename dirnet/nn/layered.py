"""Recurrent layers that run one at a time, so that what each reads and writes can be seen, changed and learnt from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dirnet.nn.cells import origin
from dirnet.nn.recurrent import quiet_cudnn

STEP = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu}


@dataclass(frozen=True)
class LayerRun:
    """One layer of an RNN that has run. reads, output: steps as torch.lstm takes and gives them, packed or padded.

    start: its states before, (directions, B, H) each. batch_sizes: of packed steps. gates: (..., directions gates H),
    what the input adds to the gate values, where it was asked for.
    """

    reads: Tensor
    output: Tensor
    start: list[Tensor]
    batch_sizes: Tensor | None
    gates: Tensor | None = None

    def steps(self, values: Tensor, rnn: nn.RNNBase, lengths: Tensor | None) -> Tensor:
        """(steps, n): the rows of `values`, laid out as `reads`, that are no padding. lengths: (B,) or None, all."""
        if lengths is None or self.batch_sizes is not None:
            return values.flatten(0, -2)
        mask = torch.arange(values.shape[1 if rnn.batch_first else 0]) < lengths.cpu()[:, None]
        return values[(mask if rnn.batch_first else mask.T).to(values.device)]


@contextlib.contextmanager
def layered(
    rnns: Mapping[str, nn.RNNBase], hear: Callable[[str, list[LayerRun]], None], *, gates: bool = False
) -> Iterator[None]:
    """Inside, each of the named RNNs runs layer by layer, and `hear` gets the name and the layers of every call.

    Results, gradients and dropout are as of torch's RNN as a whole. Cells run as `as_layer` made them RNNs. gates: what
    inputs add to the gate values stands apart, for autograd to reach it, and no weight gets a gradient.
    """
    for name, rnn in rnns.items():
        module, forward = origin(rnn), _forward(rnn, lambda runs, name=name: hear(name, runs), gates)
        module.forward = forward if module is rnn else _one_step(forward)
    try:
        yield
    finally:
        for rnn in rnns.values():
            del origin(rnn).forward


def layer_weights(rnn: nn.RNNBase) -> list[list[Tensor]]:
    """Weights and biases of every layer, its directions one after the other, as torch.lstm takes them."""
    weights, directions = rnn.all_weights, 2 if rnn.bidirectional else 1
    return [sum(weights[at : at + directions], []) for at in range(0, len(weights), directions)]


def run_layer(
    rnn: nn.RNNBase, weights: list[Tensor], reads: Tensor, start: list[Tensor], batch_sizes: Tensor | None
) -> tuple[Tensor, ...]:
    """Output and final states of one layer with these weights, of the kind and the layout of `rnn`."""
    states = start if rnn.mode == "LSTM" else start[0]
    after = (weights, rnn.bias, 1, 0.0, True, rnn.bidirectional)  # True: without it cuDNN would give no gradient
    with quiet_cudnn() if reads.is_cuda else contextlib.nullcontext():
        if batch_sizes is not None:
            return STEP[rnn.mode](reads, batch_sizes, states, *after)
        return STEP[rnn.mode](reads, states, *after, rnn.batch_first)


def _forward(rnn: nn.RNNBase, hear: Callable[[list[LayerRun]], None], apart: bool) -> Callable[..., tuple]:
    """The `forward` of `rnn`, from single layers."""

    def forward(input, hx=None):
        values, batch_sizes, starts = _laid_out(rnn, input, hx)
        runs, ends = [], []
        for number, (weights, start) in enumerate(zip(layer_weights(rnn), starts, strict=True)):
            if number and rnn.dropout and rnn.training:
                values = nn.functional.dropout(values, rnn.dropout)
            given, gates = values, None
            if apart:
                weights, given = _apart(rnn, weights, values)
                gates = given.requires_grad_() if given.is_leaf else given
                gates.retain_grad()
            output, *end = run_layer(rnn, weights, given, start, batch_sizes)
            runs.append(LayerRun(values, output, start, batch_sizes, gates))
            ends.append(end)
            values = output
        hear(runs)
        final = [torch.cat(parts) for parts in zip(*ends, strict=True)]
        return _given_back(rnn, input, values, final)

    return forward


def _apart(rnn: nn.RNNBase, weights: list[Tensor], reads: Tensor) -> tuple[list[Tensor], Tensor]:
    """The weights with an identity for each W_ih, and what those made of `reads`, which then is the input."""
    weights = [weight.detach() for weight in weights]
    step = 4 if rnn.bias else 2
    gates = reads @ torch.cat(weights[::step]).t()
    identity = torch.eye(gates.shape[-1], device=gates.device, dtype=gates.dtype)
    for at, rows in enumerate(identity.chunk(2 if rnn.bidirectional else 1)):
        weights[at * step] = rows
    return weights, gates


def _laid_out(rnn: nn.RNNBase, input: Any, hx: Any) -> tuple[Tensor, Tensor | None, list[list[Tensor]]]:
    """What `rnn` was given, as torch.lstm takes it: steps, the batch sizes of packed ones, states of each layer."""
    packed = isinstance(input, PackedSequence)
    values, batch_sizes = (input.data, input.batch_sizes) if packed else (input, None)
    lone = not packed and values.dim() == 2
    if lone:
        values = values.unsqueeze(0 if rnn.batch_first else 1)
    size = int(batch_sizes[0]) if packed else values.shape[0 if rnn.batch_first else 1]
    directions = 2 if rnn.bidirectional else 1
    if hx is None:
        zeros = values.new_zeros(rnn.num_layers * directions, size, rnn.hidden_size)
        given = [zeros] * (2 if rnn.mode == "LSTM" else 1)
    else:
        given = [hx] if isinstance(hx, Tensor) else list(hx)
        given = [state.unsqueeze(1) if lone else state for state in given]
        if packed and input.sorted_indices is not None:
            given = [state.index_select(1, input.sorted_indices) for state in given]
    rnn.check_forward_args(values, tuple(given) if rnn.mode == "LSTM" else given[0], batch_sizes)  # torch.lstm does not
    starts = zip(*(state.split(directions) for state in given), strict=True)
    return values, batch_sizes, [[state.contiguous() for state in parts] for parts in starts]


def _given_back(rnn: nn.RNNBase, input: Any, values: Tensor, final: list[Tensor]) -> tuple:
    """Output and final states as `rnn` returns them for such an input."""
    if isinstance(input, PackedSequence):
        output = input._replace(data=values)
        if input.unsorted_indices is not None:
            final = [state.index_select(1, input.unsorted_indices) for state in final]
    elif input.dim() == 2:
        output, final = values.squeeze(0 if rnn.batch_first else 1), [state.squeeze(1) for state in final]
    else:
        output = values
    return output, tuple(final) if rnn.mode == "LSTM" else final[0]


def _one_step(forward: Callable[..., tuple]) -> Callable[..., Any]:
    """The forward of a cell from that of a layer (not batch first)."""

    def step(input: Tensor, hx=None):
        def sequence(values: Tensor) -> Tensor:
            return values.reshape(1, math.prod(values.shape[:-1]), values.shape[-1])

        states = tuple(map(sequence, hx)) if isinstance(hx, tuple | list) else None if hx is None else sequence(hx)
        _, end = forward(sequence(input), states)
        ends = [
            state.reshape(*input.shape[:-1], state.shape[-1]) for state in (end if isinstance(end, tuple) else (end,))
        ]
        return tuple(ends) if isinstance(end, tuple) else ends[0]

    return step
