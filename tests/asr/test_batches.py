"""Batches of features: what is drawn, how it is padded, and that it is read anew."""

import pytest
import torch

from dirnet.asr.batches import FeatureBatches
from dirnet.errors import UserError


def lengths(batches):
    return [int(length) for _, lengths in batches for length in lengths]


def test_utterances_are_drawn_by_the_seed_without_losing_a_frame(scp):
    assert lengths(FeatureBatches(scp, 30, 0)) == lengths(FeatureBatches(scp, 99, 1)) == list(range(5, 35))
    drawn = FeatureBatches(scp, 7, 0)
    assert lengths(drawn) == lengths(FeatureBatches(scp, 7, 0)) != lengths(FeatureBatches(scp, 7, 1))
    assert drawn.utterances == len(lengths(drawn)) == 7
    for features, steps in FeatureBatches(scp, 30):
        for row, length in zip(features, steps, strict=True):
            assert row[:length].abs().min() > 0 and not row[length:].any()
            assert row[:length].mean() == pytest.approx(int(length) - 5, abs=1.5)


def test_batches_come_again_and_in_random_order(scp):
    batches = FeatureBatches(scp, 30)
    orders = {tuple(lengths(batches.shuffled(seed))) for seed in range(20)}
    assert len(batches) == 2 and orders == {(*range(5, 35),), (*range(25, 35), *range(5, 25))}
    assert lengths(batches) == lengths(batches) == list(range(5, 35))
    moved = batches.shuffled(0)
    assert any(torch.equal(moved[at][0], batches[1][0]) for at in range(2))


def test_no_utterances_are_named(tmp_path):
    (tmp_path / "feats.scp").write_text("")
    with pytest.raises(UserError, match="lists no utterances|is empty"):
        FeatureBatches(tmp_path / "feats.scp", 3)
