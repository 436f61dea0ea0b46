"""The coded cells against torch's cells of the same weights, and layers that stand for cells."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import dirnet
from dirnet.errors import UserError
from dirnet.nn.cells import CELLS, as_layer, in_place_of, origin
from dirnet.nn.recurrent import coded_class

KINDS = [(nn.LSTMCell, {}), (nn.GRUCell, {}), (nn.RNNCell, {}), (nn.RNNCell, {"nonlinearity": "relu"})]


def torch_cell(cell, dense: nn.RNNCellBase) -> nn.RNNCellBase:
    """`dense` with the weights that `cell` stands for."""
    with torch.no_grad():
        for name, matrix in zip(("weight_ih", "weight_hh"), cell.groups, strict=True):
            getattr(dense, name).copy_(matrix.matrix().T)
        for name in ("bias_ih", "bias_hh"):
            if cell.bias:
                getattr(dense, name).copy_(getattr(cell, name))
    return dense


@pytest.mark.parametrize(("kind", "extra"), KINDS)
@pytest.mark.parametrize("shape", [(3,), ()], ids=["batch", "single"])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"dtype": "int8"}, {"shifts": 1}])
def test_a_step_and_its_gradients_are_those_of_the_torch_cell(kind, extra, shape, options):
    torch.manual_seed(1)
    columns = {nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}[kind] * 6
    cell = CELLS[kind](5, 6, layout=[[3, columns], [None, 2 * columns]], **extra, **options)
    dense = torch_cell(cell, kind(5, 6, bias=options.get("bias", True), **extra))
    step, hidden = torch.randn(*shape, 5), torch.randn(*shape, 6)
    state = (hidden, torch.randn(*shape, 6)) if kind is nn.LSTMCell else hidden
    inputs = [step.clone().requires_grad_() for _ in range(2)]
    for given in (state, None):
        found, expected = (module(x, given) for module, x in zip((cell, dense), inputs, strict=True))
        assert isinstance(found, tuple) == isinstance(expected, tuple)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    for output in (found, expected):
        (output[0] if isinstance(output, tuple) else output).square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-5, rtol=1e-4)
    assert all(group.codes.grad is not None for group in cell.groups)
    assert isinstance(cell, kind)  # owners such as ESPnet's decoders may ask


def test_shared_dictionary_of_input_and_state():
    cell = CELLS[nn.GRUCell](6, 6, layout=[[4, 60]], input_group="shared")
    matrix = cell.groups[0].matrix()
    dense = nn.GRUCell(6, 6)
    with torch.no_grad():
        dense.weight_hh.copy_(matrix[:, :18].T)
        dense.weight_ih.copy_(matrix[:, 18:].T)
        dense.bias_ih.copy_(cell.bias_ih)
        dense.bias_hh.copy_(cell.bias_hh)
    step, state = torch.randn(2, 6), torch.randn(2, 6)
    torch.testing.assert_close(cell(step, state), dense(step, state))


@pytest.mark.parametrize(("kind", "extra"), KINDS)
def test_a_layer_stands_for_a_cell_and_its_successor_takes_the_cells_place(kind, extra):
    cell = kind(5, 6, **extra)
    layer = as_layer(cell)
    step = torch.randn(3, 5)
    output = layer(step[None])[0][0]
    first = cell(step)
    torch.testing.assert_close(output, first[0] if isinstance(first, tuple) else first)
    assert layer.weight_ih_l0 is cell.weight_ih and origin(layer) is cell and origin(layer.eval()) is cell
    columns = layer.weight_hh_l0.shape[0]
    coded = coded_class(layer)(5, 6, layout=[[2, columns], [2, columns]], **extra)
    found = in_place_of(layer, coded)
    assert type(found) is CELLS[kind] and found.layout == coded.layout
    after = found(step)
    torch.testing.assert_close(after[0] if isinstance(after, tuple) else after, coded(step[None])[0][0])
    lstm = nn.LSTM(5, 6)
    assert origin(lstm) is lstm and in_place_of(lstm, coded) is coded


def test_pickles_and_copies():
    cell = CELLS[nn.LSTMCell](5, 6, layout=[[3, 30], [3, 30]])
    step = torch.randn(2, 5)
    for other in (pickle.loads(pickle.dumps(cell)), copy.deepcopy(cell)):
        torch.testing.assert_close(other(step), cell(step))


def test_an_unknown_cell_is_refused():
    class Own(nn.RNNCellBase):
        pass

    with pytest.raises(UserError, match="Own is not an LSTMCell"):
        as_layer(Own(2, 2, True, 4))


@pytest.mark.parametrize("dense_class", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_what_torchs_cell_refuses_is_refused(dense_class):
    dense = dense_class(12, 24)
    coded, _ = dirnet.compress(copy.deepcopy(dense), "2x", progress=False)
    inputs, state = torch.randn(3, 12), torch.randn(3, 24)
    pair = dense_class is nn.LSTMCell
    calls = [
        (torch.randn(5, 3, 12), None),
        (torch.randn(3, 11), None),
        (inputs, (state[:1], state[:1]) if pair else state[:1]),
        (inputs, (state[0], state[0]) if pair else state[0]),
        (inputs, (state[:, :20], state[:, :20]) if pair else state[:, :20]),
        (inputs, torch.randn(2, 3, 24) if pair else (state, state)),
    ]
    for cell in (dense, coded):
        for given, hx in calls:
            with pytest.raises((ValueError, RuntimeError, TypeError, AttributeError)):
                cell(given, hx)
        cell(inputs, (state, state) if pair else state)
        cell(inputs[0], (state[0], state[0]) if pair else state[0])
        assert cell(inputs[:0])[0].shape == (0, 24) if pair else cell(inputs[:0]).shape == (0, 24)
    for given, hx in calls:
        with pytest.raises((ValueError, TypeError), match="expected"):
            coded(given, hx)
