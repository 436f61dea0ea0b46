"""Augmentation keeps the utterance's mean where it masks and leaves padding out of account."""

from __future__ import annotations

import torch

from dirnet.espnet.specaug import MfccSpecAug

MASK = {"apply_time_warp": False, "apply_freq_mask": False, "time_mask_width_range": [3, 4], "num_time_mask": 1}


def test_masked_frames_become_the_mean_of_the_utterance():
    x = torch.randn(2, 40, 5) + 100
    x[1, 25:] = -1e6
    lengths = torch.tensor([40, 25])
    output, _ = MfccSpecAug(**MASK)(x.clone(), lengths)
    for row, length in enumerate(lengths.tolist()):
        changed = (output[row, :length] - x[row, :length]).abs().amax(1) > 1e-3
        assert int(changed.sum()) <= 4
        torch.testing.assert_close(output[row, :length][changed], x[row, :length].mean(0).expand(int(changed.sum()), 5))


def test_channel_is_one_constant_per_utterance_and_cepstrum():
    x = torch.randn(4, 30, 5) * torch.tensor([1.0, 10.0, 1.0, 1.0, 0.1])
    augment = MfccSpecAug(**{**MASK, "time_mask_width_range": [0, 1]}, channel=0.5)
    shift = augment(x.clone(), torch.full((4,), 30))[0] - x
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-4)
    assert shift[:, 0, 1].abs().mean() > 5 * shift[:, 0, 4].abs().mean() > 0
