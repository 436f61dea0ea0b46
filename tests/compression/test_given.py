"""What `dirnet.compress` is given and leaves alone: layers, frozen parameters, random numbers, data, arguments."""

import weakref

import pytest
import torch
from torch import nn

import dirnet
from dirnet.compression import guide
from dirnet.errors import UserError
from dirnet.nn import storage


def lstm():
    torch.manual_seed(0)
    return nn.LSTM(24, 24, 2)


@pytest.mark.parametrize("method", ["dirnet", "dirnet_b8", "svd"])
def test_the_layer_that_was_given_stays_as_it_was(method):
    """Someone may keep it: a teacher, a baseline."""

    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = lstm()

        def forward(self, inputs):
            return self.rnn(inputs)[0]

    model, data = Owner(), [torch.randn(10, 3, 24) for _ in range(3)]
    dense, before = model.rnn, model(data[0])
    small, _ = dirnet.compress(model, "4x", method, progress=False, data=data, states_inside=True)
    assert small.rnn is not dense and torch.equal(dense(data[0])[0], before)
    assert not torch.equal(small(data[0]), before)


def test_what_was_frozen_stays_frozen():
    dense = lstm()
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "bias_hh_l1"):
        getattr(dense, name).requires_grad_(False)
    small, _ = dirnet.compress(dense, "3x", "svd", progress=False)
    frozen = {name for name, parameter in small.named_parameters() if not parameter.requires_grad}
    # the input's group; hidden_l0 has W_hh_l0 and W_ih_l1, hidden_l1 has W_hh_l1, which is trained
    assert frozen == {f"groups.{group}.{part}" for group in (0, 1) for part in ("dictionary", "codes")} | {"bias_hh_l1"}


def test_the_callers_random_numbers_are_left_alone():
    model = lstm()
    state = torch.get_rng_state()
    dirnet.compress(model, "4x", progress=False)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["svd", "svd_int8", "dirnet", "dirnet_b8_int8", "odl", "prune"])
@pytest.mark.parametrize("size", ["12kB", "20kB"])
def test_weights_that_are_zero_do_not_break_a_budget_of_bytes(method, size):
    torch.manual_seed(0)
    dense = nn.LSTM(16, 32, 2)
    with torch.no_grad():
        for name, weight in dense.named_parameters():
            if name.startswith("weight"):
                weight[[5, 40]] = 0
    small, report = dirnet.compress(dense, size, method, progress=False)
    limit = int(size.removesuffix("kB")) * 1000
    assert report["compressed"]["bytes"] == storage.stored_bytes(small) <= limit


def test_data_is_read_an_input_at_a_time_and_one_input_alone_is_refused():
    alive, most = set(), 0

    def data():
        nonlocal most
        for number in range(12):
            batch = torch.randn(6, 2, 24)
            alive.add(number)
            weakref.finalize(batch, alive.discard, number)
            yield (batch,)
            del batch
            most = max(most, len(alive))

    dirnet.compress(lstm(), "4x", progress=False, data=data())
    assert most <= guide.EFFECT_BATCHES + 1
    for one in (torch.randn(6, 2, 24), {"input": torch.randn(6, 2, 24)}):
        with pytest.raises(UserError, match=r"data is one \w+, expected an iterable of inputs of the model; give"):
            dirnet.compress(lstm(), "4x", progress=False, data=one)


def test_arguments_of_another_type_are_named():
    for arguments, message in (
        ({"block": "8"}, "block is '8', expected 1 or more"),
        ({"block": 2.5}, "block is 2.5, expected 1 or more"),
        ({"method": 3}, "method is 3, expected the name of one"),
        ({"seed": 1.5}, "seed is 1.5, expected a whole number"),
        ({"seed": True}, "seed is True, expected a whole number"),
        ({"nj": "2"}, "nj is '2', expected 1 or more"),
        ({"data": 5}, "data is 5, expected an iterable of inputs of the model, such as a list"),
        ({"data": [torch.randn(6, 2, 24).numpy()]}, "the model refuses an input, ndarray "),
        ({"data": "feats.scp"}, "data is 'feats.scp', expected an iterable of inputs of the model; read the file"),
    ):
        with pytest.raises(UserError, match=message):
            dirnet.compress(lstm(), "4x", progress=False, **arguments)
    with torch.inference_mode(), pytest.raises(UserError, match="in torch.inference_mode.. could not be trained"):
        dirnet.compress(lstm(), "4x", progress=False)
    for model, kind in (("model.pth", "str"), (lstm().state_dict(), "OrderedDict"), (nn.LSTM, "type")):
        with pytest.raises(UserError, match=f"model is a {kind}, expected a torch.nn.Module"):
            dirnet.compress(model, "4x", progress=False)
