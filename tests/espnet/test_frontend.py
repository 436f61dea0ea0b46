"""The frontend gives from audio what the feature program stores, and lets features through."""

from __future__ import annotations

import pytest
import torch

from dirnet.asr.features import Mfcc, MfccConfig
from dirnet.errors import UserError
from dirnet.espnet.frontend import MfccFrontend


def test_features_pass_and_audio_is_turned_into_the_same_features():
    frontend, audio = MfccFrontend(), 0.1 * torch.randn(2, 8000)
    audio[1, 5000:] = 0
    features, lengths = frontend(audio, torch.tensor([8000, 5000]))
    assert lengths.tolist() == [48, 29] and features.shape == (2, 48, 26)
    for row, samples in enumerate((8000, 5000)):
        alone = Mfcc(MfccConfig())(audio[row, None, :samples])[0]
        torch.testing.assert_close(features[row, : len(alone)], alone, rtol=0, atol=1e-4)
    again, same = frontend(features, lengths)
    assert again is features and same is lengths


def test_options_and_mistakes():
    assert MfccFrontend({"num_ceps": 13}).output_size() == 13
    assert not MfccFrontend().state_dict()
    with pytest.raises(UserError, match="did you mean 'num_ceps'"):
        MfccFrontend({"num_cep": 13})
    with pytest.raises(UserError, match="40 values a frame, expected 26"):
        MfccFrontend()(torch.zeros(1, 5, 40), torch.tensor([5]))
    with pytest.raises(UserError, match="300 samples is shorter than one window"):
        MfccFrontend()(torch.zeros(2, 1000), torch.tensor([1000, 300]))
