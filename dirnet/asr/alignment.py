"""Forced alignment: the frame-by-frame reference of sMBR, by a Viterbi search over CTC's states."""

from __future__ import annotations

import torch
from torch import Tensor

from dirnet.asr.denominator import BLANK

NO_PATH = -1


@torch.no_grad()
def align(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """The best CTC path of each transcript (Viterbi), batched.

    log_probs (B, T, C); lengths (B,); targets (B, U) outputs 1..C-1, padded with anything; target_lengths (B,).
    Returns (B, T) outputs, blank behind the lengths. An utterance with fewer frames than phones plus repeats has no
    path: its row is `NO_PATH` throughout.
    """
    batch, frames, _ = log_probs.shape
    states = 2 * targets.shape[1] + 1
    device = log_probs.device
    labels = torch.full((batch, states), BLANK, device=device)
    labels[:, 1::2] = targets.clamp(min=0)
    emission = log_probs.gather(2, labels[:, None, :].expand(-1, frames, -1))
    skip = torch.zeros_like(labels, dtype=torch.bool)  # a phone may follow the phone before the blank, unless equal
    skip[:, 3::2] = labels[:, 3::2] != labels[:, 1:-2:2]
    score = torch.full((batch, states), -torch.inf, device=device, dtype=log_probs.dtype)
    score[:, :2] = emission[:, 0, :2]
    from_before = torch.full((batch, frames, states), 0, dtype=torch.int8, device=device)
    never = score.new_full((batch, 2), -torch.inf)
    for t in range(1, frames):
        shifted = torch.cat([never, score], dim=1)
        two = torch.where(skip, shifted[:, :-2], -torch.inf)
        best, from_before[:, t] = _best_of_three(score, shifted[:, 1:-1], two)
        score = torch.where((t < lengths)[:, None], best + emission[:, t], score)

    end = 2 * target_lengths.to(device)[:, None]
    ends = torch.cat([end, (end - 1).clamp(min=0)], dim=1)
    final = score.gather(1, ends)
    state = ends.gather(1, final.argmax(dim=1, keepdim=True))
    path = torch.full((batch, frames), BLANK, device=device)
    for t in range(frames - 1, -1, -1):
        inside = (t < lengths)[:, None]
        path[:, t : t + 1] = torch.where(inside, labels.gather(1, state), BLANK)
        state = torch.where(inside, state - from_before[:, t].gather(1, state), state)
    return path.masked_fill(final.max(dim=1, keepdim=True).values == -torch.inf, NO_PATH)


def _best_of_three(stay: Tensor, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of three scores and how many states back it came from (int8)."""
    best, steps = torch.stack([stay, one, two]).max(dim=0)
    return best, steps.to(torch.int8)
