"""Inputs of any form, and what is said where a model does not take one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import dirnet
from dirnet.compression.inputs import run
from dirnet.errors import UserError


class Halving(nn.Module):
    """Two steps become one, as in the subsampling of an encoder: a single step leaves nothing."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 8, batch_first=True)

    def forward(self, speech, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(speech[:, 1::2], lengths // 2, batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]


def test_every_form_is_run():
    add = type("Add", (nn.Module,), {"forward": lambda self, a, b=1: a + b})()
    a = torch.ones(2)
    for inputs, given in ((a, 2.0), ((a, 2 * a), 3.0), ([a], 2.0), ({"a": a, "b": 4}, 5.0)):
        assert run(add, inputs).tolist() == [given, given]
    rnn = nn.LSTM(3, 8)
    packed = pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    assert torch.equal(run(rnn, packed)[0].data, rnn(packed)[0].data)


def test_an_input_that_the_model_refuses_is_told_by_its_shapes():
    torch.manual_seed(0)
    model = Halving()
    data = [{"speech": torch.randn(1, steps, 3), "lengths": torch.tensor([steps])} for steps in (9, 1)]
    told = r"the model refuses an input, speech \(1, 1, 3\), lengths \(1,\) \(.+\); give data that it takes$"
    with pytest.raises(UserError, match=told) as caught:
        dirnet.compress(model, size="2x", data=data, progress=False)
    assert isinstance(caught.value.__cause__, (RuntimeError, IndexError))  # the model's own, with its traceback
    small, report = dirnet.compress(model, size="2x", data=data[:1], progress=False)
    with pytest.raises(UserError, match=told):
        dirnet.reconstruct(small, Halving(), data, report["unit_orders"], progress=False)
    packed = pack_sequence([torch.ones(4, 2)])
    for inputs, shapes in (((torch.ones(2, 3), 5), r"\(2, 3\), int"), (packed, "4 packed steps")):
        with pytest.raises(UserError, match=f"the model refuses an input, {shapes} "):
            run(nn.LSTM(3, 8), inputs)
