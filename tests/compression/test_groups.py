"""Finding the layers in somebody else's model, and putting the new ones in their place."""

import copy
import re

import pytest
import torch
from torch import nn

import dirnet
from dirnet.compression.compressor import compress
from dirnet.compression.groups import dense_rnns, matrix_groups, replace
from dirnet.errors import UserError
from dirnet.nn.cells import DirNetLSTMCell
from dirnet.nn.coded import CodedMatrix


class Owner(nn.Module):
    """Uses one layer twice, as models with shared encoders do."""

    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(4, 3, 2)
        self.blocks = nn.ModuleList([nn.GRU(3, 3), nn.Linear(3, 2)])
        self.again = self.first


def test_groups_share_what_reads_one_vector():
    lstm = nn.LSTM(4, 3, 2)
    groups = matrix_groups(lstm, "enc.")
    assert [(group.name, group.shape) for group in groups] == [
        ("enc.input", (4, 12)),
        ("enc.hidden_l0", (3, 24)),
        ("enc.hidden_l1", (3, 12)),
    ]
    assert torch.equal(groups[1].matrix, torch.cat([lstm.weight_hh_l0.t(), lstm.weight_ih_l1.t()], dim=1))
    assert [group.w_h_columns for group in groups] == [None, 12, 12]
    assert [group.w_h_columns for group in matrix_groups(nn.LSTM(3, 3), input_group="shared")] == [None]


def test_all_layers_are_found_and_replaced_everywhere():
    model = Owner()
    rnns = dense_rnns(model)
    assert list(rnns) == ["first", "blocks.0"]
    new = {rnn: nn.Identity() for rnn in rnns.values()}
    assert replace(model, new) is model
    assert model.first is model.again is new[rnns["first"]] and model.blocks[0] is new[rnns["blocks.0"]]
    lstm = nn.LSTM(4, 3)
    assert replace(lstm, {lstm: model}) is model


def test_shared_layers_are_compressed_and_counted_once():
    model, report = compress(Owner(), "1.5x", "prune", progress=False)
    assert model.first is model.again
    coded = [matrix for matrix in model.modules() if isinstance(matrix, CodedMatrix)]
    biases = 4 * (2 * 2 * 12 + 2 * 9)  # two LSTM layers, one GRU layer
    assert report["compressed"]["bytes"] == sum(matrix.stored_bytes() for matrix in coded) + biases + 4 * 8


def test_cells_are_layers_and_their_successors_cells():
    model = nn.ModuleDict({"cell": nn.LSTMCell(8, 10), "layer": nn.GRU(10, 6)})
    assert [group.name for name, rnn in dense_rnns(model).items() for group in matrix_groups(rnn, f"{name}.")] == [
        "cell.input", "cell.hidden_l0", "layer.input", "layer.hidden_l0"]  # fmt: skip
    inputs = torch.randn(5, 8)
    told = model["cell"](inputs)
    kept = compress(copy.deepcopy(model), "1x", progress=False)[0]
    assert type(kept["cell"]) is DirNetLSTMCell
    torch.testing.assert_close(kept["cell"](inputs), told)
    small, report = compress(model, "2x", progress=False)
    assert sum(parameter.numel() for parameter in small.parameters()) == report["compressed"]["params"]
    assert report["dense"]["macs_per_frame"] == 4 * 10 * 18 + 3 * 6 * 16


def test_what_cannot_be_compressed_is_named():
    class Own(nn.RNNBase):
        pass

    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(4, 4)), {nn.LSTM}, dtype=torch.qint8)
    for model, fault in (
        (nn.Sequential(Own("LSTM", 2, 2)), "Own is not an nn.LSTM"),
        (quantised, "0 is a quantised LSTM; start from the float model"),
        (compress(nn.Sequential(nn.GRUCell(6, 6)), "2x", progress=False)[0], "compressed already"),
    ):
        with pytest.raises(UserError, match=fault):
            dense_rnns(model)


def test_nothing_to_compress_and_projections_are_refused():
    with pytest.raises(UserError, match="Linear has no nn.LSTM"):
        dense_rnns(nn.Linear(3, 2))
    with pytest.raises(UserError, match="proj_size 2"):
        dense_rnns(nn.LSTM(4, 3, proj_size=2))


def test_layers_that_do_more_than_torchs_are_refused():
    class Louder(nn.LSTM):
        def forward(self, *inputs):
            output, states = super().forward(*inputs)
            return 100 * output, states

    hooked, normed = nn.LSTM(4, 4), nn.utils.parametrizations.weight_norm(nn.LSTM(4, 4), "weight_hh_l0")
    hooked.register_forward_hook(lambda module, inputs, output: output)
    patched = nn.LSTM(4, 4)
    patched.forward = lambda inputs: inputs
    own, added = "forward of its own", "hooks or"
    for module, fault in ((Louder(4, 4), own), (patched, own), (hooked, added), (normed, added)):
        with pytest.raises(UserError, match=fault):
            dense_rnns(nn.Sequential(module))


def test_weights_that_are_not_finite_are_named():
    lstm = nn.LSTM(4, 4, 2)
    with torch.no_grad():
        lstm.weight_hh_l1[0, 2] = float("nan")
    for method in ("dirnet", "dirnet_b4", "svd", "dense", "dirnet_paper"):
        with pytest.raises(UserError, match=r"rnn.weight_hh_l1 has 1 NaN or infinite of 64 values"):
            compress(nn.ModuleDict({"rnn": lstm}), "1x", method, progress=False)


def test_weights_without_values_are_named():
    with torch.device("meta"):
        layer, cell = nn.LSTM(4, 4), nn.Sequential(nn.GRUCell(4, 4))
    for model, fault in ((layer, "the model, a LSTM, is on the device meta"), (cell, "0, a GRUCell, is on the device")):
        for data in (None, [torch.randn(5, 4)]):
            with pytest.raises(UserError, match=fault):
                compress(model, "2x", progress=False, data=data)


def test_one_parameter_in_two_layers_is_refused():
    first, second = nn.LSTM(4, 4), nn.LSTM(4, 4)
    second.weight_hh_l0 = first.weight_hh_l0
    with pytest.raises(UserError, match="1.weight_hh_l0 is also 0.weight_hh_l0"):
        compress(nn.Sequential(first, second), "2x", progress=False)


def test_a_compiled_layer_is_refused_and_a_compiled_model_is_not():
    model = nn.Sequential(nn.LSTM(8, 8), nn.Identity())
    model[0] = torch.compile(model[0], backend="eager")
    with pytest.raises(UserError, match="0 is a compiled LSTM; compress first, then compile"):
        dirnet.compress(model, "2x", progress=False)
    with pytest.raises(UserError, match="the model is a compiled GRU"):
        dirnet.compress(torch.compile(nn.GRU(8, 8), backend="eager"), "2x", progress=False)

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(8, 8)

        def forward(self, inputs):
            return self.rnn(inputs)[0]

    inputs, model = torch.randn(3, 2, 8), torch.compile(Tagger(), backend="eager")
    before = model(inputs)
    small, _ = dirnet.compress(model, "2x", progress=False)
    assert (small(inputs) - before).abs().max() > 1e-3
    torch.testing.assert_close(small(inputs), small._orig_mod(inputs))


def test_a_parameter_that_stands_elsewhere_is_named():
    class Tied(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.rnn, self.output = kind(8, 8), nn.Linear(8, 8, bias=False)
            self.output.weight = self.rnn.weight_hh if kind is nn.RNNCell else self.rnn.weight_hh_l0

    for kind in (nn.RNN, nn.RNNCell):
        with pytest.raises(UserError, match="rnn.weight_hh_l0 is also output.weight, which compressed layers cannot"):
            dense_rnns(Tied(kind))
    stack = nn.LSTM(8, 8, 2)
    stack.weight_hh_l1 = stack.weight_hh_l0
    with pytest.raises(UserError, match="weight_hh_l1 is also weight_hh_l0"):
        dense_rnns(stack)


def test_what_a_layer_has_beyond_torchs_is_named():
    hooked = nn.LSTM(8, 8)
    hooked.register_full_backward_hook(lambda *_: None)
    with pytest.raises(UserError, match="has hooks or parametrizations"):
        dense_rnns(hooked)
    grown = nn.LSTM(8, 8)
    grown.norm = nn.LayerNorm(8)
    with pytest.raises(UserError, match="holds norm, which torch's has not"):
        dense_rnns(grown)
    learned = nn.GRU(8, 8)
    learned.start = nn.Parameter(torch.zeros(8))
    with pytest.raises(UserError, match="holds start, which torch's has not"):
        dense_rnns(learned)

    class Mine(nn.LSTM):
        def reset_parameters(self):
            nn.init.zeros_(self.weight_ih_l0)

    class Zeroed(Mine):
        def zero_state(self, batch):
            return torch.zeros(1, batch, self.hidden_size)

    assert dense_rnns(Mine(8, 8))
    with pytest.raises(UserError, match="a Zeroed, holds zero_state, which torch's has not"):
        dense_rnns(Zeroed(8, 8))


@pytest.mark.parametrize("size", [1e20, 1e-25])
def test_values_whose_squares_float32_loses_are_named(size):
    rnn = nn.RNN(8, 8)
    nn.init.constant_(rnn.weight_hh_l0, size)
    told = f"rnn.weight_hh_l0 has {size:.1e} as its largest value, expected 1e-15 to 1e15"
    with pytest.raises(UserError, match=re.escape(told)):
        matrix_groups(rnn, "rnn.")
