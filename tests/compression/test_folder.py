"""`dirnet.save` and `dirnet.load`: any compressed module, in the bytes that were told, and damage that is named."""

import copy
import json

import pytest
import torch
from torch import nn

import dirnet
from dirnet.compression.report import size_figures
from dirnet.errors import UserError


class Tagger(nn.Module):
    """An LSTM, a cell, an output layer, and an output that is tied to an embedding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 24)
        self.rnn = nn.LSTM(24, 24, 2, batch_first=True, bidirectional=True)
        self.cell = nn.GRUCell(48, 24)
        self.output = nn.Linear(24, 20)
        self.output.weight = self.words.weight
        self.norm = nn.BatchNorm1d(24)

    def forward(self, words):
        states = self.rnn(self.words(words))[0]
        hidden = None
        for step in states.unbind(1):
            hidden = self.cell(step, hidden)
        return self.output(self.norm(hidden))


WORDS = torch.arange(60).remainder(20).view(4, 15)


@pytest.fixture(scope="module")
def dense():
    torch.manual_seed(0)
    return Tagger().eval()


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["dirnet", "dirnet_b8", "dirnet_b8_int8", "svd_int8", "prune"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_saved_comes_back_in_the_bytes_that_were_told(dense, method, dtype, tmp_path):
    model, report = dirnet.compress(copy.deepcopy(dense).to(dtype), "2.5x", method, progress=False)
    dirnet.save(model, tmp_path)
    header = int.from_bytes(weights(tmp_path)[:8], "little") + 8
    assert len(weights(tmp_path)) - header == report["compressed"]["bytes"]
    again = dirnet.load(Tagger().to(dtype).eval(), tmp_path)
    assert torch.equal(again(WORDS), model(WORDS)) and size_figures(again) == size_figures(model)
    assert again.output.weight is again.words.weight
    assert {name for name, _ in again.named_parameters()} == {name for name, _ in model.named_parameters()}


def test_an_rnn_alone_and_a_training_that_goes_on(tmp_path):
    torch.manual_seed(0)
    model, _ = dirnet.compress(nn.GRU(12, 16), "3x", progress=False)
    dirnet.save(model, tmp_path)
    again = dirnet.load(nn.GRU(12, 16), tmp_path)
    inputs = torch.randn(5, 2, 12)
    for one in (model, again):
        optimizer = torch.optim.Adam(one.parameters(), 1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            one(inputs)[0].square().sum().backward()
            optimizer.step()
    assert torch.equal(again(inputs)[0], model(inputs)[0])


@pytest.mark.parametrize("kind", [nn.RNN, nn.RNNCell])
def test_another_nonlinearity_is_another_model(kind, tmp_path):
    model, _ = dirnet.compress(nn.Sequential(kind(12, 16, nonlinearity="relu")), "2x", "svd", progress=False)
    dirnet.save(model, tmp_path)
    with pytest.raises(UserError, match="layer '0' has nonlinearity relu, in the model it is tanh"):
        dirnet.load(nn.Sequential(kind(12, 16)), tmp_path)
    again = dirnet.load(nn.Sequential(kind(12, 16, nonlinearity="relu")), tmp_path)
    inputs = torch.randn(3, 12)
    torch.testing.assert_close(again(inputs), model(inputs), rtol=0, atol=0)


def test_what_was_frozen_stays_frozen(tmp_path):
    def frozen():
        model = Tagger().eval()
        model.rnn.requires_grad_(False)
        model.cell.bias_hh.requires_grad_(False)
        return model

    model, _ = dirnet.compress(frozen(), "2.5x", progress=False)
    dirnet.save(model, tmp_path)
    learn = [{name for name, value in one.named_parameters() if value.requires_grad}
             for one in (model, dirnet.load(frozen(), tmp_path))]  # fmt: skip
    assert learn[0] == learn[1] and not any(name.startswith("rnn.") for name in learn[0]) and learn[0]


def test_weights_that_share_memory_without_being_one(tmp_path):
    def tied():
        model = Tagger().eval()
        model.output.weight = nn.Parameter(model.words.weight.data)
        return model

    model, _ = dirnet.compress(tied(), "2.5x", progress=False)
    dirnet.save(model, tmp_path)
    again = dirnet.load(tied(), tmp_path)
    assert torch.equal(again(WORDS), model(WORDS)) and torch.equal(again.output.weight, again.words.weight)


def test_a_model_without_values_is_named(dense, tmp_path):
    model, _ = dirnet.compress(copy.deepcopy(dense), "2.5x", progress=False)
    dirnet.save(model, tmp_path)
    with torch.device("meta"):
        empty = Tagger()
    with pytest.raises(UserError, match="words.weight is on the device meta, which keeps no values"):
        dirnet.load(empty, tmp_path)
    content = weights(tmp_path)
    with pytest.raises(UserError, match="words.weight is on the device meta, which keeps no values"):
        dirnet.save(model.to("meta"), tmp_path)
    assert weights(tmp_path) == content


def test_mistakes_are_named(dense, tmp_path):
    with pytest.raises(UserError, match="Tagger has no compressed layers; compress it first"):
        dirnet.save(dense, tmp_path)
    model, _ = dirnet.compress(copy.deepcopy(dense), "2.5x", progress=False)
    dirnet.save(model, tmp_path)
    for other, message in (
        (nn.LSTM(24, 24), "tells of layer 'rnn', where LSTM has no dense nn.LSTM"),
        (copy.deepcopy(model), "where Tagger has no dense nn.LSTM"),
    ):
        with pytest.raises(UserError, match=message):
            dirnet.load(other, tmp_path)
    shallower = Tagger()
    shallower.rnn = nn.LSTM(24, 48, batch_first=True)
    with pytest.raises(UserError, match="model.json: rnn: layout has 5 groups, expected 2.*; give a dense layer"):
        dirnet.load(shallower, tmp_path)
    wider = Tagger()
    wider.cell = nn.GRUCell(48, 25)
    with pytest.raises(UserError, match="cell.groups.0"):
        dirnet.load(wider, tmp_path)
    turned = Tagger()
    turned.rnn.batch_first = False
    with pytest.raises(UserError, match="'rnn' has batch_first True, in the model it is False; give the model as it"):
        dirnet.load(turned, tmp_path)
    content = weights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="differs from the sha256"):
        dirnet.load(Tagger(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    description = json.loads((tmp_path / "model.json").read_text())
    description["config"]["layers"]["rnn"]["block"] = 2
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="config differs from its own sha256: damaged or edited"):
        dirnet.load(Tagger(), tmp_path)
    del description["config_sha256"]  # as a program that signs nothing would write it
    settings = description["config"]["layers"]["rnn"]
    for layers, message in (
        ([], "model.json describes no layers"),
        ({"rnn": 5}, "model.json: rnn describes no layer; "),
        ({"rnn": settings | {"layout": [["a", 1]] * 5}}, "model.json: rnn describes no layer"),
        ({"rnn": settings | {"layout": [[10**12, 1]] * 5}}, "model.json: rnn describes no layer"),
        ({"rnn": settings | {"layout": [[1, 1]]}}, "layout has 1 groups, expected 5"),
    ):
        description["config"]["layers"] = layers
        (tmp_path / "model.json").write_text(json.dumps(description))
        with pytest.raises(UserError, match=message):
            dirnet.load(Tagger(), tmp_path)
    with pytest.raises(UserError, match="model.json does not exist"):
        dirnet.load(Tagger(), tmp_path / "none")
