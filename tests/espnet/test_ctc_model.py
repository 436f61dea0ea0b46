"""The model's phone error rate, and features that are not numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_corpus import FEATURES, TOKENS

from dirnet.errors import UserError
from dirnet.espnet.ctc_model import check_features
from dirnet.nn.acoustic import NEVER


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function that builds a small model as ESPnet does, with a `model_conf`."""
    from espnet2.tasks.asr import ASRTask

    stats = tmp_path_factory.mktemp("stats") / "cmvn.npz"
    np.savez(stats, count=1.0, sum=np.zeros(FEATURES), sum_square=np.ones(FEATURES))

    def build(model="dirnet_ctc", **conf):
        args = ASRTask.get_parser().parse_args(["--output_dir", "x", "--encoder", "dirnet_rnn"])
        args.normalize = "global_mvn"
        args.token_list, args.frontend, args.preencoder, args.model = TOKENS, "mfcc", "splice", model
        args.normalize_conf = {"stats_file": str(stats)}
        args.encoder_conf, args.model_conf = {"hidden_size": 6, "num_layers": 1}, conf
        return ASRTask.build_model(args)

    return build


def test_phone_error_rate(build, monkeypatch):
    model = build()
    paths = torch.tensor([[1, 1, 0, 1, 2, 2], [3, 0, 0, 4, 4, 4]])  # AA AA B; K (S lies behind its length)
    monkeypatch.setattr(model.ctc, "argmax", lambda encoded: paths)
    text, sizes = torch.tensor([[1, 1, 2], [3, 3, -1]]), torch.tensor([3, 2])
    assert model.phone_error_rate(None, torch.tensor([6, 3]), text, sizes) == pytest.approx(1 / 5)


def test_outputs_that_no_transcript_has_start_at_zero(build):
    plain, biased = build(), build(blank_bias=-2.0)
    assert plain.ctc.ctc_lo.bias[-2:].tolist() == [NEVER, NEVER]
    assert abs(biased.ctc.ctc_lo.bias[0].item() + 2) < 1 > abs(plain.ctc.ctc_lo.bias[0].item())
    with pytest.raises(UserError, match="ctc_weight is 0.3, expected 1.0"):
        build(ctc_weight=0.3)


def test_nan_features_name_the_utterance(build):
    speech = torch.zeros(2, 30, FEATURES)
    speech[1, 4, 4] = torch.nan
    batch = speech, torch.tensor([30, 30]), torch.tensor([[1], [2]]), torch.tensor([1, 1])
    with pytest.raises(UserError, match="utterance dev-7 hold NaN"):
        build()(*batch, utt_id=["dev-6", "dev-7"])
    check_features(speech[:1])
