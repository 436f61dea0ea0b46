"""`dirnet_wrap` in the choices of ESPnet's tasks: stock objects with compressed layers, of a layout or from scratch."""

from __future__ import annotations

import argparse
import importlib
import pickle

import pytest
import torch
from espnet2.asr.encoder.vgg_rnn_encoder import VGGRNNEncoder
from espnet2.tasks import asr, lm
from espnet2.torch_utils.initialize import initialize
from torch import nn

import dirnet.espnet  # noqa: F401 registers
from dirnet.errors import UserError
from dirnet.espnet import wrap
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.recurrent import DirNetLSTM

BASE = {"num_layers": 2, "hidden_size": 16, "output_size": 12}


def scratch(**changes) -> nn.Module:
    torch.manual_seed(0)
    conf = {"base": "vgg_rnn", "base_conf": BASE, "size": "4x", **changes}
    return asr.encoder_choices.get_class("dirnet_wrap")(input_size=8, **conf)


def test_the_name_is_known_wherever_recurrent_layers_are():
    known = {"asr": ("model", "encoder", "decoder"), "lm": ("model", "lm"), "slu": ("model", "encoder", "decoder"),
             "s2t": ("model", "encoder", "decoder"), "st": ("encoder", "decoder"), "asr_transducer": ("decoder",)}
    for task, choices in known.items():
        module = importlib.import_module(f"espnet2.tasks.{task}")
        for name in choices:
            assert wrap.NAME in getattr(module, f"{name}_choices").classes, (task, name)
    parser = asr.ASRTask.get_parser()
    arguments = parser.parse_args(["--output_dir", "x", "--encoder", "dirnet_wrap", "--encoder_conf", "size=4x"])
    assert arguments.encoder_conf == {"size": "4x"}
    before = dict(lm.lm_choices.classes)
    wrap.register(lm)
    assert lm.lm_choices.classes == before


def test_from_scratch_it_is_the_stock_encoder_with_a_quarter_of_the_weights():
    encoder = scratch()
    assert type(encoder) is VGGRNNEncoder and encoder.output_size() == 12
    layers = {name: module for name, module in encoder.named_modules() if isinstance(module, DirNetLSTM)}
    assert list(layers) == ["enc.1.birnn0", "enc.1.birnn1"]
    for layer in layers.values():
        weights = sum(group.rows * group.columns for group in layer.groups)
        kept = sum(group.params() for group in layer.groups)
        assert 0.9 * weights / 4 < kept <= weights / 4
        bound = layer.hidden_size**-0.5 / 3**0.5  # deviation of torch's own start
        spread = torch.cat([weight.flatten() for name, weight in layer.dense_weights().items() if "weight" in name])
        assert 0.7 * bound < float(spread.detach().std()) < 1.4 * bound
        assert all(bool(group.code_matrix().ne(0).any(0).all()) for group in layer.groups)  # no gate without input
    again = pickle.loads(pickle.dumps(encoder))
    speech, lengths = torch.randn(2, 40, 8), torch.tensor([40, 33])
    torch.testing.assert_close(again(speech, lengths)[0], encoder(speech, lengths)[0])


def test_it_learns_and_zeros_stay():
    encoder = scratch(dtype="int8", block=4)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.02, weight_decay=0.1)
    speech, lengths, target = torch.randn(2, 40, 8), torch.tensor([40, 40]), torch.randn(2, 10, 12).tanh()
    coded = [module for module in encoder.modules() if isinstance(module, CodedMatrix)]
    kept = [matrix.index.clone() for matrix in coded]
    losses = []
    for _ in range(40):
        loss = (encoder(speech, lengths)[0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    for matrix, index in zip(coded, kept, strict=True):
        assert torch.equal(matrix.index, index) and matrix.block == 4
        assert int(matrix.code_matrix().ne(0).sum()) <= matrix.codes.numel()


@pytest.mark.parametrize("how", ["xavier_uniform", "kaiming_normal"])
def test_the_init_option_of_a_config_does_not_spoil_the_codes(how):
    encoder = scratch()
    initialize(encoder, how)
    layer = encoder.enc[1].birnn0
    weight = layer.dense_weights()["weight_hh_l0"]
    assert 0.7 < float(weight.detach().std()) / (layer.hidden_size**-0.5 / 3**0.5) < 1.4


def test_model_choices_take_the_arguments_of_the_base_beside_ours():
    values = vars(lm.LMTask.get_parser().parse_args(["--output_dir", "x"]))
    values |= {"token_list": ["<blank>", "<unk>", "a", "<sos/eos>"], "lm": "dirnet_wrap",
               "lm_conf": {"base": "seq_rnn", "unit": 8, "layers": {"rnn": {"layout": [[2, 20], [2, 20], [2, None]]}}}}
    model = lm.LMTask.build_model(argparse.Namespace(**values))
    assert type(model.lm) is lm.SequentialRNNLM and type(model.lm.rnn) is DirNetLSTM
    assert isinstance(model.lm.zero_state(), tuple)  # it asks isinstance(self.rnn, nn.LSTM)
    _, states = model.lm.batch_score(torch.tensor([[3], [2]]), [None, None], None)
    logp, _ = model.lm.batch_score(torch.tensor([[3, 2], [2, 2]]), states, None)
    assert logp.shape == (2, 4) and torch.allclose(logp.exp().sum(1), torch.ones(2))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"base": "vgg_rn"}, "encoder_conf: base is 'vgg_rn'; did you mean 'vgg_rnn'"),
        ({"base": "dirnet_wrap"}, "base is 'dirnet_wrap'"),
        ({"size": None}, "give either layers or size"),
        ({"layers": {}}, "give either layers or size"),
        ({"size": "3MB"}, "expected a ratio such as 4x"),
        ({"block": 5}, "block 5 does not divide"),
        ({"size": None, "layers": {"enc.1.birnn5": {"layout": []}}}, "'enc.1.birnn5' is no recurrent layer"),
        ({"size": None, "layers": {"enc.1.birnn0": {"layout": [[2, 4]]}}}, "layout has 1 groups, expected 3"),
        ({"base": "conformer", "base_conf": {"output_size": 8, "attention_heads": 2}}, "has no nn.LSTM"),
    ],
)
def test_mistakes_are_named(changes, fault):
    with pytest.raises(UserError, match=fault):
        scratch(**changes)
