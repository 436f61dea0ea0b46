import pytest
import torch

from dirnet.deploy import onnx_engine

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
