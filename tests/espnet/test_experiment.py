"""Mistakes in a configuration are named before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_corpus import ROOT

from dirnet.errors import UserError
from dirnet.espnet import experiment, versions

WHERE = Path("my.yaml")
CONFIGS = [path for name in ("train_*.yaml", "finetune.yaml") for path in sorted(ROOT.glob(f"conf/**/{name}"))
           if "ptb" not in path.parts]  # those are of another task


@pytest.fixture(scope="module")
def task():
    return experiment.espnet_task()


@pytest.mark.parametrize("path", CONFIGS)
def test_shipped_configurations_are_valid(task, path):
    config = yaml.safe_load(path.read_text())
    experiment.check_choices(config, path)
    experiment.check_keys(config, task, path)
    options = [["--config", str(path), "--output_dir", "x"]]
    assert task.get_parser().parse_args(*options).model == config["model"]


@pytest.mark.parametrize(
    "config, message",
    [
        ({"max_epochs": 3}, "my.yaml: unknown key 'max_epochs'; did you mean 'max_epoch'?"),
        ({"encoder": "dirnet_rnn", "encoder_conf": {"num_layer": 3}}, "encoder_conf: unknown key 'num_layer'; did you"),
        ({"model": "dirnet_smbr", "model_conf": {"blank_wight": 1}}, "did you mean 'blank_weight'"),
        ({"specaug": "mfcc", "specaug_conf": {"chanel": 1}}, "did you mean 'channel'"),
        ({"encoder": "dirnet_rrn"}, "encoder is 'dirnet_rrn', expected one of"),
    ],
)
def test_unknown_keys(task, config, message):
    with pytest.raises(UserError) as caught:
        experiment.check_keys(config, task, WHERE)
    assert message in str(caught.value)


def test_inherited_arguments_are_known(task):
    experiment.check_keys({"model": "dirnet_smbr", "model_conf": {"blank_bias": 1, "ctc_weight": 1.0}}, task, WHERE)


def test_overrides(task):
    experiment.check_overrides(["--max_epoch", "3", "--optim_conf", "lr=0.1", "--patience=2"], task)
    with pytest.raises(UserError, match="unknown key '--max_epochs'; did you mean '--max_epoch'"):
        experiment.check_overrides(["--max_epochs", "3"], task)


def test_other_parts_are_refused():
    good = {**experiment.REQUIRED, "model": "dirnet_ctc"}
    experiment.check_choices(good, WHERE)
    with pytest.raises(UserError, match="encoder is 'conformer', expected dirnet_rnn"):
        experiment.check_choices({**good, "encoder": "conformer"}, WHERE)
    with pytest.raises(UserError, match="model is 'espnet', expected dirnet_ctc or dirnet_smbr"):
        experiment.check_choices({**good, "model": "espnet"}, WHERE)


def test_shape_comes_from_the_initial_model():
    config = {"encoder_conf": {"dropout": 0.1, "num_layers": 2}}
    experiment.take_shape(config, {"num_layers": 2, "hidden_size": 9}, WHERE, Path("exp/ctc"))
    assert config["encoder_conf"] == {"dropout": 0.1, "num_layers": 2, "hidden_size": 9}
    with pytest.raises(UserError, match="num_layers is 2, but exp/ctc is of another architecture with 3"):
        experiment.take_shape(config, {"num_layers": 3}, WHERE, Path("exp/ctc"))


def test_another_espnet_is_told_before_it_is_imported(monkeypatch):
    monkeypatch.setattr(versions, "found", lambda: "202301")
    with pytest.raises(UserError, match="ESPnet is 202301, expected ESPnet 202511 on Python 3.11"):
        experiment.espnet_task()
