"""`bench.ctc`: what a training in bfloat16 shares with one in float32, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch

from bench.corpus import Batch, Corpus
from bench.ctc import Training, ctc_loss, train
from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel


def test_bfloat16_goes_the_way_of_float32_with_weights_in_float32(work):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("torch's own LSTM has no bfloat16 on a processor without AVX-512")
    corpus = Corpus(work, torch.device("cpu"))
    torch.manual_seed(0)
    start, moved = AcousticModel(corpus.model_config("lstm", 2, 16, 3)), {}
    for precision in ("float32", "bfloat16"):
        model = train(
            copy.deepcopy(start), corpus, Training(epochs=1, rate=1e-3, batch=8, precision=precision, dropout=0.0), 0,
            log=lambda line: None,
        )  # fmt: skip
        assert all(value.dtype == torch.float32 for value in model.parameters())
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        moved[precision] = torch.cat([(after - before).detach().flatten() for after, before in pairs])
    exact, rounded = moved["float32"], moved["bfloat16"]
    assert not torch.equal(exact, rounded)  # it was not ignored
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.9


def test_a_precision_is_one_of_two():
    with pytest.raises(UserError, match="precision is 'half', expected float32 or bfloat16"):
        Training(epochs=1, rate=1e-3, precision="half")


def test_a_processor_without_bfloat16_is_told_at_once(work, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    corpus = Corpus(work, torch.device("cpu"))
    model = AcousticModel(corpus.model_config("lstm", 1, 4, 3))
    with pytest.raises(UserError, match="precision is bfloat16.*take float32"):
        train(model, corpus, Training(epochs=1, rate=1e-3, precision="bfloat16"), 0)


def test_the_loss_is_the_mean_over_what_ctc_has_a_path_for():
    """Two equal phones want three frames: with two their loss is infinite, and they count nothing."""
    log_probs = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)

    def batch(*phones):
        lengths = torch.full((len(phones),), 2)
        return Batch(torch.arange(len(phones)), torch.zeros(len(phones), 2, 26), lengths, torch.tensor(phones), lengths)

    both = ctc_loss(log_probs, torch.tensor([2, 2]), batch([1, 1], [2, 3]))
    alone = ctc_loss(log_probs[1:], torch.tensor([2]), batch([2, 3]))
    torch.testing.assert_close(both, alone)
    assert float(alone) == pytest.approx(-float(log_probs[1, 0, 2] + log_probs[1, 1, 3]))
