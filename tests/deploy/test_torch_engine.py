import pytest
import torch

from dirnet.deploy import torch_engine
from dirnet.errors import UserError


def streamed(peer, windows, chunk):
    states, found = peer.initial_states(), []
    for piece in windows.split(chunk):
        peer.prepare(piece, states)
        peer.compute()
        logits, states = peer.results()
        found.append(logits)
    return torch.cat(found)


@torch.no_grad()
@pytest.mark.parametrize("rnn_type", ["lstm", "gru", "rnn"])
def test_eager_torch_streams_as_it_runs_in_one_pass(model_of, rnn_type):
    model, windows = model_of(rnn_type, dense=True), torch.randn(12, 494)
    expected = model.output(model.rnn(windows[None])[0])[0]
    torch.testing.assert_close(streamed(torch_engine.TorchModel(model), windows, 4), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_every_int8_library_rounds_the_same_model(model_of, rnn_type):
    model, windows = model_of(rnn_type, dense=True), torch.randn(24, 494)
    expected = model.output(model.rnn(windows[None])[0])[0]
    peers = torch_engine.quantised(model)
    for peer in peers.values():
        error = (streamed(peer, windows, 8) - expected).norm() / (expected - expected.mean(0)).norm()
        assert 1e-6 < error < 0.1  # rounded, and nearly the same
    name, peer = torch_engine.fastest(peers, windows[:8])
    assert peers[name] is peer
    assert type(model.rnn).__name__ == rnn_type.upper()  # the model itself stays as it was


def test_a_cell_that_torch_would_leave_in_float_is_refused(model_of):
    with pytest.raises(UserError, match="no dynamic int8 RNN"):
        torch_engine.quantised(model_of("rnn", dense=True))
