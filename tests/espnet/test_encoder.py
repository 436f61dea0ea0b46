"""The encoder against torch's layers, utterance by utterance, dense and compressed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dirnet.errors import UserError
from dirnet.espnet.encoder import RecurrentEncoder
from dirnet.espnet.splice import SplicePreEncoder


@pytest.mark.parametrize("kind, torch_class", [("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_batch_equals_its_utterances(kind, torch_class, stride):
    encoder = RecurrentEncoder(12, kind, hidden_size=7, num_layers=2, frame_stride=stride).eval()
    plain = torch_class(12, 7, 2, batch_first=True)
    plain.load_state_dict({name.removeprefix("rnn."): value for name, value in encoder.state_dict().items()})
    features, lengths = torch.randn(3, 11, 12), torch.tensor([5, 11, 8])  # not sorted
    output, steps, _ = encoder(features, lengths)
    assert steps.tolist() == [-(-n // stride) for n in (5, 11, 8)]
    for row, length in enumerate(lengths.tolist()):
        alone = plain(features[row, None, :length:stride])[0][0]
        torch.testing.assert_close(output[row, : len(alone)], alone)


def test_bidirectional_and_states():
    encoder = RecurrentEncoder(4, hidden_size=5, num_layers=1, bidirectional=True)
    assert encoder.output_size() == 10 and encoder(torch.randn(1, 3, 4), torch.tensor([3]))[0].shape == (1, 3, 10)
    encoder = RecurrentEncoder(4, hidden_size=5, num_layers=2).eval()
    x = torch.randn(1, 6, 4)
    whole = encoder(x, torch.tensor([6]))[0]
    first, _, states = encoder(x[:, :4], torch.tensor([4]), (torch.zeros(2, 1, 5), torch.zeros(2, 1, 5)))
    rest, _, _ = encoder(x[:, 4:], torch.tensor([2]), states)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole)


def test_compressed_layout():
    layout = [[3, 20], [None, 30], [4, None]]
    encoder = RecurrentEncoder(12, hidden_size=8, num_layers=2, compression=layout, block=2)
    assert encoder.rnn.layout == layout and encoder.rnn.block == 2
    assert all(name.startswith("rnn.") for name in encoder.state_dict())
    output, _, _ = encoder(torch.randn(2, 5, 12), torch.tensor([5, 3]))
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_int8_layers():
    layout = [[3, 20], [None, 30], [4, None]]
    encoder = RecurrentEncoder(12, hidden_size=8, num_layers=2, compression=layout, block=2, dtype="int8")
    assert [group.dtype for group in encoder.rnn.groups] == ["int8"] * 3
    with pytest.raises(UserError, match="dtype is 'int8', expected float32 for torch's own layers"):
        RecurrentEncoder(4, dtype="int8")


def test_mistakes():
    with pytest.raises(UserError, match="rnn_type is 'lstn'"):
        RecurrentEncoder(4, rnn_type="lstn")
    with pytest.raises(UserError, match="frame_stride is 4"):
        RecurrentEncoder(4, frame_stride=4)


def test_splice_shows_the_neighbours():
    splice = SplicePreEncoder(2, context=2)
    frames = torch.arange(1.0, 9.0).view(1, 4, 2)
    output, lengths = splice(frames, torch.tensor([4]))
    assert splice.output_size() == output.shape[2] == 10 and lengths.tolist() == [4]
    assert output[0, 0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]
    assert output[0, 3].tolist() == [3, 4, 5, 6, 7, 8, 0, 0, 0, 0]
