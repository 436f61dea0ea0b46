"""Forced alignment against a search over all paths."""

from __future__ import annotations

import itertools

import torch

from dirnet.asr.alignment import NO_PATH, align
from dirnet.asr.denominator import BLANK


def test_alignment_is_the_best_path_of_the_transcript():
    log_probs = (2 * torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(3))).log_softmax(-1)
    lengths = torch.tensor([6, 5, 4, 6])
    targets, sizes = torch.tensor([[1, 2, 3], [2, 2, -1], [3, -1, -1], [-1, -1, -1]]), torch.tensor([3, 2, 1, 0])
    found = align(log_probs, lengths, targets, sizes)
    for row, length in enumerate(lengths.tolist()):
        wanted = targets[row, : sizes[row]].tolist()
        paths = itertools.product(range(4), repeat=length)
        paths = [path for path in paths if [s for s, _ in itertools.groupby(path) if s != BLANK] == wanted]
        best = max(paths, key=lambda path, row=row: sum(float(log_probs[row, t, s]) for t, s in enumerate(path)))
        assert found[row, :length].tolist() == list(best)
        assert found[row, length:].eq(BLANK).all()


def test_a_transcript_without_a_path_is_marked():
    found = align(torch.zeros(3, 3, 2), torch.tensor([2, 3, 3]), torch.tensor([[1, 1]] * 3), torch.tensor([2, 2, 2]))
    assert found.tolist() == [[NO_PATH] * 3, [1, BLANK, 1], [1, BLANK, 1]]
