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
        ({"optim": "adm"}, "my.yaml: optim is 'adm'; did you mean 'adam'?"),
        ({"scheduler": "hold_than_reduce"}, "scheduler is 'hold_than_reduce'; did you mean 'hold_then_reduce'?"),
        ({"batch_type": 3}, "batch_type is 3; expected one of unsorted, sorted"),
    ],
)
def test_unknown_keys(task, config, message):
    with pytest.raises(UserError) as caught:
        experiment.check_keys(config, task, WHERE)
    assert message in str(caught.value)


def test_choices_that_espnet_takes_are_taken(task):
    experiment.check_keys({"optim": "Adam", "log_level": "info", "scheduler": None, "decoder": None}, task, WHERE)


def test_numbers_that_yaml_reads_as_strings(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("optim_conf: {lr: 4e-3, betas: [9e-1, 1.5E2], eps: 1.0e-8, n: 3}\ngrad_clip: 5e0\nnone_conf:\n")
    config = experiment.read(path)
    assert config["optim_conf"] == {"lr": 0.004, "betas": [0.9, 150.0], "eps": 1e-8, "n": 3}
    assert config["grad_clip"] == "5e0" and config["none_conf"] is None  # argparse converts the former
    name = {"model_conf": {"teacher": "exp/1e3", "kind": "e3"}}
    assert experiment.with_numbers(name) == name


CRITERIA = {
    "model": "dirnet_ctc", "model_conf": {}, "val_scheduler_criterion": ("valid", "per"),
    "early_stopping_criterion": ["valid", "loss_ctc", "min"],
    "best_model_criterion": [["train", "loss", "min"], ["valid", "acc", "max"]],
}  # fmt: skip


@pytest.mark.parametrize(
    "change, message",
    [
        ({"val_scheduler_criterion": ["valid", "pper"]}, "val_scheduler_criterion is 'pper' of valid.*did you.* 'per'"),
        ({"val_scheduler_criterion": ["train", "per"]}, "'per' of train, which dirnet_ctc does not report"),
        ({"val_scheduler_criterion": ["valid"]}, "val_scheduler_criterion is None of valid"),
        ({"early_stopping_criterion": ["dev", "per", "min"]}, "has 'dev', expected train or valid"),
        ({"early_stopping_criterion": ["valid", "per", "low"]}, "has 'low', expected max or min"),
        ({"best_model_criterion": [["valid", "smbr_acc", "max"]]}, "best_model_criterion is 'smbr_acc' of valid"),
        ({"early_stopping_criterion": ["train", "loss_distill", "min"]}, "'loss_distill' of train, which dirnet_ctc"),
        ({"model": "lm"}, "'per' of valid, which lm does not report; expected one of loss|did you mean 'loss'"),
    ],
)
def test_criteria_are_what_the_model_reports(change, message):
    experiment.check_criteria(CRITERIA, WHERE)
    with pytest.raises(UserError, match=message):
        experiment.check_criteria({**CRITERIA, **change}, WHERE)


def test_criteria_of_a_model_that_distils():
    criterion = {"early_stopping_criterion": ["train", "loss_distill", "min"]}
    experiment.check_criteria({**CRITERIA, **criterion, "model_conf": {"distill": {"weight": 0.5}}}, WHERE)


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
