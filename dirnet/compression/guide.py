"""What calibration data change in a compression: the error that is minimised, the biases, the split of the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dirnet.compression.budget import Price
from dirnet.compression.calibration import Statistics, calibrate
from dirnet.compression.groups import MatrixGroup, dense_rnns
from dirnet.compression.inputs import check_iterable, evaluating, first_tensor, run
from dirnet.compression.methods import Method
from dirnet.compression.solvers import Task, factorize_roughly
from dirnet.errors import UserError
from dirnet.factorization import Factors
from dirnet.factorization.weighting import Weighting, weighting
from dirnet.nn.acoustic import AcousticModel
from dirnet.nn.grouping import Group, groups_of

GAIN_FLOOR = 0.3  # share of the mean gain that every gate has: few gradients are seen, and fine-tuning changes them
EFFECT_BATCHES = 4  # of the calibration data tell groups apart


@dataclass(frozen=True)
class Guide:
    """`statistics` and `weightings` of the groups in the order of a plan, first inputs of the `data`; empty without."""

    data: Sequence[Any] = ()
    statistics: list[Statistics] = field(default_factory=list)
    weightings: list[Weighting] = field(default_factory=list)

    def weighted(self, group: int, matrix: Tensor) -> Tensor:
        """The matrix (N, M) whose plain error the solver is to minimise."""
        return self.weightings[group].apply(matrix) if self.weightings else matrix

    def restored(self, group: int, factors: Factors) -> Factors:
        """Factors of the matrix itself from those of the weighted one."""
        return self.weightings[group].undo(factors) if self.weightings else factors

    def bias_step(self, group: int, lost: Tensor) -> Tensor | None:
        """What the biases gain to keep the mean of every gate value when `lost` = W - D Z (N, M) is gone: (M,)."""
        return lost.T @ self.statistics[group].mean.to(lost.dtype) if self.statistics else None


def make_guide(model: nn.Module, method: Method, data: Iterable[Any] | None, seed: int = 0) -> Guide:
    """Calibrate `model` on `data` as far as `method` asks for it; asking without data is a `UserError`.

    data: read to its end, an input at a time.
    """
    if data is None:
        if method.needs_data:
            asks = "allocation: output" if method.allocation == "output" else f"weighting: {method.weighting}"
            raise UserError(f"method has {asks} but there is no calibration data; give data, on the command line with "
                            "`dirnet compress --calibration FEATS_SCP`")  # fmt: skip
        return Guide()
    chosen = method.weighting_with_data
    if chosen == "none" and method.allocation != "output":
        return Guide()
    check_iterable(data)
    kept: list[Any] = []  # the rest may be more than memory holds
    if chosen == "none":
        for _ in _keeping(data, kept, EFFECT_BATCHES):
            pass
        if not kept:
            raise UserError("calibration data is empty; give at least one input of the model")
        return Guide(kept)
    found = calibrate(model, _keeping(data, kept, EFFECT_BATCHES), gradients=chosen == "fisher", seed=seed)
    return guided(method, kept, [one for statistics in found.values() for one in statistics])


def _keeping(data: Iterable[Any], kept: list[Any], most: int) -> Iterator[Any]:
    """The same inputs; the first `most` are put into `kept`."""
    for inputs in data:
        if len(kept) < most:
            kept.append(inputs)
        yield inputs


def guided(method: Method, data: Sequence[Any], statistics: list[Statistics]) -> Guide:
    """The guide of known statistics. What gates are worth is relative to the mean over the model: groups compare."""
    mean = torch.cat([one.fisher for one in statistics]).mean().clamp_min(torch.finfo(torch.float64).tiny)
    weightings = []
    for one in statistics:
        gains = ((1 - GAIN_FLOOR) * one.fisher / mean + GAIN_FLOOR).sqrt()
        weightings.append(weighting(one.moment, method.identity, gains, diagonal=method.solver == "prune"))
    return Guide(data, statistics, weightings)


def move_biases(rnn: nn.RNNBase, steps: Iterable[Tensor | None]) -> None:
    """Add the `bias_step` of every group of `rnn`, dense or coded, to its biases; one without has none.

    A matrix of the state moves `bias_hh`, one of the input `bias_ih`: in a GRU they are not the same.
    """
    for group, step in zip(groups_of(rnn), steps, strict=True):
        _move_biases(rnn, group, step)


def output_errors(
    model: nn.Module, groups: Sequence[MatrixGroup], prices: Sequence[Price], method: Method, guide: Guide
) -> Callable[[int, list[int]], list[float]]:
    """For `allocation.by_error`: how far the output moves when one group alone is roughly factorized to a budget.

    Measured on the first `EFFECT_BATCHES` batches: the Kullback-Leibler divergence of an acoustic model's posteriors
    per frame, elsewhere the squared change of the first tensor of the output. `model` is as before after every call.
    """
    batches = guide.data[:EFFECT_BATCHES]
    members = [(rnn, group) for rnn in dense_rnns(model).values() for group in groups_of(rnn, method.grouping(rnn))]
    before = [_said(model, inputs) for inputs in batches]
    if not all(bool(values.isfinite().all()) for values, _ in before):
        raise UserError("calibration gave outputs of NaN or infinity; look at the inputs")

    def errors(at: int, budgets: list[int]) -> list[float]:
        matrix, (rnn, group) = groups[at].matrix, members[at]
        weighted, found = guide.weighted(at, matrix), []
        touched = [getattr(rnn, name) for member in group.members for name in _touched(rnn, member.weight)]
        kept = [parameter.detach().clone() for parameter in touched]
        for budget in budgets:
            if budget >= prices[at].dense:  # kept as it is, and not as weighting and its inverse would round it
                found.append(0.0)
                continue
            rough = guide.restored(at, factorize_roughly(method, Task(weighted, prices[at], budget))).reconstruct()
            try:
                _lend(rnn, group, rough)
                _move_biases(rnn, group, guide.bias_step(at, matrix - rough))
                found.append(sum(_moved(model, *pair) for pair in zip(before, batches, strict=True)))
            finally:
                with torch.no_grad():
                    for parameter, old in zip(touched, kept, strict=True):
                        parameter.copy_(old)
        return found

    return errors


def _touched(rnn: nn.RNNBase, weight: str) -> tuple[str, ...]:
    return (weight, weight.replace("weight", "bias")) if rnn.bias else (weight,)


@torch.no_grad()
def _lend(rnn: nn.RNNBase, group: Group, matrix: Tensor) -> None:
    for member, part in zip(group.members, matrix.chunk(len(group.members), dim=1), strict=True):
        getattr(rnn, member.weight)[:, member.start : member.stop] = part.T


@torch.no_grad()
def _move_biases(rnn: nn.RNNBase, group: Group, step: Tensor | None) -> None:
    if step is None or not rnn.bias:
        return
    for member, part in zip(group.members, step.chunk(len(group.members)), strict=True):
        bias = getattr(rnn, member.weight.replace("weight", "bias"))
        bias.add_(part.to(bias.device, bias.dtype))


def _said(model: nn.Module, inputs: Any) -> tuple[Tensor, Tensor | None]:
    """The first tensor of the output, and for an acoustic model which of its frames are valid."""
    with evaluating(model), torch.inference_mode():
        output = run(model, inputs)
    values = first_tensor(output)
    if not isinstance(model, AcousticModel):
        return values, None
    return values, torch.arange(values.shape[1], device=values.device) < output[1].to(values.device)[:, None]


def _moved(model: nn.Module, before: tuple[Tensor, Tensor | None], inputs: Any) -> float:
    old, valid = before
    new = _said(model, inputs)[0]
    if valid is None:
        return float((new.cpu().double() - old.cpu().double()).square().sum())
    return float(((old.exp() * (old - new)).sum(-1) * valid).double().sum())
