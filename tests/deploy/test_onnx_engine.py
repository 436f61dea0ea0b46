import pytest
import torch

from dirnet.deploy import onnx_engine
from dirnet.errors import UserError

pytestmark = pytest.mark.skipif(not onnx_engine.available(), reason="onnx and onnxruntime are development extras")


@torch.no_grad()
@pytest.mark.parametrize("rnn_type", ["lstm", "gru", "rnn"])
def test_the_peer_computes_the_same_model(model_of, rnn_type):
    model = model_of(rnn_type, dense=True)
    features = model.cmvn_mean + torch.randn(12, 26) / model.cmvn_istd
    expected = model(features[None], torch.tensor([12]))[0][0]
    windows = model.splice(model.normalise(features[None]))[0]
    peer = onnx_engine.OnnxModel(model, 4)
    states, found = peer.initial_states(), []
    for piece in windows.split(4):
        peer.prepare(piece.contiguous(), states)
        peer.compute()
        logits, states = peer.results()
        found.append(logits)
    torch.testing.assert_close(torch.cat(found).log_softmax(dim=-1), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_int8_lstm_is_really_quantised_and_nearly_the_same(model_of):
    model, windows = model_of("lstm", dense=True), torch.randn(24, 494)
    expected = model.output(model.rnn(windows[None])[0])[0]
    graph = onnx_engine._quantised(onnx_engine._graph(model, 24))
    assert [node.op_type for node in graph.graph.node].count("DynamicQuantizeLSTM") == 2
    assert "LSTM" not in {node.op_type for node in graph.graph.node}
    peer = onnx_engine.OnnxModel(model, 24, dtype="int8")
    peer.prepare(windows, peer.initial_states())
    peer.compute()
    assert 1e-6 < (peer.results()[0] - expected).norm() / (expected - expected.mean(0)).norm() < 0.1


def test_a_cell_that_onnxruntime_would_leave_in_float_is_refused(model_of):
    with pytest.raises(UserError, match="no dynamic int8 GRU"):
        onnx_engine.OnnxModel(model_of("gru", dense=True), 2, dtype="int8")
