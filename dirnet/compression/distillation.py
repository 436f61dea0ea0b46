"""Learning from the dense model: the loss that pulls a compressed model's posteriors to its teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dirnet.errors import UserError
from dirnet.nn.layered import LayerRun


@dataclass(frozen=True)
class Distillation:
    """Loss = (1 - weight) task loss + weight `distillation_loss` at `temperature`; weight 0 is none."""

    weight: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise UserError(f"distill: weight is {self.weight}, expected 0 (no teacher) to 1 (nothing but the teacher)")
        if not self.temperature > 0:
            raise UserError(f"distill: temperature is {self.temperature}, expected more than 0")


def distillation_loss(student: Tensor, teacher: Tensor, lengths: Tensor, temperature: float = 1.0) -> Tensor:
    """`T^2 KL(teacher || student)` at temperature T, a scalar (Hinton et al. 2015; frame by frame as Kurata 2018).

    student, teacher: (B, L, V) logits or log-probabilities over the same outputs. lengths: (B,) valid frames; what
    lies behind them counts nothing, be it infinite. Summed over frames, the mean over utterances, as a CTC loss is, so
    that the two can be weighed against each other. No gradient reaches the teacher.
    """
    if student.shape != teacher.shape:
        raise UserError(
            f"student's posteriors are {list(student.shape)}, the teacher's {list(teacher.shape)}; expected the same: "
            "both must have the same outputs and frame_stride"
        )
    valid = torch.arange(student.shape[1], device=student.device) < lengths.to(student.device)[:, None]
    log_q = (student[valid] / temperature).log_softmax(dim=-1)
    log_p = (teacher.detach()[valid] / temperature).log_softmax(dim=-1)
    divergence = torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return temperature**2 * divergence / len(student)


def states_loss(ours: Sequence[LayerRun], theirs: Sequence[LayerRun], rnn: nn.RNNBase, lengths: Tensor) -> Tensor:
    """`share_missed` of every layer's output, the mean over layers, a scalar.

    ours, theirs: the layers of a student and its teacher, both laid out as `rnn`, that have read the same. lengths:
    (B,) valid steps. Summed over steps, the mean over utterances, as a CTC loss is.
    """
    pairs = zip(ours, theirs, strict=True)
    shares = [
        share_missed(one.steps(one.output, rnn, lengths), two.steps(two.output, rnn, lengths)) for one, two in pairs
    ]
    return torch.stack(shares).mean() * lengths.float().mean()


def share_missed(ours: Tensor, theirs: Tensor) -> Tensor:
    """The part of the variance over steps of the teacher's hidden states that the student's miss, a scalar.

    ours, theirs: (steps, n). No gradient reaches the teacher.
    """
    ours, theirs = ours.float(), theirs.detach().float()
    spread = (theirs - theirs.mean(0)).square().sum().clamp_min(torch.finfo(theirs.dtype).tiny)
    return (ours - theirs).square().sum() / spread
