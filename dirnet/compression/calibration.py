"""What a model does on real inputs, group by group: what each group reads, and what its gates are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dirnet.compression.groups import dense_rnns
from dirnet.compression.inputs import evaluating, first_tensor, run
from dirnet.compression.recording import LayerSums, recorded
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.grouping import Group, groups_of


@dataclass(frozen=True)
class Statistics:
    """What was seen of one group in all calibration steps, float64.

    moment: E[x x^T] (N, N) and mean: E[x] (N,) of what it reads.
    fisher: (M,), the mean squared gradient of the output's log-likelihood by each gate value the group writes: the
    diagonal of the Fisher information, r^2 of `dirnet.factorization.weighting`. For a GRU the recurrent part of its
    third gate is taken as worth the whole gate.
    """

    moment: Tensor
    mean: Tensor
    fisher: Tensor
    steps: int

    def permuted(self, rows: Tensor, columns: Tensor) -> Statistics:
        """The same once what the group reads is in the order `rows` (N,) and what it writes in the order `columns`."""
        return Statistics(self.moment[rows][:, rows], self.mean[rows], self.fisher[columns], self.steps)


def calibrate(
    model: nn.Module, data: Iterable[Any], *, gradients: bool = True, seed: int = 0
) -> dict[str, list[Statistics]]:
    """The statistics of every dense RNN in `model` by its module name, in the order of `groups_of`.

    data: inputs of the model: a tensor, a tuple of arguments, or a dict of keywords, each a batch. Where sequences are
    packed, or the model is an `AcousticModel` given `(features, lengths)`, padding does not count; elsewhere every step
    does. gradients: of log-likelihoods of outcomes drawn from the model's own output (seeded): of the posteriors of
    an acoustic model, else of a unit normal around the first tensor of the output, which if it is a single value, a
    loss, is itself the (negative) likelihood, that of the given outcomes; without them `fisher` is one everywhere.
    The model is run in eval mode and left as it was. No data, or data that is not finite, is a `UserError`.
    """
    rnns = dense_rnns(model)
    layers, steps = {}, 0
    generator = torch.Generator().manual_seed(seed)
    for name, rnn in rnns.items():
        layers[name] = [LayerSums() for _ in range(rnn.num_layers)]
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        for inputs in data:
            steps += 1
            lengths = valid_steps(model, inputs)
            watched = recorded(rnns, layers, lengths, gradients)
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
        if not all(bool(one.moment.isfinite().all() and one.fisher.isfinite().all()) for one in statistics):
            raise UserError(f"calibration of {name or 'the RNN'} gave NaN or infinity; look at the inputs")
    return found


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


def valid_steps(model: nn.Module, inputs: Any) -> Tensor | None:
    """The valid steps (B,) that the RNN of an acoustic model sees."""
    if not isinstance(model, AcousticModel):
        return None
    lengths = inputs["lengths"] if isinstance(inputs, Mapping) else inputs[1]
    stride = model.config.frame_stride
    return (torch.as_tensor(lengths) + stride - 1) // stride


def _summary(stack: list[LayerSums], group: Group, gradients: bool) -> Statistics:
    """The statistics of one of the groups of a stack."""
    number, reverse = (0, False) if group.name == "input" else _place(group.name)
    layer = stack[number]
    moment, total = layer.sums["input" if group.name == "input" else f"hidden{int(reverse)}"]
    fisher = torch.ones(group.columns, dtype=torch.float64)
    if gradients:
        fisher = torch.cat([_squares(stack, member.weight) for member in group.members])
    return Statistics(moment / layer.steps, total / layer.steps, fisher, layer.steps)


def _squares(stack: list[LayerSums], weight: str) -> Tensor:
    """The mean squared gradients by the gates that `weight` writes; none reached them: zeros."""
    number, reverse = _place(weight)
    layer = stack[number]
    both = layer.sums["gates"][0] / layer.steps
    return both.chunk(2)[reverse] if "hidden1" in layer.sums else both


def _place(name: str) -> tuple[int, bool]:
    """Layer and whether it is the reverse direction, of a name that ends as torch's weights do."""
    return int(name.rpartition("_l")[2].removesuffix("_reverse")), name.endswith("_reverse")
