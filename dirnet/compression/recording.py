"""RNNs that run layer by layer and keep sums over what each layer reads, writes, and what its gates are worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dirnet.nn.cells import origin
from dirnet.nn.recurrent import coded_class


class LayerSums:
    """Sums over one layer of one RNN: of its input, of its directions' outputs, of the gradients by its gates."""

    def __init__(self) -> None:
        self.sums: dict[str, list[Tensor]] = {}
        self.steps = 0

    def add(self, name: str, values: Tensor) -> None:
        """Add `values` (steps, n) to the second moment and the sum kept under `name`."""
        values = values.detach().double().cpu()
        fresh = [values.T @ values, values.sum(0)]
        kept = self.sums.setdefault(name, fresh)
        if kept is not fresh:
            kept[0] += fresh[0]
            kept[1] += fresh[1]

    def add_squares(self, name: str, values: Tensor) -> None:
        """Add the squares of `values` (..., n), summed over all but the last dimension."""
        fresh = [values.detach().double().cpu().square().flatten(0, -2).sum(0)]
        kept = self.sums.setdefault(name, fresh)
        if kept is not fresh:
            kept[0] += fresh[0]


@contextmanager
def recorded(
    rnns: dict[str, nn.RNNBase], layers: dict[str, list[LayerSums]], lengths: Tensor | None, gradients: bool
) -> Iterator[Callable[[], None]]:
    """Inside, each RNN runs layer by layer and its layers' sums grow; the callable adds the gradients at the end."""
    pending: list[tuple[LayerSums, Tensor]] = []

    def replaced(rnn: nn.RNNBase, stack: list[LayerSums]):
        def forward(input, hx=None):
            return _run(rnn, stack, input, hx, lengths, pending if gradients else None)

        return forward

    def flush() -> None:
        for layer, gates in pending:
            layer.add_squares("gates", torch.zeros_like(gates) if gates.grad is None else gates.grad)

    for name, rnn in rnns.items():
        module, forward = origin(rnn), replaced(rnn, layers[name])
        module.forward = forward if module is rnn else _one_step(forward)
    try:
        yield flush
    finally:
        for rnn in rnns.values():
            del origin(rnn).forward


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


def _run(rnn: nn.RNNBase, stack: list[LayerSums], input, hx, lengths: Tensor | None, pending) -> tuple:
    """What `rnn(input, hx)` returns, from single layers; `pending` collects (layer, gate values) to differentiate."""
    packed, directions = isinstance(input, PackedSequence), 2 if rnn.bidirectional else 1
    states = None if hx is None else hx if isinstance(hx, tuple) else (hx,)
    ends: list[tuple[Tensor, ...]] = []
    for number, layer in enumerate(stack):
        reads = input.data if packed else input
        single, gates = _single(rnn, number, reads, gates_apart=pending is not None)
        if pending is not None:
            gates.requires_grad_() if not gates.requires_grad else gates.retain_grad()
            pending.append((layer, gates))
        given = input._replace(data=gates) if packed else gates
        at = slice(number * directions, (number + 1) * directions)
        hx = None if states is None else tuple(state[at].contiguous() for state in states)
        output, end = single(given, hx if hx is None or rnn.mode == "LSTM" else hx[0])
        ends.append(end if isinstance(end, tuple) else (end,))
        valid = _valid(rnn, input, lengths)
        if number == 0:
            layer.add("input", _steps(reads, valid))
        writes = _steps(output.data if packed else output, valid)
        for position, hidden in enumerate(writes.split(rnn.hidden_size, dim=1)):
            layer.add(f"hidden{position}", hidden)
        layer.steps += len(writes)
        input = output
    final = tuple(torch.cat(parts) for parts in zip(*ends, strict=True))
    return input, final if rnn.mode == "LSTM" else final[0]


def _single(rnn: nn.RNNBase, number: int, reads: Tensor, gates_apart: bool) -> tuple[nn.RNNBase, Tensor]:
    """Layer `number` of `rnn` as an RNN, and its input: `reads`, or if `gates_apart` the gate values made of it.

    Gate values pass through an identity for W_ih, so that autograd reaches them.
    """
    suffixes = ("", "_reverse") if rnn.bidirectional else ("",)
    weights = {
        f"{kind}_l0{suffix}": getattr(rnn, f"{kind}_l{number}{suffix}").detach()
        for suffix in suffixes
        for kind in ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if rnn.bias else ()))
    }
    inputs = reads
    if gates_apart:
        inputs = reads @ torch.cat([weights[f"weight_ih_l0{suffix}"] for suffix in suffixes]).t()
        identity = torch.eye(inputs.shape[-1], device=reads.device, dtype=reads.dtype)
        for suffix, rows in zip(suffixes, identity.chunk(len(suffixes)), strict=True):
            weights[f"weight_ih_l0{suffix}"] = rows
    single = coded_class(rnn).dense_class(
        inputs.shape[-1], rnn.hidden_size, bias=rnn.bias, batch_first=rnn.batch_first, bidirectional=rnn.bidirectional,
        device=reads.device, dtype=reads.dtype, **({"nonlinearity": rnn.nonlinearity} if "RNN" in rnn.mode else {}),
    )  # fmt: skip
    single.load_state_dict(weights)
    return single.requires_grad_(False), inputs


def _valid(rnn: nn.RNNBase, input, lengths: Tensor | None) -> Tensor | None:
    """The mask of steps that are not padding, in the layout of a padded `input`; None if all count."""
    if lengths is None or isinstance(input, PackedSequence):
        return None
    steps = torch.arange(input.shape[1 if rnn.batch_first else 0])
    mask = steps < lengths.cpu()[:, None]
    return mask if rnn.batch_first else mask.T


def _steps(values: Tensor, valid: Tensor | None) -> Tensor:
    """(steps, n): the rows of `values` (..., n) that count."""
    return values.flatten(0, -2) if valid is None else values[valid.to(values.device)]
