"""The acoustic model: splicing against a loop, padding that does not count, parts and back."""

import math

import pytest
import torch

from dirnet.config import from_mapping
from dirnet.errors import UserError
from dirnet.nn import acoustic
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


def small(**changes):
    settings = dict(
        rnn_type="lstm", hidden_size=8, num_layers=2, feature_size=5, context=3, num_outputs=6,
        phones=tuple("-abcde"), cmvn_mean=tuple(range(5)), cmvn_istd=(0.5, 1.0, 2.0, 0.25, 1.5),
    )  # fmt: skip
    torch.manual_seed(0)
    return AcousticModelConfig(**settings | changes)


@pytest.mark.parametrize("context,stride,frames", [(3, 1, 11), (3, 3, 11), (0, 2, 4), (9, 1, 5), (9, 3, 1)])
def test_splice_equals_a_loop(context, stride, frames):
    model = AcousticModel(small(context=context, frame_stride=stride))
    features = torch.randn(2, frames, 5)
    rows = []
    for t in range(0, frames, stride):
        row = []
        for offset in range(-context, context + 1):
            inside = 0 <= t + offset < frames
            row.append(features[:, t + offset] if inside else torch.zeros(2, 5))
        rows.append(torch.cat(row, dim=1))
    assert torch.equal(model.splice(features), torch.stack(rows, dim=1))
    assert len(rows) == math.ceil(frames / stride)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_does_not_count(bidirectional):
    model = AcousticModel(small(frame_stride=2, bidirectional=bidirectional)).eval()
    features, lengths = torch.randn(3, 9, 5), torch.tensor([4, 9, 7])
    batch, steps = model(features, lengths)
    assert batch.shape == (3, 5, 6) and steps.tolist() == [2, 5, 4]
    for row, (length, step) in enumerate(zip(lengths.tolist(), steps.tolist(), strict=True)):
        alone, _ = model(features[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(batch[row, :step], alone[0])
    torch.testing.assert_close(batch.exp().sum(-1), torch.ones(3, 5))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_utterance_of_no_frames_leaves_the_others_alone(bidirectional):
    model = AcousticModel(small(frame_stride=2, bidirectional=bidirectional)).eval()
    features = torch.randn(2, 9, 5)
    batch, steps = model(features, torch.tensor([9, 0]))
    assert steps.tolist() == [5, 0]
    torch.testing.assert_close(batch[0], model(features[:1], torch.tensor([9]))[0][0])


def test_log_posteriors_keep_float32_under_autocast(monkeypatch):
    """An RNN under autocast gives bfloat16; log posteriors rounded like that would be steps of 1/16 apart at -10."""
    model, hidden = AcousticModel(small()), torch.randn(3, 9, 8).bfloat16()
    monkeypatch.setattr(acoustic, "run_rnn", lambda *_: (hidden, None))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = model(torch.randn(3, 9, 5), torch.tensor([9, 9, 9]))
    expected = (hidden.float() @ model.output.weight.T + model.output.bias).log_softmax(-1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_normalisation_is_mean_and_inverse_deviation():
    model = AcousticModel(small())
    features = torch.randn(1, 2, 5)
    want = (features - torch.arange(5.0)) * torch.tensor([0.5, 1.0, 2.0, 0.25, 1.5])
    torch.testing.assert_close(model.normalise(features), want)
    assert not [name for name in model.state_dict() if "cmvn" in name]


def test_parts_and_back_keep_the_posteriors():
    model = AcousticModel(small()).eval()
    state, weight, bias = model.parts(num_outputs=8)
    assert weight.shape == (8, 8) and bias.shape == (8,)
    again = AcousticModel.from_parts(model.config, state, weight, bias).eval()
    features, lengths = torch.randn(2, 9, 5), torch.tensor([9, 5])
    assert torch.equal(again(features, lengths)[0], model(features, lengths)[0])
    hidden = torch.randn(3, 8)
    wide = (hidden @ weight.t() + bias).log_softmax(-1)[:, :6]
    torch.testing.assert_close(wide, model.output(hidden).log_softmax(-1))


def test_parts_of_another_model_are_refused():
    config = small()
    state, weight, bias = AcousticModel(small(num_layers=3)).parts()
    with pytest.raises(UserError, match="do not fit a 2x8 lstm.*weight_ih_l2"):
        AcousticModel.from_parts(config, state, weight, bias)
    state, _, _ = AcousticModel(config).parts()
    with pytest.raises(UserError, match="expected at least 6 rows of 8"):
        AcousticModel.from_parts(config, state, weight[:5], bias[:5])


def test_config_round_trip_and_checks():
    config = small(compression=([4, 20], [None, 30], [4, None]), block=2, mfcc={"num_ceps": 26})
    assert from_mapping(AcousticModelConfig, config.to_mapping(), "model.json") == config
    assert AcousticModel(config).rnn.layout == [[4, 20], [None, 30], [4, None]]
    for wrong, message in [
        ({"rnn_type": "cnn"}, "rnn_type is 'cnn'"),
        ({"phones": ("a",)}, "phones has 1 names"),
        ({"cmvn_mean": (1.0,)}, "cmvn_mean has 1 values"),
        ({"cmvn_istd": (1.0, 0.0, 2.0, 1.0, 1.0)}, "cmvn_istd holds a value that is not positive"),
        ({"frame_stride": 0}, "frame_stride is 0"),
        ({"context": -1}, "context is -1"),
    ]:
        with pytest.raises(UserError, match=message):
            small(**wrong)
    with pytest.raises(UserError, match="features are"):
        AcousticModel(small())(torch.randn(2, 9, 4), torch.tensor([9, 9]))
