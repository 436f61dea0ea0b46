"""Batches of features drawn from an archive, on the disk until they are asked for."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dirnet.asr.ark import Matrices
from dirnet.errors import UserError

SIZE = 20  # utterances


class FeatureBatches(Sequence[tuple[Tensor, Tensor]]):
    """(features (B, T, n) float32 padded with zeros, lengths (B,)) of `utterances` drawn from `scp`, or of all.

    Equal seeds draw the same; batches hold utterances of like length, the shortest first. An archive without any is a
    `UserError`.
    """

    def __init__(self, scp: str, utterances: int, seed: int = 0):
        self._archive = Matrices(scp)
        names = list(self._archive)
        if not names:
            raise UserError(f"{scp} lists no utterances; give the feats.scp of training data")
        drawn = np.sort(np.random.default_rng(seed).permutation(len(names))[:utterances])
        ordered = sorted((names[at] for at in drawn), key=lambda name: len(self._archive[name]))
        self._batches = [ordered[start : start + SIZE] for start in range(0, len(ordered), SIZE)]
        self.utterances = len(ordered)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        matrices = [torch.from_numpy(self._archive[name].copy()) for name in self._batches[number]]
        return pad_sequence(matrices, batch_first=True), torch.tensor([len(matrix) for matrix in matrices])

    def shuffled(self, seed: int) -> FeatureBatches:
        """The same batches in random order."""
        moved = copy.copy(self)
        moved._batches = random.Random(seed).sample(self._batches, len(self._batches))
        return moved
