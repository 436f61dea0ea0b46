"""MFCC in pieces is MFCC of the whole."""

from __future__ import annotations

import pytest
import torch

from dirnet.asr.features import Mfcc, MfccConfig
from dirnet.asr.online_features import OnlineMfcc
from dirnet.errors import UserError


@pytest.mark.parametrize("config", [MfccConfig(), MfccConfig(frame_length=20, frame_shift=20, num_ceps=13)], ids=str)
@pytest.mark.parametrize("size", [7, 160, 400, 1600, 8000])
def test_pieces_of_any_size_give_the_frames_of_the_whole(config, size):
    waveform = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(size))
    mfcc = Mfcc(config)
    online = OnlineMfcc(mfcc)
    found = [online.push(piece) for piece in waveform.split(size)]
    torch.testing.assert_close(torch.cat(found), mfcc(waveform[None])[0], atol=1e-5, rtol=1e-5)
    taken = 0
    for frames, piece in zip(found, waveform.split(size), strict=True):  # each frame as soon as it is whole
        assert len(frames) == config.num_frames(taken + len(piece)) - config.num_frames(taken)
        taken += len(piece)


def test_a_gap_between_windows_cannot_be_streamed():
    with pytest.raises(UserError, match="frame_shift is 30 ms, expected at most frame_length, 25 ms"):
        OnlineMfcc(Mfcc(MfccConfig(frame_shift=30)))
