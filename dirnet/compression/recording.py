"""Sums over what each layer of an RNN reads, writes, and what its gates are worth, while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dirnet.nn.layered import LayerRun, layered


class LayerSums:
    """Sums over one layer of one RNN: of its input, of its directions' outputs, of the gradients by its gates."""

    def __init__(self) -> None:
        self.sums: dict[str, list[Tensor]] = {}
        self.steps = 0

    def add(self, name: str, values: Tensor) -> None:
        """Add `values` (steps, n) to the second moment and the sum kept under `name`."""
        values = values.detach().cpu().double()
        fresh = [values.T @ values, values.sum(0)]
        kept = self.sums.setdefault(name, fresh)
        if kept is not fresh:
            kept[0] += fresh[0]
            kept[1] += fresh[1]

    def add_squares(self, name: str, values: Tensor) -> None:
        """Add the squares of `values` (..., n), summed over all but the last dimension."""
        fresh = [values.detach().cpu().double().square().flatten(0, -2).sum(0)]
        kept = self.sums.setdefault(name, fresh)
        if kept is not fresh:
            kept[0] += fresh[0]


@contextmanager
def recorded(
    rnns: dict[str, nn.RNNBase], layers: dict[str, list[LayerSums]], lengths: Tensor | None, gradients: bool
) -> Iterator[Callable[[], None]]:
    """Inside, each RNN runs layer by layer and its layers' sums grow; the callable adds the gradients at the end."""
    pending: list[tuple[LayerSums, Tensor]] = []

    def hear(name: str, runs: list[LayerRun]) -> None:
        rnn = rnns[name]
        for number, (layer, run) in enumerate(zip(layers[name], runs, strict=True)):
            if number == 0:
                layer.add("input", run.steps(run.reads, rnn, lengths))
            writes = run.steps(run.output, rnn, lengths)
            for position, hidden in enumerate(writes.split(rnn.hidden_size, dim=1)):
                layer.add(f"hidden{position}", hidden)
            layer.steps += len(writes)
            if gradients:
                pending.append((layer, run.gates))

    def flush() -> None:
        for layer, gates in pending:
            layer.add_squares("gates", torch.zeros_like(gates) if gates.grad is None else gates.grad)

    with layered(rnns, hear, gates=gradients):
        yield flush
