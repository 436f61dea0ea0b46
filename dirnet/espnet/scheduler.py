"""A learning rate that is held on CTC's all-blank plateau and reduced afterwards."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau


class HoldThenReduce(ReduceLROnPlateau):
    """Reduce the rate when an error rate stops falling, but not before it has fallen below `leave` for the first time.

    CTC training starts with epochs of all-blank output, where nothing on the development set improves: a plain
    plateau rule would cut the rate there and never get out. Give the phone error rate (a fraction) as the value:
    `val_scheduler_criterion: [valid, per]`. `factor`, `patience` (epochs), `threshold`
    (relative) and `min_lr` as in torch.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        leave: float = 0.9,
        factor: float = 0.5,
        patience: int = 1,
        threshold: float = 0.01,
        min_lr: float = 0.0,
    ):
        super().__init__(optimizer, factor=factor, patience=patience, threshold=threshold, min_lr=min_lr)
        self.leave = leave
        self.left = False

    def step(self, metrics, epoch=None) -> None:
        self.left = self.left or float(metrics) < self.leave
        if self.left:
            super().step(metrics, epoch)
