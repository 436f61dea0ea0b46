"""RNNs that run layer by layer against the same that run as a whole: results, gradients, dropout, what is heard."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import dirnet
from dirnet.nn.cells import as_layer
from dirnet.nn.layered import layered

KINDS = {
    "lstm": (nn.LSTM, {}), "gru": (nn.GRU, {}), "tanh": (nn.RNN, {}), "relu": (nn.RNN, {"nonlinearity": "relu"})
}  # fmt: skip


def made(kind, **options):
    torch.manual_seed(0)
    build, extra = KINDS[kind]
    return build(6, 8, 3, **extra, **options)


def called(rnn, *inputs):
    """All tensors that `rnn` returns, and the gradients of its parameters."""
    rnn.zero_grad()
    torch.manual_seed(5)
    output, states = rnn(*inputs)
    values = [output.data if isinstance(output, PackedSequence) else output]
    values += states if isinstance(states, tuple) else [states]
    sum((value * torch.arange(value.numel()).view_as(value).sin()).sum() for value in values).backward()
    return values, {name: parameter.grad.clone() for name, parameter in rnn.named_parameters()}


def given(rnn, layout):
    """(input,) or (input, states) in that layout."""
    lengths = [5, 9, 7]
    sequences = [torch.randn(length, 6) for length in lengths]
    batch, lone = len(lengths), "lone" in layout
    value = pack_sequence(sequences, enforce_sorted=False) if "packed" in layout else torch.randn(9, 3, 6)
    if lone:
        value, batch = torch.randn(9, 6), 1
    elif "packed" not in layout and rnn.batch_first:
        value = value.transpose(0, 1)
    if "states" not in layout:
        return (value,)
    states = tuple(torch.randn(3 * (1 + rnn.bidirectional), batch, 8) for _ in range(1 + (rnn.mode == "LSTM")))
    states = tuple(state[:, 0] for state in states) if lone else states
    return value, states if rnn.mode == "LSTM" else states[0]


@pytest.mark.parametrize("layout", ["padded", "states", "packed", "packed states", "lone", "lone states"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "batch_first": True}, {"bias": False}], ids=str)
def test_results_and_gradients_are_those_of_the_whole(kind, options, layout):
    rnn = made(kind, dropout=0.3, **options)
    compressed, _ = dirnet.compress(copy.deepcopy(rnn), "1.5x", "svd", progress=False)
    for one in (rnn, compressed, copy.deepcopy(rnn).eval()):
        inputs, heard = given(one, layout), []
        values, gradients = called(one, *inputs)
        with layered({"it": one}, lambda name, runs, heard=heard: heard.append((name, runs))):
            again, slopes = called(one, *inputs)
        torch.testing.assert_close(again, values)
        torch.testing.assert_close(slopes, gradients)
        [(name, runs)] = heard
        assert name == "it" and len(runs) == 3 and "forward" not in one.__dict__
        torch.testing.assert_close(runs[-1].output.view_as(values[0]), values[0])
        torch.testing.assert_close(called(one, *inputs), (values, gradients))  # as before


def test_every_layer_is_heard_before_dropout():
    rnn, heard = made("gru", dropout=0.5), []
    inputs = torch.randn(9, 3, 6)
    with layered({"": rnn}, lambda _, runs: heard.extend(runs)):
        rnn(inputs)
    dropped = [bool((run.reads == 0).any()) for run in heard]
    assert dropped == [False, True, True] and not any(bool((run.output == 0).any()) for run in heard)
    kept = heard[1].reads != 0
    torch.testing.assert_close(heard[1].reads[kept], 2 * heard[0].output[kept])


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("shape", [(3, 6), (6,)])
def test_cells(kind, shape):
    cell, heard = kind(6, 8), []
    inputs = torch.randn(shape)
    expected = cell(inputs)
    with layered({"": as_layer(cell)}, lambda _, runs: heard.append(runs)):
        found = cell(inputs)
        again = cell(inputs, found)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(again, cell(inputs, expected))
    assert [len(runs) for runs in heard] == [1, 1]


def test_padding_is_left_out():
    rnn, runs = made("lstm", batch_first=True), []
    inputs = torch.randn(2, 4, 6)
    with layered({"": rnn}, lambda _, heard: runs.extend(heard)):
        rnn(inputs)
    found = runs[0].steps(runs[0].reads, rnn, torch.tensor([1, 4]))
    torch.testing.assert_close(found, torch.cat([inputs[0, :1], inputs[1]]))
    assert len(runs[0].steps(runs[0].reads, rnn, None)) == 8


@pytest.mark.parametrize("bias", [True, False])
def test_gate_values_stand_apart(bias):
    rnn, runs = made("lstm", bidirectional=True, bias=bias), []
    inputs = torch.randn(9, 3, 6)
    expected = rnn(inputs)[0]
    with layered({"": rnn}, lambda _, heard: runs.extend(heard), gates=True):
        output = rnn(inputs)[0]
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    torch.testing.assert_close(runs[0].gates[..., :32], inputs @ rnn.weight_ih_l0.T)
    torch.testing.assert_close(runs[0].gates[..., 32:], inputs @ rnn.weight_ih_l0_reverse.T)
    expected.square().sum().backward()  # the gradient of W_ih is that of the gates times the input
    torch.testing.assert_close(
        torch.einsum("tbg,tbn->gn", runs[0].gates.grad[..., :32], inputs), rnn.weight_ih_l0.grad, rtol=1e-4, atol=1e-5
    )


def test_the_forward_comes_back_after_an_error():
    rnn = made("lstm")
    for inputs in ((torch.randn(9, 3, 7),), (torch.randn(9, 3, 6), [torch.zeros(3, 2, 8)] * 2)):
        with pytest.raises(RuntimeError, match="xpected"), layered({"": rnn}, lambda *_: None):
            rnn(*inputs)
    assert "forward" not in rnn.__dict__ and rnn(torch.randn(9, 3, 6))[0].shape == (9, 3, 8)
