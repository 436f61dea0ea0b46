"""`dirnet compress --espnet --reconstruct`: layers of ESPnet's stock models learn from what the model reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from stock_models import make_data, make_model

from dirnet.compress_model import main

LEARNING = {  # cells of decoders stay
    "vgg_attention": {"encoder.enc.1.birnn0"},
    "transducer": {"encoder.enc.0.birnn0", "encoder.enc.0.birnn1", "decoder.decoder.0"},
    "lm_lstm": {"lm.rnn"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    make_data(folder)
    return folder


@pytest.mark.parametrize("kind", LEARNING)
def test_layers_learn_from_what_the_model_reads(kind, root, program, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    request = ("--espnet", make_model(root, kind), "--size", "2.5x", "--of", "recurrent", "--data_utts", 3)
    states = []
    for name, options in (("plain", ()), ("out", ("--reconstruct", 5))):
        status, shown, error = program(main, *request, "--data", root / "data", *options, "--out", tmp_path / name)
        assert status == 0, error
        states.append(torch.load(next((tmp_path / name).glob("*.pth")), weights_only=True))
        assert ("layers now miss" in shown) == bool(options)
    before, after = states
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert {name.rpartition(".groups.")[0] or name.rpartition(".")[0] for name in moved} == LEARNING[kind]
    assert not any(name.endswith("index") for name in moved)
    report = json.loads((tmp_path / "out/compression.json").read_text())
    assert 0 < report["reconstruction"]["missed"][1] < 1


def test_what_is_no_lesson_is_said(root, program, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    request = ("--espnet", make_model(root, "gru_ctc"), "--size", "2x", "--out", tmp_path / "out")
    status, _, error = program(main, *request, "--reconstruct", 5)
    assert status == 2 and "--reconstruct is 5, expected --data to draw from" in error
    status, _, error = program(main, *request, "--reconstruct", -1, "--data", root / "data")
    assert status == 2 and "--reconstruct is -1, expected 0 or more" in error and not (tmp_path / "out").exists()
