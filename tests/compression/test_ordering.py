"""Units ordered for blocks: planted ones come back through a whole compression, the function stays the same."""

import copy

import pytest
import torch
from torch import nn

import dirnet
from dirnet.compression.compressor import compress
from dirnet.compression.groups import matrix_groups
from dirnet.compression.methods import Method
from dirnet.compression.ordering import order_units
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.grouping import GATES
from dirnet.nn.permutation import inverse, permute_acoustic_model, permute_units, states_of

STACKS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def planted(rnn, block, seed=0):
    """Weights of low rank with codes in blocks of units, the units then shuffled; the shuffles."""
    generator = torch.Generator().manual_seed(seed)
    size, gates = rnn.hidden_size, GATES[rnn.mode]
    for name, weight in rnn.named_parameters():
        if name.startswith("weight"):
            atoms = torch.linalg.qr(torch.randn(weight.shape[1], 6, generator=generator))[0]
            kept = (torch.rand(6, gates * size // block, generator=generator) < 0.25).float()
            codes = torch.randn(6, gates * size, generator=generator) * kept.repeat_interleave(block, 1)
            weight.data = (atoms @ codes).T + 0.005 * torch.randn(weight.shape, generator=generator)
    orders = [torch.randperm(size, generator=generator) for _ in states_of(rnn)]
    permute_units(rnn, orders)
    return orders


def equal_error(rnn, block):
    method = Method("dirnet", block=block, allocation="equal")
    return compress(copy.deepcopy(rnn), "4x", method, progress=False)[1]["relative_error"]


@pytest.mark.parametrize("rnn_type,bidirectional", [("lstm", False), ("gru", True)])
def test_planted_blocks_are_worth_as_much_as_before_they_were_shuffled(rnn_type, bidirectional):
    rnn = STACKS[rnn_type](8, 16, 2, bidirectional=bidirectional)
    shuffles = planted(rnn, 4)
    matrices = [group.matrix for group in matrix_groups(rnn)]
    members = [matrix.shape[1] // (16 * GATES[rnn.mode]) for matrix in matrices]
    sizes = [(min(6 * count, len(m)), m.shape[1]) for m, count in zip(matrices, members, strict=True)]
    orders = order_units(rnn, matrices, sizes, 4, last=True)
    whole = copy.deepcopy(rnn)
    permute_units(whole, inverse(shuffles))
    shuffled = equal_error(rnn, 4)
    permute_units(rnn, orders)
    found, best = equal_error(rnn, 4), equal_error(whole, 4)
    assert found < shuffled and found - best < 0.25 * (shuffled - best)


def test_the_last_layer_stays_where_others_read_it():
    rnn = nn.LSTM(10, 24, 2)
    planted(rnn, 4)
    matrices = [group.matrix for group in matrix_groups(rnn)]
    orders = order_units(rnn, matrices, [(6, 300)] * 3, 4, last=False)
    assert torch.equal(orders[1], torch.arange(24)) and not torch.equal(orders[0], torch.arange(24))


def test_blocks_that_reach_over_a_gate_are_no_obstacle():
    rnn = nn.LSTM(10, 12, 2)  # 4 * 12 gate rows in blocks of 8
    matrices = [group.matrix for group in matrix_groups(rnn)]
    for block in (8, 16):
        orders = order_units(rnn, matrices, [(4, 96)] * 3, block, last=True)
        assert all(torch.equal(order.sort().values, torch.arange(12)) for order in orders)


def test_an_acoustic_model_keeps_its_posteriors_and_a_compression_gains():
    torch.manual_seed(0)
    config = AcousticModelConfig(
        rnn_type="lstm", hidden_size=24, num_layers=2, feature_size=4, context=1, num_outputs=4, phones=tuple("-abc"),
    )  # fmt: skip
    model = AcousticModel(config).eval()
    planted(model.rnn, 8)
    data = [(torch.randn(6, 20, 4), torch.full((6,), 20))]
    errors, before = {}, model(*data[0])[0]
    for permute in (False, True):
        method = Method("dirnet", block=8, permute=permute)
        small, report = dirnet.compress(copy.deepcopy(model), "4x", method, progress=False)
        errors[permute] = report["relative_error"]
        assert set(report["unit_orders"]) == ({"rnn"} if permute else set())
    assert errors[True] < 0.8 * errors[False]
    moved = copy.deepcopy(model)
    permute_acoustic_model(moved, [torch.tensor(order) for order in report["unit_orders"]["rnn"]])
    assert torch.allclose(moved(*data[0])[0], before, atol=1e-5)
    whole, _ = dirnet.compress(copy.deepcopy(model), "1x", Method("prune", block=8, permute=True), progress=False)
    assert torch.allclose(whole(*data[0])[0], before, atol=1e-5)


def test_statistics_are_those_of_the_reordered_model():
    """Weighting and order together: the same factors as calibrating the model that was reordered first."""
    torch.manual_seed(0)
    rnn, data = nn.GRU(6, 12, 2), [torch.randn(30, 4, 6)]
    method = Method("dirnet", block=4, permute=True, weighting="activation")
    small, report = dirnet.compress(copy.deepcopy(rnn), "3x", method, progress=False, data=data, states_inside=True)
    moved = copy.deepcopy(rnn)
    permute_units(moved, [torch.tensor(order) for order in report["unit_orders"][""]])
    method = Method("dirnet", block=4, weighting="activation")
    again, _ = dirnet.compress(moved, "3x", method, progress=False, data=data)
    assert torch.allclose(small(data[0])[0], again(data[0])[0], atol=1e-3)


class Translator(nn.Module):
    """Hands the states of one stack to another, where an order of units must not change."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.GRU(8, 16, 2), nn.GRU(8, 16, 2)

    def forward(self, inputs):
        return self.decoder(inputs, self.encoder(inputs)[1])[0]


def test_units_stay_where_states_may_leave_their_layer():
    torch.manual_seed(0)
    model, inputs = Translator(), torch.randn(9, 3, 8)
    before = model(inputs)
    same, report = dirnet.compress(model, "1x", "dirnet_b8", progress=False)
    assert report["unit_orders"] == {}
    torch.testing.assert_close(same(inputs), before)
