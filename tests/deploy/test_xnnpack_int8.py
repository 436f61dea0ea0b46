"""The exported int8 program itself is compared with torch in test_stock_programs.py."""

import pytest
import torch

from dirnet.deploy.streaming import StockModel
from dirnet.deploy.xnnpack_int8 import Int8StockModel


@torch.no_grad()
@pytest.mark.parametrize("rnn_type", ["lstm", "gru", "rnn"])
def test_linear_layers_hold_int8_and_compute_nearly_the_same(model_of, rnn_type):
    model = model_of(rnn_type, dense=True)
    exact, rounded = StockModel(model, 2), Int8StockModel(model, 2)
    features = model.cmvn_mean + torch.randn(20, 26) / model.cmvn_istd
    inputs = (features, *(torch.rand_like(state) for state in exact.initial_states()))
    for expected, found in zip(exact(*inputs), rounded(*inputs), strict=True):
        assert 1e-6 < (found - expected).norm() / expected.norm() < 0.05
    floats = sum(b.numel() for b in rounded.buffers() if b.is_floating_point())
    matrices = sum(b.numel() for b in rounded.buffers() if b.dtype == torch.int8)
    assert matrices == sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert floats < matrices / 5  # scales, biases and CMVN: no float copy of a matrix is left
