"""The distillation loss against a loop over frames, its gradient, and what must not count."""

import math

import pytest
import torch

from dirnet.compression.distillation import Distillation, distillation_loss
from dirnet.errors import UserError


def by_hand(student, teacher, lengths, temperature):
    """Scalar by scalar: `T^2 sum p (log p - log q)` of both softened distributions."""
    total = 0.0
    for one, other, length in zip(student.tolist(), teacher.tolist(), lengths.tolist(), strict=True):
        for ours, theirs in list(zip(one, other, strict=True))[:length]:
            q, p = ([math.exp(value / temperature) for value in row] for row in (ours, theirs))
            q, p = ([value / sum(row) for value in row] for row in (q, p))
            total += temperature**2 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return total / len(lengths)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5, 4, dtype=torch.double), 2 * torch.randn(3, 5, 4, dtype=torch.double)
    return student, teacher, torch.tensor([5, 2, 3])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_equals_a_loop_over_frames(batch, temperature):
    student, teacher, lengths = batch
    loss = distillation_loss(student, teacher, lengths, temperature)
    assert loss.item() == pytest.approx(by_hand(student, teacher, lengths, temperature), rel=1e-9)
    normalised = distillation_loss(student.log_softmax(-1), teacher.log_softmax(-1), lengths, temperature)
    torch.testing.assert_close(normalised, loss)
    assert distillation_loss(teacher, teacher, lengths, temperature).abs() < 1e-12 < loss


def test_its_gradient(batch):
    student, teacher, lengths = batch
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda ours: distillation_loss(ours, teacher, lengths, 2.0), student)
    teacher.requires_grad_()
    distillation_loss(student, teacher, lengths, 2.0).backward()
    assert teacher.grad is None and bool(student.grad[1, :2].any()) and not student.grad[1, 2:].any()


def test_what_lies_behind_an_utterance_does_not_count(batch):
    student, teacher, lengths = batch
    before = distillation_loss(student, teacher, lengths)
    student[1, 2:], teacher[1, 2:] = math.nan, math.inf
    assert torch.equal(distillation_loss(student, teacher, lengths), before)


def test_mistakes():
    with pytest.raises(UserError, match="same outputs and frame_stride"):
        distillation_loss(torch.zeros(1, 4, 3), torch.zeros(1, 2, 3), torch.tensor([2]))
    with pytest.raises(UserError, match="weight is 1.5"):
        Distillation(weight=1.5)
    with pytest.raises(UserError, match="temperature is 0"):
        Distillation(temperature=0)
