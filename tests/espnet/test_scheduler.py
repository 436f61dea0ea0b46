"""The learning rate is held while nothing but blank comes out."""

from __future__ import annotations

import torch

from dirnet.espnet.scheduler import HoldThenReduce


def rates(values, **options):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = HoldThenReduce(optimizer, **{"patience": 1, "threshold": 0.01, **options})
    shown = []
    for value in values:
        scheduler.step(value)
        shown.append(optimizer.param_groups[0]["lr"])
    return shown, scheduler


def test_held_on_the_plateau_and_reduced_behind_it():
    plateau, descent, floor = [1.0, 0.98, 1.0, 0.97] * 3, [0.8, 0.6, 0.4], [0.4, 0.41, 0.4]
    shown, _ = rates([*plateau, *descent, *floor])
    assert shown == [1.0] * 16 + [0.5, 0.5]


def test_going_back_above_the_threshold_does_not_hold_again():
    shown, _ = rates([0.5, 0.95, 0.95, 0.95])
    assert shown[-1] < 1.0


def test_state_survives_a_restart():
    _, first = rates([1.0, 0.5])
    _, second = rates([])
    second.load_state_dict(first.state_dict())
    assert second.left and second.best == 0.5
