"""The neutral language model: what it computes, and its two files."""

from __future__ import annotations

import pytest
import torch

from dirnet.compression.compressor import compress
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.language import LanguageModel, LanguageModelConfig

WORDS = ("<blank>", "<unk>", "a", "b", "<sos/eos>")


def make(**changes) -> LanguageModel:
    torch.manual_seed(0)
    shape = {"rnn_type": "lstm", "embedding_size": 6, "hidden_size": 8, "num_layers": 2, "words": WORDS}
    return LanguageModel(LanguageModelConfig(**(shape | changes))).eval()


@torch.no_grad()
def test_it_predicts_from_what_it_read_so_far():
    model, words = make(), torch.tensor([[4, 2, 3, 2]])
    found, _ = model(words)
    assert torch.allclose(found.exp().sum(-1), torch.ones(1, 4))
    hidden, state = torch.zeros(8), None
    for at, word in enumerate(words[0]):  # layer by layer, by torch's cells
        state = state or [(torch.zeros(8), torch.zeros(8))] * 2
        x = model.embedding.weight[word]
        for layer in range(2):
            cell = torch.nn.LSTMCell(len(x), 8)
            names = {name: f"{name}_l" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            cell.load_state_dict({ours: getattr(model.rnn, f"{theirs}{layer}") for ours, theirs in names.items()})
            state[layer] = cell(x, state[layer])
            x = hidden = state[layer][0]
        expected = (model.output.weight @ hidden + model.output.bias).log_softmax(0)
        torch.testing.assert_close(found[0, at], expected)
    first, states = model(words[:, :2])
    assert torch.allclose(torch.cat([first, model(words[:, 2:], states)[0]], 1), found, atol=1e-6)


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_stored_compressed_models_are_those_that_were_saved(tmp_path, rnn_type):
    model, _ = compress(make(rnn_type=rnn_type, hidden_size=16), "1.5x", "dirnet", seed=0)
    storage.save(model, tmp_path)
    again = storage.load_language(tmp_path)
    assert again.config == model.config and again.config.compression is not None
    words = torch.tensor([[4, 2, 3]])
    assert torch.equal(again(words)[0], model(words)[0])


def test_an_acoustic_models_folder_is_not_a_language_models(tmp_path):
    storage.save(make(), tmp_path)
    with pytest.raises(UserError, match="is of format dirnet-language-model/1, expected dirnet-acoustic-model/1"):
        storage.load(tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"words": ("a", "a")}, "words has 2 names, expected two or more, each once"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"rnn_type": "qrnn"}, "rnn_type is 'qrnn'"),
        ({"dtype": "int8"}, "dtype is 'int8', expected float32"),
    ],
)
def test_wrong_configurations(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)
