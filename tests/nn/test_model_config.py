"""`dirnet.nn.model_config`: the layers that a configuration builds, and the configuration that layers have."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from dirnet import compress
from dirnet.config import from_mapping
from dirnet.errors import UserError
from dirnet.nn.model_config import RecurrentConfig
from dirnet.nn.recurrent import DirNetRecurrent


@pytest.mark.parametrize("rnn_type, kind", [("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_dense_configuration_builds_torchs_layers(rnn_type, kind, bidirectional):
    config = RecurrentConfig(rnn_type, 8, 2)
    layers = config.layers(5, bidirectional)
    assert type(layers) is kind and (layers.input_size, layers.hidden_size, layers.num_layers) == (5, 8, 2)
    assert layers.batch_first and layers.bidirectional is bidirectional and config.of(layers) == config


def test_the_configuration_of_compressed_layers_builds_them_again():
    model = nn.Sequential()
    model.rnn = RecurrentConfig("lstm", 16, 2).layers(12)
    compress(model, "1.5x", "dirnet", seed=0)
    dense = RecurrentConfig("lstm", 16, 2, name="kept")
    config = dense.of(model.rnn)
    assert config.compression and config.name == "kept"
    assert from_mapping(RecurrentConfig, config.to_mapping(), "a file") == config
    again = config.layers(12)
    assert isinstance(again, DirNetRecurrent)
    again.load_state_dict(model.rnn.state_dict())
    inputs = torch.randn(2, 7, 12)
    assert torch.equal(again(inputs)[0], model.rnn(inputs)[0])
    coded = dataclasses.replace(config, block=2, dtype="int8", shifts=1, shift_kind="zero", input_group="shared")
    assert coded.of(RecurrentConfig("lstm", 16, 2).layers(12)) == dense  # back to dense: nothing is left behind


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rnn_type": "cnn"}, "rnn_type is 'cnn', expected one of lstm, gru, rnn"),
        ({"num_layers": 0}, "num_layers is 0, expected at least 1"),
        ({"block": 0}, "block is 0, expected at least 1"),
        ({"dtype": "int8"}, "dtype is 'int8', expected float32 for torch's own layers"),
        ({"dtype": "int16"}, "dtype is 'int16', expected float32 or int8"),
    ],
)
def test_what_no_layers_have_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(RecurrentConfig("lstm", 8, 2), **changes)
