"""`bench.corpus`: an epoch reads the share of the training set that it is told to, another one each time."""

from __future__ import annotations

import pytest
import torch

from bench.corpus import Corpus
from bench.ctc import Training
from dirnet.errors import UserError


def test_an_epoch_reads_a_share_of_the_batches(work):
    data = Corpus(work, torch.device("cpu")).train
    generator = torch.Generator().manual_seed(0)
    whole = [batch.rows.tolist() for batch in data.batches(5)]
    assert sorted(sum(whole, [])) == list(range(24)) and len(whole) == 5
    epochs = [[batch.rows.tolist() for batch in data.batches(5, generator, 0.5)] for _ in range(8)]
    assert all(len(epoch) == 3 and all(rows in whole for rows in epoch) for epoch in epochs)
    assert len({str(sorted(epoch)) for epoch in epochs}) > 1


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_is_a_part(share):
    with pytest.raises(UserError, match=f"share is {share}"):
        Training(epochs=1, rate=1e-3, share=share)
