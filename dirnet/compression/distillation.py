"""Learning from the dense model: the loss that pulls a compressed model's posteriors to its teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dirnet.errors import UserError


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
