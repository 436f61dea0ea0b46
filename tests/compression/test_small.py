"""The smaller dense model: the most units that a budget allows, everything else as it was."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import dirnet
from dirnet import compress_model
from dirnet.compression.report import size_figures
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


def model_of(rnn_type="lstm", hidden_size=40, bidirectional=False):
    config = AcousticModelConfig(
        rnn_type=rnn_type, hidden_size=hidden_size, num_layers=2, feature_size=5, context=2, phones=tuple("-abc"),
        num_outputs=4, frame_stride=3, bidirectional=bidirectional, cmvn_mean=(1.0,) * 5,
    )  # fmt: skip
    return AcousticModel(config)


@pytest.mark.parametrize("kind", [("lstm", False), ("gru", True), ("rnn", False)])
@pytest.mark.parametrize("size", ["4x", "2.5k", "9kB", "1x"])
def test_one_unit_more_would_be_too_many(kind, size):
    model = model_of(kind[0], 40, kind[1])
    whole = size_figures(model)
    if size == "2.5k" and kind[0] == "rnn":
        size = "1k"
    if size == "9kB" and kind[0] == "rnn":
        size = "4kB"
    small, report = dirnet.compress(model, size, "small")
    unit = "bytes" if size.endswith("B") else "params"
    value = float(size.rstrip("xkB"))
    limit = whole["params"] / value if size.endswith("x") else 1000 * value
    more = AcousticModel(dataclasses.replace(small.config, hidden_size=small.config.hidden_size + 1))
    assert size_figures(small)[unit] <= limit < size_figures(more)[unit]
    assert report["compressed"] == size_figures(small) and report["dense"] == whole
    assert dataclasses.replace(small.config, hidden_size=40) == model.config
    json.dumps(report, allow_nan=False)


def test_it_is_fresh_and_reproducible():
    model = model_of()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (dirnet.compress(model, "4x", "small", seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)  # the caller's random numbers are left alone
    assert torch.equal(first.output.weight, again.output.weight)
    assert not torch.equal(first.output.weight, other.output.weight)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_what_it_cannot_do():
    with pytest.raises(UserError, match="acoustic models only, not a LSTM"):
        dirnet.compress(nn.LSTM(4, 4), "2x", "small")
    with pytest.raises(UserError, match="out of reach with a smaller dense model; choose from"):
        dirnet.compress(model_of(), "5000x", "small")
    compressed, _ = dirnet.compress(model_of(), "2x", "prune", progress=False)
    with pytest.raises(UserError, match="compressed already"):
        dirnet.compress(compressed, "2x", "small")


def test_the_program_writes_it(tmp_path, program):
    storage.save(model_of(), tmp_path / "dense")
    request = ("--model", tmp_path / "dense", "--size", "4x", "--method", "small", "--out", tmp_path / "small")
    status, shown, _ = program(compress_model.main, *request, "--dry_run", "true")
    assert status == 0 and "dense units a layer take" in shown
    status, shown, _ = program(compress_model.main, *request)
    assert status == 0 and "untrained" in shown
    units = storage.load(tmp_path / "small").config.hidden_size
    assert f"A dense model of {units} units" in (tmp_path / "small/compression.md").read_text()
    assert "nothing to do" in program(compress_model.main, *request)[1]
