"""`python -m dirnet.espnet.train` for real: ESPnet's trainer on a corpus of seconds."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_corpus import FEATURES, ROOT, make_corpus, write_config

from dirnet.asr.ark import write_ark
from dirnet.asr.features import Statistics
from dirnet.compression.compressor import compress
from dirnet.errors import UserError
from dirnet.espnet import checkpoint, experiment, launch, train
from dirnet.espnet.task import read_curves
from dirnet.factorization.pruning import magnitude
from dirnet.factorization.svd import truncated
from dirnet.nn import storage
from dirnet.nn.grouping import gather, groups_of
from dirnet.nn.recurrent import DirNetLSTM

FINETUNE = {"max_epoch": 2, "encoder_conf": {"dropout": 0.0}}


@pytest.fixture
def compressed(trained, tmp_path):
    """The trained model with an SVD input group, a pruned and a block-pruned hidden group."""
    model = storage.load(trained.exp)
    first, *rest = groups_of(model.rnn)
    weights = dict(model.rnn.named_parameters())
    factors = [truncated(gather(weights, first).detach(), 8)]
    factors += [magnitude(gather(weights, group).detach(), 600, block=2) for group in rest]
    model.rnn = DirNetLSTM.from_dense(model.rnn, factors, block=2)
    storage.save(model, tmp_path / "compressed")
    return tmp_path / "compressed"


def test_training_learns_and_leaves_everything_behind(trained):
    curves = read_curves(trained.exp)
    assert [record["epoch"] for record in curves] == [1, 2, 3, 4, 5, 6]
    assert curves[-1]["dev"]["per"] < 0.6 < curves[0]["dev"]["per"]
    assert curves[-1]["train"]["loss_ctc"] < curves[0]["train"]["loss_ctc"]
    training = storage.describe(trained.exp)["extra"]["training"]
    assert training["epochs"] == 6 and training["best"]["epoch"] == training["averaged"][0]
    assert "epoch results" in (trained.exp / "train.log").read_text()
    assert not list(trained.exp.glob("*.ave*.pth"))


def test_a_rerun_does_nothing_and_says_so(trained, capfd):
    before = (trained.exp / "model.json").stat().st_mtime_ns
    assert trained.train(trained.config, trained.exp, "--", "--max_epoch=6") == 0  # which may change
    assert "already trained" in capfd.readouterr().out
    assert (trained.exp / "model.json").stat().st_mtime_ns == before


def test_another_training_in_the_same_folder_is_refused(trained, tmp_path, capfd):
    def times():
        return {path: path.stat().st_mtime_ns for path in trained.exp.rglob("*")}

    before = times()
    config = write_config(tmp_path / "other.yaml", encoder_conf={"hidden_size": 30})
    assert trained.train(config, trained.exp, "--max_frames", 3000) == 2
    error = capfd.readouterr().err
    assert re.search(r"holds a training with encoder_conf: hidden_size \d+, not 30; take that back", error), error
    assert times() == before  # its data too, which a training may be reading


def test_a_rerun_with_paths_spelled_otherwise_does_nothing(trained, tmp_path, capfd, monkeypatch):
    (tmp_path / "link").symlink_to(trained.root)
    monkeypatch.chdir(tmp_path)
    for root in (Path(os.path.relpath(trained.root)), tmp_path / "link"):
        spelled = dataclasses.replace(trained, root=root)
        assert spelled.train(trained.config, root / trained.exp.relative_to(trained.root)) == 0
        assert "already trained" in capfd.readouterr().out


@pytest.fixture
def written(tmp_path):
    """The configuration of a training whose files are in tmp_path."""
    for name in ("text", "shape"):
        (tmp_path / name).write_text("u1 AA B\n")
    Statistics(100, np.full(3, 10.0), np.full(3, 50.0)).write(tmp_path / "cmvn.npz")
    read = [[str(tmp_path / "feats.scp"), "speech", "kaldi_ark"], [str(tmp_path / "text"), "text", "text"]]
    config = {"train_data_path_and_name_and_type": read, "valid_shape_file": [str(tmp_path / "shape")]}
    config["token_list"], config["normalize_conf"] = str(tmp_path / "t"), {"stats_file": str(tmp_path / "cmvn.npz")}
    return config | {"model_conf": {"reference": str(tmp_path / "r"), "teacher": str(tmp_path / "d")}}


@pytest.mark.parametrize("changed", ["text", "shape", "cmvn.npz"])
def test_the_same_paths_with_other_data_are_another_training(written, tmp_path, changed):
    before, content = launch.fingerprint(written, [], None, tmp_path), (tmp_path / changed).read_bytes()
    if changed == "cmvn.npz":
        Statistics(100, np.full(3, 10.01), np.full(3, 50.0)).write(tmp_path / changed)
    else:
        (tmp_path / changed).write_text("u1 AA\n")
    assert launch.fingerprint(written, [], None, tmp_path) != before
    (tmp_path / changed).write_bytes(content)
    assert launch.fingerprint(written, [], None, tmp_path) == before


def test_statistics_summed_in_another_order_make_no_other_training(written, tmp_path):
    """Their last bits differ: with the number of jobs."""
    frames = np.random.default_rng(0).normal(0, 30, (5000, 3))
    frames -= frames.mean(0) * [1, 0, 0]  # a mean of nothing but last bits
    content, digests = set(), set()
    for jobs in (1, 2, 3, 7, 8, 9, 10, 11):
        total = Statistics()
        for part in np.array_split(frames, jobs):
            total += Statistics(len(part), part.sum(0), np.square(part).sum(0))
        total.write(tmp_path / "cmvn.npz")
        content.add((tmp_path / "cmvn.npz").read_bytes())
        digests.add(launch.fingerprint(written, [], None, tmp_path))
    assert len(content) > 1 and len(digests) == 1


def test_paths_count_as_places_not_as_spelled(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, text = launch.fingerprint(written, [], None, tmp_path), json.dumps(written)
    for other in ("", "./", f"../{tmp_path.name}/"):
        spelled = json.loads(text.replace(f"{tmp_path}/", other))
        assert launch.fingerprint(spelled, [], None, Path(other or ".")) == before
    for name in ("feats.scp", "t", "r", "d"):
        moved = json.loads(text.replace(json.dumps(str(tmp_path / name)), json.dumps(str(tmp_path / "other"))))
        assert launch.fingerprint(moved, [], None, tmp_path) != before


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (["--max_epochs", "2"], "did you mean '--max_epoch'?"),
        (["--encoder_conf", "hiden_size=3"], "encoder_conf: unknown key 'hiden_size'; did you mean 'hidden_size'?"),
        (["--optim_conf", "lrr=0.1"], "optim_conf: unknown key 'lrr'; did you mean 'lr'?"),
        (["--scheduler_conf", "patients=3"], "scheduler_conf: unknown key 'patients'; did you mean 'patience'?"),
        (["--output_dir", "elsewhere"], "--output_dir is not for ESPnet here; give the folder as --exp"),
        (["--dry_run", "true"], "--dry_run is not for ESPnet here; it would train nothing"),
    ],
)
def test_a_mistaken_option_is_one_line_and_can_be_corrected(trained, tmp_path, capfd, more, fault):
    """The folder does not belong to a training that never began."""
    exp = tmp_path / "exp"
    assert trained.train(trained.config, exp, *more) == 2
    error = capfd.readouterr().err
    assert fault in error and len(error.splitlines()) == 1
    corrected = yaml.safe_load((exp / "train.yaml").read_text())
    launch.refuse_other(exp, "of the corrected one", corrected)
    (exp / "checkpoint.pth").touch()
    with pytest.raises(UserError, match="holds a training with other data, weights or options of the command line"):
        launch.refuse_other(exp, "of the corrected one", corrected)
    with pytest.raises(UserError, match="holds a training with max_epohc None, not 3; take that back"):
        launch.refuse_other(exp, "of the corrected one", corrected | {"max_epohc": 3})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"optim": "adm"}, "optim is 'adm'; did you mean 'adam'?"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number from 1"),
        ({"max_epoch": 0}, "max_epoch is 0, expected a whole number from 1"),
        ({"keep_nbest_models": 0}, "keep_nbest_models is 0, expected a whole number from 1, or several"),
        ({"keep_nbest_models": []}, "keep_nbest_models is [], expected a whole number from 1, or several"),
        ({"encoder_conf": {"frame_stride": -3}}, "encoder_conf: frame_stride is -3, expected 1, 2 or 3"),
        ({"encoder_conf": {"hidden_size": "abc"}}, "encoder_conf: hidden_size is 'abc', expected a whole number"),
        ({"encoder_conf": 3}, "encoder_conf is 3, expected `key: value` lines"),
        ({"model_conf": {"distill": 3}}, "model_conf: distill is 3, expected weight and temperature"),
        ({"model_conf": {"blank_bias": "x"}}, "model_conf: blank_bias is 'x', expected a number"),
        ({"encoder_conf": {"dropout": 2.0}}, "ESPnet refuses a value (ValueError: dropout probability has to be"),
        ({"optim_conf": {"lr": "many"}}, "ESPnet refuses a value (TypeError: "),
        ({"val_scheduler_criterion": ["valid", "pper"]}, "val_scheduler_criterion is 'pper' of valid"),
    ],
)
def test_a_mistaken_value_is_one_line_before_the_first_epoch(trained, tmp_path, capfd, change, fault):
    config, exp = write_config(tmp_path / "mine.yaml", **change), tmp_path / "exp"
    assert trained.train(config, exp) == 2
    error = capfd.readouterr().err
    assert f"{config}: {fault}" in error and len(error.splitlines()) == 1
    assert "refuses" not in fault or "Traceback" in (exp / "train.log").read_text()
    assert not (exp / "1epoch.pth").exists()


def test_a_failure_in_an_epoch_is_ours(trained, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("a mistake of ours")

    monkeypatch.setattr("dirnet.espnet.ctc_model.PhoneCTCModel.criterion", fail)
    with pytest.raises(ValueError, match="a mistake of ours"):
        train.main(trained.options(trained.config, tmp_path / "exp"))


def test_numbers_that_yaml_reads_as_strings_train(trained, tmp_path):
    config = write_config(tmp_path / "mine.yaml", max_epoch=1, optim_conf={"lr": "4e-3"})
    assert trained.train(config, tmp_path / "exp", "--scheduler_conf", "min_lr=1e-4") == 0
    kept = yaml.safe_load((tmp_path / "exp/config.yaml").read_text())
    assert kept["optim_conf"]["lr"] == 0.004 and kept["scheduler_conf"]["min_lr"] == 1e-4


def test_the_table_of_what_models_report_is_true(trained):
    record = read_curves(trained.exp)[-1]
    told = experiment.REPORTED["dirnet_ctc"]
    assert record["train"].keys() == told["train"] and record["dev"].keys() == told["valid"]


def test_more_epochs_go_on_and_fewer_are_refused(trained, tmp_path, capfd):
    config, exp = write_config(tmp_path / "mine.yaml", max_epoch=1), tmp_path / "exp"
    assert trained.train(config, exp) == 0
    assert trained.train(config, exp, "--max_epoch", "2") == 0
    assert [record["epoch"] for record in read_curves(exp)] == [1, 2]
    assert (exp / "train.log").read_text().count("resumed using") == 1
    assert storage.describe(exp)["extra"]["training"]["max_epoch"] == 2
    capfd.readouterr()
    assert trained.train(config, exp) == 2
    assert capfd.readouterr().err.rstrip().endswith(
        f"{exp} holds a training with max_epoch 2, not 1; take that back, remove the folder or give another one"
    )


@pytest.mark.slow
def test_killed_in_the_middle_a_rerun_continues(trained, tmp_path):
    exp = tmp_path / "exp"
    more = ["--optim_conf", "lr=0.01"]
    command = [sys.executable, "-m", "dirnet.espnet.train", *trained.options(trained.config, exp, *more)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    for line in process.stdout:
        if line.startswith("epoch 2"):
            while not (exp / "checkpoint.previous.pth").exists() and process.poll() is None:
                time.sleep(0.001)  # it is set aside right after the line; only then is the other one written
            os.killpg(process.pid, signal.SIGKILL)  # with its loaders, which a lock may keep waiting for ever
            break
    assert process.wait() == -signal.SIGKILL and not (exp / "model.json").exists()
    (exp / "checkpoint.pth").write_bytes(b"PK half")  # the worst moment to be killed
    done = len(list(exp.glob("*epoch.pth")))
    assert trained.train(trained.config, exp, *more) == 0
    assert [record["epoch"] for record in read_curves(exp)] == [1, 2, 3, 4, 5, 6] and done >= 1
    assert len(re.findall("resumed using", (exp / "train.log").read_text())) == 1


def test_fine_tuning_keeps_layout_and_zeros(trained, compressed, tmp_path):
    config = write_config(tmp_path / "finetune.yaml", "conf/mini/finetune.yaml", **FINETUNE)
    assert trained.train(config, tmp_path / "exp", "--init", compressed) == 0
    before, after = storage.load(compressed), storage.load(tmp_path / "exp")
    assert after.rnn.layout == before.rnn.layout and after.rnn.block == 2
    for old, new in zip(before.rnn.groups, after.rnn.groups, strict=True):
        assert torch.equal(old.code_matrix() == 0, new.code_matrix() == 0)
        assert not torch.equal(old.codes, new.codes)
    curves = read_curves(tmp_path / "exp")
    assert curves[-1]["dev"]["per"] < 0.9 and curves[-1]["train"]["loss"] < curves[0]["train"]["loss"] + 0.5


def test_fine_tuning_an_int8_model_is_aware_of_the_rounding(trained, tmp_path):
    """From the compressor through ESPnet and back: what training saw is what is stored, also after averaging."""
    from espnet2.tasks.asr import ASRTask

    start, exp = tmp_path / "start", tmp_path / "exp"
    model, _ = compress(storage.load(trained.exp), "24kB", "svd", progress=False, dtype="int8")
    storage.save(model, start)
    config = write_config(tmp_path / "finetune.yaml", "conf/mini/finetune.yaml", keep_nbest_models=[2], **FINETUNE)
    assert trained.train(config, exp, "--init", start) == 0
    assert yaml.safe_load((exp / "config.yaml").read_text())["encoder_conf"]["dtype"] == "int8"
    before, after = storage.load(start), storage.load(exp)
    assert after.config.dtype == "int8" and after.rnn.layout == before.rnn.layout
    assert len(storage.describe(exp)["extra"]["training"]["averaged"]) == 2
    assert not torch.equal(after.rnn.groups[1].codes, before.rnn.groups[1].codes)
    stored = storage.stored_tensors(after)
    assert all(value.dtype == torch.int8 for name, value in stored.items() if name.endswith(("codes", "dictionary")))
    curves = read_curves(exp)
    assert curves[-1]["dev"]["per"] < 0.9 and curves[-1]["train"]["loss"] < curves[0]["train"]["loss"] + 0.5
    trained_rnn = ASRTask.build_model_from_file(exp / "config.yaml", exp / "model.pth")[0].eval().encoder.rnn
    for latent, loaded in zip(trained_rnn.groups, after.rnn.groups, strict=True):
        assert torch.equal(latent.matrix(), loaded.matrix()) and not torch.equal(latent.codes, loaded.codes)


def test_smbr_raises_the_expected_accuracy_and_resumes(trained, tmp_path):
    config = write_config(
        tmp_path / "smbr.yaml", "conf/mini/train_smbr.yaml", max_epoch=3, optim_conf={"lr": 2e-3},
        encoder_conf={"dropout": 0.0}, keep_nbest_models=[3],
    )  # fmt: skip
    exp = tmp_path / "exp"
    assert trained.train(config, exp, "--init", trained.exp, "--smbr_order", 3, "--max_epoch", 1) == 0
    (exp / "model.json").unlink()  # as if it had been killed between the checkpoint and the model of its epoch
    (exp / "1epoch.pth").unlink()
    assert trained.train(config, exp, "--init", trained.exp, "--smbr_order", 3) == 0
    curves = read_curves(exp)
    assert [record["epoch"] for record in curves] == [1, 2, 3]
    assert "resumed using" in (exp / "train.log").read_text()
    for role in ("train", "dev"):
        assert all(record[role].keys() == experiment.OF_SMBR for record in curves)
    accuracies = [record["train"]["smbr_acc"] for record in curves]
    losses = [record["train"]["loss_smbr"] for record in curves]
    assert accuracies == sorted(accuracies) and accuracies[-1] > accuracies[0] + 0.01
    assert losses[-1] < losses[0]
    saved = yaml.safe_load((exp / "config.yaml").read_text())
    assert saved["model"] == "dirnet_smbr" and saved["model_conf"]["smbr_order"] == 3 and not saved["use_amp"]
    assert storage.load(exp).config.hidden_size == 24


def test_fine_tuning_by_smbr_keeps_zeros_and_learns_from_the_dense_models_alignment(trained, compressed, tmp_path):
    config = write_config(tmp_path / "finetune.yaml", "conf/mini/finetune.yaml", **FINETUNE)
    options = ["--init", compressed, "--dense", trained.exp, "--objective", ROOT / "conf/mini/train_smbr.yaml"]
    assert trained.train(config, tmp_path / "exp", *options) == 0
    before, after = storage.load(compressed), storage.load(tmp_path / "exp")
    for old, new in zip(before.rnn.groups, after.rnn.groups, strict=True):
        assert torch.equal(old.code_matrix() == 0, new.code_matrix() == 0)
        assert not torch.equal(old.codes, new.codes)
    curves = read_curves(tmp_path / "exp")
    assert curves[-1]["dev"]["smbr_acc"] > curves[0]["dev"]["smbr_acc"] and curves[-1]["train"]["skipped"] == 0
    saved = yaml.safe_load((tmp_path / "exp/config.yaml").read_text())
    assert saved["model_conf"]["reference"] == str(trained.exp)
    assert saved["optim_conf"]["lr"] == 4e-3  # that of the fine-tuning by CTC
    assert saved["best_model_criterion"][0] == ["valid", "smbr_acc", "max"]
    assert storage.describe(tmp_path / "exp")["extra"]["training"]["criterion"] == "valid smbr_acc max"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder_conf": {"num_layers": 3}}, "num_layers is 3, but .* is of another architecture with 2"),
        ({"max_epochs": 3}, "did you mean 'max_epoch'"),
        ({"max_epoch": "many"}, "max_epoch is 'many', expected a whole number from 1"),
        ({"max_epoch": 7}, "T_max 6, after which the rate rises again; expected max_epoch, 7"),
    ],
)
def test_mistakes_end_with_status_2_and_one_line(trained, tmp_path, capfd, changes, message):
    config = write_config(tmp_path / "bad.yaml", "conf/mini/finetune.yaml", **changes)
    assert trained.train(config, tmp_path / "exp", "--init", trained.exp) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert not (tmp_path / "exp/model.json").exists()


def test_an_espnet_checkpoint_of_another_architecture(trained, tmp_path, capfd):
    state = torch.load(trained.exp / "model.pth")
    state["encoder.rnn.weight_ih_l5"] = state.pop("encoder.rnn.weight_ih_l1")
    torch.save(state, tmp_path / "other.pth")  # no config.yaml beside it
    config = write_config(tmp_path / "c.yaml", encoder_conf={"hidden_size": 24})
    assert trained.train(config, tmp_path / "exp", "--init", tmp_path / "other.pth") == 2
    error = capfd.readouterr().err
    assert "weight_ih_l1 is missing; encoder.rnn.weight_ih_l5 is unknown" in error


def test_features_that_are_not_numbers_name_their_utterance(trained, tmp_path, capfd):
    root = make_corpus(tmp_path)
    with write_ark(root / "dump/dev/nan.ark", root / "dump/dev/nan.scp", compress=False) as ark:
        ark.write("dev-004", np.full((40, FEATURES), np.nan, np.float32))
    line = (root / "dump/dev/nan.scp").read_text()
    scp = root / "dump/dev/feats.scp"
    scp.write_text("".join(line if old.startswith("dev-004 ") else old for old in scp.read_text().splitlines(True)))
    other = dataclasses.replace(trained, root=root)
    assert other.train(trained.config, tmp_path / "exp") == 2
    assert "features of utterance dev-004 hold NaN" in capfd.readouterr().err


def test_a_full_disk_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))
    with pytest.raises(UserError, match="no space left"), checkpoint.full_disk_told(tmp_path):
        raise RuntimeError("PytorchStreamWriter failed writing file")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1 << 40))
    with pytest.raises(RuntimeError, match="another"), checkpoint.full_disk_told(tmp_path):
        raise RuntimeError("another")


def test_a_training_that_diverged_is_said(tmp_path):
    config = {"best_model_criterion": [["valid", "loss_ctc", "min"]], "keep_nbest_models": [1]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "curves.json").write_text(json.dumps([{"epoch": 1, "train": {}, "dev": {}}]))
    with pytest.raises(UserError, match="no epoch has a finite loss_ctc"):
        train.finish(tmp_path, "digest", None)


def test_more_gpus_than_there_are(trained, tmp_path, capfd):
    assert trained.train(trained.config, tmp_path, "--ngpu", 99) == 2
    assert "--ngpu is 99, but torch sees" in capfd.readouterr().err


def test_the_curves_are_plain_json(trained):
    record = json.loads((trained.exp / "curves.json").read_text())[0]
    assert record.keys() == {"epoch", "train", "dev", "lr", "seconds"}
