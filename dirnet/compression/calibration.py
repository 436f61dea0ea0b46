"""What a model does on real inputs, group by group: what each group reads, and what its gates are worth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dirnet.compression.groups import dense_rnns
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.cells import origin
from dirnet.nn.grouping import Group, groups_of
from dirnet.nn.recurrent import coded_class


@dataclass(frozen=True)
class Statistics:
    """Of one group over all calibration steps, float64. moment: E[x x^T] (N, N), mean: E[x] (N,) of what it reads.

    gains: (M,), the mean squared gradient of the output's log-likelihood by each gate value the group writes: the
    diagonal of the Fisher information. For a GRU the recurrent part of its third gate is taken as worth the whole gate.
    """

    moment: Tensor
    mean: Tensor
    gains: Tensor
    steps: int

    def permuted(self, rows: Tensor, columns: Tensor) -> Statistics:
        """Of the group once what it reads is in the order `rows` (N,) and what it writes in the order `columns`."""
        return Statistics(self.moment[rows][:, rows], self.mean[rows], self.gains[columns], self.steps)


class _Layer:
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


def calibrate(
    model: nn.Module, data: Iterable[Any], *, gradients: bool = True, seed: int = 0
) -> dict[str, list[Statistics]]:
    """The statistics of every dense RNN in `model` by its module name, in the order of `groups_of`.

    data: inputs of the model: a tensor, a tuple of arguments, or a dict of keywords, each a batch. Where sequences are
    packed, or the model is an `AcousticModel` given `(features, lengths)`, padding does not count; elsewhere every step
    does. gradients: of log-likelihoods of outcomes drawn from the model's own output (seeded): of the posteriors of
    an acoustic model, else of a unit normal around the first tensor of the output, which if it is a single value, a
    loss, is itself the (negative) likelihood, that of the given outcomes; without them all gains are one.
    The model is run in eval mode and left as it was. No data, or data that is not finite, is a `UserError`.
    """
    rnns = dense_rnns(model)
    layers, steps = {}, 0
    generator = torch.Generator().manual_seed(seed)
    for name, rnn in rnns.items():
        layers[name] = [_Layer() for _ in range(rnn.num_layers)]
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        for inputs in data:
            steps += 1
            lengths = _lengths(model, inputs)
            watched = _layer_by_layer(rnns, layers, lengths, gradients)
            with evaluating(model), watched as flush, torch.set_grad_enabled(gradients):
                output = run(model, inputs)
                if gradients:
                    drawn = likelihood(model, output, generator)
                    if not drawn.requires_grad:
                        raise UserError("the model's output has no gradient, which the weighting needs; calibrate with "
                                        "weighting: activation")  # fmt: skip
                    drawn.backward()
                flush()
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
    if not steps:
        raise UserError("calibration data is empty; give at least one input of the model")
    if unread := [name for name, stack in layers.items() if not all(layer.steps for layer in stack)]:
        raise UserError(f"calibration data does not reach {unread[0] or 'the RNN'}; give inputs for which the model "
                        "runs it, or compress without data")  # fmt: skip
    found = {name: [_summary(layers[name], group, gradients) for group in groups_of(rnn)] for name, rnn in rnns.items()}
    for name, statistics in found.items():
        if not all(bool(one.moment.isfinite().all() and one.gains.isfinite().all()) for one in statistics):
            raise UserError(f"calibration of {name or 'the RNN'} gave NaN or infinity; look at the inputs")
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in eval mode; then every module is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def run(model: nn.Module, inputs: Any) -> Any:
    """The output of `model` for a tensor, a tuple of arguments, or a dict of keywords."""
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence):
        return model(*inputs)
    return model(inputs)


def digest(batches: Iterable[Any]) -> str:
    """A sha256 of names, types, shapes and values of the tensors in tuples or dicts: whether data are the same."""
    content = hashlib.sha256()
    for batch in batches:
        for name, value in sorted(batch.items()) if isinstance(batch, dict) else enumerate(batch):
            content.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode() + value.numpy().tobytes())
    return content.hexdigest()


def first_tensor(output: Any) -> Tensor:
    """The first tensor of what a module returned, looking into tuples, dicts and packed sequences."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, PackedSequence):
        return output.data
    for part in output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ():
        if part is not None:
            return first_tensor(part)
    raise UserError(f"the model returns {type(output).__name__}, expected a tensor or a tuple that starts with one")


def likelihood(model: nn.Module, output: Any, generator: torch.Generator) -> Tensor:
    """The log-likelihood, summed, of outcomes drawn from what the model says; see `calibrate`."""
    if isinstance(model, AcousticModel):
        log_posteriors, steps = output
        valid = torch.arange(log_posteriors.shape[1]) < steps.cpu()[:, None]
        posteriors = log_posteriors.detach().exp().cpu().flatten(0, 1)
        if not posteriors.isfinite().all():
            raise UserError("calibration gave posteriors of NaN or infinity; look at the inputs")
        drawn = torch.multinomial(posteriors, 1, generator=generator).view(valid.shape)
        chosen = log_posteriors.gather(2, drawn[..., None].to(log_posteriors.device))[..., 0]
        return (chosen * valid.to(chosen.device)).sum()
    values = first_tensor(output)
    if values.numel() == 1:
        return values.sum()
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    return (values * noise.to(values.device, values.dtype)).sum()


def _lengths(model: nn.Module, inputs: Any) -> Tensor | None:
    """The valid steps (B,) that the RNN of an acoustic model sees."""
    if not isinstance(model, AcousticModel):
        return None
    lengths = inputs["lengths"] if isinstance(inputs, dict) else inputs[1]
    stride = model.config.frame_stride
    return (torch.as_tensor(lengths) + stride - 1) // stride


@contextmanager
def _layer_by_layer(
    rnns: dict[str, nn.RNNBase], layers: dict[str, list[_Layer]], lengths: Tensor | None, gradients: bool
) -> Iterator[Callable[[], None]]:
    """Inside, each RNN runs layer by layer and its layers' sums grow; the callable adds the gradients at the end."""
    pending: list[tuple[_Layer, Tensor]] = []

    def replaced(rnn: nn.RNNBase, stack: list[_Layer]):
        def forward(input, hx=None):
            return _recorded(rnn, stack, input, hx, lengths, pending if gradients else None)

        return forward

    def flush() -> None:
        for layer, gates in pending:
            layer.add_squares("gates", torch.zeros_like(gates) if gates.grad is None else gates.grad)

    for name, rnn in rnns.items():
        module, recorded = origin(rnn), replaced(rnn, layers[name])
        module.forward = recorded if module is rnn else _one_step(recorded)
    try:
        yield flush
    finally:
        for rnn in rnns.values():
            del origin(rnn).forward


def _one_step(forward: Callable[..., tuple]) -> Callable[..., Any]:
    """The forward of a cell from that of a layer (not batch first)."""

    def step(input: Tensor, hx=None):
        def sequence(values: Tensor) -> Tensor:
            return values.reshape(1, -1, values.shape[-1])

        states = tuple(map(sequence, hx)) if isinstance(hx, tuple | list) else None if hx is None else sequence(hx)
        _, end = forward(sequence(input), states)
        ends = [state.reshape(*input.shape[:-1], -1) for state in (end if isinstance(end, tuple) else (end,))]
        return tuple(ends) if isinstance(end, tuple) else ends[0]

    return step


def _recorded(rnn: nn.RNNBase, stack: list[_Layer], input, hx, lengths: Tensor | None, pending) -> tuple:
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


def _summary(stack: list[_Layer], group: Group, gradients: bool) -> Statistics:
    """The statistics of one of the groups of a stack."""
    number, reverse = (0, False) if group.name == "input" else _place(group.name)
    layer = stack[number]
    moment, total = layer.sums["input" if group.name == "input" else f"hidden{int(reverse)}"]
    gains = torch.ones(group.columns, dtype=torch.float64)
    if gradients:
        gains = torch.cat([_gains(stack, member.weight) for member in group.members])
    return Statistics(moment / layer.steps, total / layer.steps, gains, layer.steps)


def _gains(stack: list[_Layer], weight: str) -> Tensor:
    """The mean squared gradients by the gates that `weight` writes; none reached them: zeros."""
    number, reverse = _place(weight)
    layer = stack[number]
    both = layer.sums["gates"][0] / layer.steps
    return both.chunk(2)[reverse] if "hidden1" in layer.sums else both


def _place(name: str) -> tuple[int, bool]:
    """Layer and whether it is the reverse direction, of a name that ends as torch's weights do."""
    return int(name.rpartition("_l")[2].removesuffix("_reverse")), name.endswith("_reverse")
