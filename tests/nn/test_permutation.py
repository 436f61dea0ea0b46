"""Reordered hidden units: the same function to rounding, for every kind of stack."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dirnet.errors import UserError
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.permutation import inverse, permute_acoustic_model, permute_states, permute_units, states_of

KINDS = [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu"})]
stacks = pytest.mark.parametrize("kind,extra", KINDS, ids=["lstm", "gru", "rnn", "relu"])
ways = pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])


def drawn_orders(rnn, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(rnn.hidden_size, generator=generator) for _ in states_of(rnn)]


def states_for(rnn, batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(states_of(rnn)), batch, rnn.hidden_size)
    drawn = tuple(torch.randn(shape, generator=generator).to(rnn.weight_ih_l0.dtype) for _ in range(2))
    return drawn if isinstance(rnn, nn.LSTM) else drawn[0]


def close(one, other):
    if isinstance(one, tuple):
        return all(close(a, b) for a, b in zip(one, other, strict=True))
    return torch.allclose(one, other, rtol=0, atol=1e-6)


@stacks
@ways
@pytest.mark.parametrize("layers,bias", [(1, True), (3, True), (2, False)])
def test_outputs_and_states_are_those_of_before_in_another_order(kind, extra, bidirectional, layers, bias):
    torch.manual_seed(0)
    rnn = kind(5, 6, layers, bias=bias, bidirectional=bidirectional, **extra).double()
    moved, orders = copy.deepcopy(rnn), drawn_orders(rnn)
    permute_units(moved, orders)
    assert not torch.equal(moved.weight_hh_l0, rnn.weight_hh_l0)
    inputs, states = torch.randn(7, 3, 5).double(), states_for(rnn, 3)
    output, end = rnn(inputs, states)
    found, moved_end = moved(inputs, permute_states(states, orders))
    assert close(permute_states(moved_end, inverse(orders)), end)
    last = orders[-2:] if bidirectional else orders[-1:]
    columns = torch.cat([6 * place + order for place, order in enumerate(last)])
    assert close(found, output[..., columns])


@stacks
@ways
def test_an_owner_sees_no_change_where_the_last_layer_stays(kind, extra, bidirectional):
    torch.manual_seed(0)
    rnn = kind(5, 6, 3, batch_first=True, bidirectional=bidirectional, **extra).double()
    moved, orders = copy.deepcopy(rnn), drawn_orders(rnn)
    for place in range(-2 if bidirectional else -1, 0):
        orders[place] = torch.arange(6)
    permute_units(moved, orders)
    inputs = pack_padded_sequence(torch.randn(2, 7, 5).double(), torch.tensor([7, 4]), batch_first=True)
    assert close(pad_packed_sequence(moved(inputs)[0])[0], pad_packed_sequence(rnn(inputs)[0])[0])


@pytest.mark.parametrize("rnn_type", ["lstm", "gru", "rnn"])
@ways
def test_the_acoustic_model_gives_the_same_posteriors(rnn_type, bidirectional):
    torch.manual_seed(0)
    config = AcousticModelConfig(
        rnn_type=rnn_type, hidden_size=8, num_layers=2, feature_size=3, context=1, num_outputs=4, phones=tuple("-abc"),
        bidirectional=bidirectional,
    )  # fmt: skip
    model = AcousticModel(config).eval()
    moved = copy.deepcopy(model)
    permute_acoustic_model(moved, drawn_orders(model.rnn))
    features, lengths = torch.randn(3, 9, 3), torch.tensor([9, 5, 7])
    assert not torch.equal(moved.output.weight, model.output.weight)
    for row, length in enumerate(lengths):
        assert close(moved(features, lengths)[0][row, :length], model(features, lengths)[0][row, :length])


def test_what_is_no_permutation_is_refused():
    rnn = nn.LSTM(3, 4, 2)
    for orders, message in [
        ([torch.arange(4)], "1 orders are given, expected one for each of 2"),
        ([torch.arange(4), torch.tensor([0, 1, 1, 2])], "order 1 is no permutation of the 4"),
        ([torch.arange(5), torch.arange(4)], "order 0 is no permutation"),
    ]:
        with pytest.raises(UserError, match=message):
            permute_units(rnn, orders)
