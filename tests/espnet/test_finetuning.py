"""Fine-tuning with the dense model at hand, through ESPnet: distillation, gradual pruning, regrowth, small peers."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tiny_corpus import write_config
from torch import nn

from dirnet import compress_model
from dirnet.compression.distillation import distillation_loss
from dirnet.espnet.checkpoint import encoder_conf, espnet_state
from dirnet.espnet.pack import pack
from dirnet.espnet.task import RecipeTrainer, patience_now, read_curves
from dirnet.nn import storage

BASE = "conf/mini/finetune.yaml"
PACE = {"epochs": 3, "regrow": 0.5}


def compress(trained, out, method, size="4x", **settings):
    """The start of a fine-tuning in `out`, by a method of the given settings."""
    config = out.parent / f"{out.name}.yaml"
    config.write_text(yaml.safe_dump({method: settings}))
    with pytest.raises(SystemExit) as stopped:
        options = {"model": trained.exp, "size": size, "method": method, "config": config, "out": out}
        compress_model.main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    assert not stopped.value.code
    return out


def finetune_config(path: Path, **model_conf) -> Path:
    """Four epochs at a rate that is reduced where the error rate stops falling."""
    write_config(path, BASE, scheduler=None, scheduler_conf=None, specaug=None, specaug_conf=None)
    return write_config(
        path, path, max_epoch=4, encoder_conf={"dropout": 0.0}, model_conf=model_conf, optim_conf={"lr": 1e-3},
        scheduler="hold_then_reduce", scheduler_conf={"patience": 0}, val_scheduler_criterion=["valid", "per"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "method, settings",
    [
        ("gradual", {"solver": "prune", "support": "gradual", "block": 2}),
        ("regrow", {"solver": "dirnet", "support": "regrow"}),
    ],
)
def test_a_moving_support_ends_at_the_budget(trained, tmp_path, method, settings):
    start = compress(trained, tmp_path / "start", method, **settings)
    config, exp = finetune_config(tmp_path / "finetune.yaml", support=PACE), tmp_path / "exp"
    assert trained.train(config, exp, "--init", start, "--dense", trained.exp) == 0
    before, after = storage.load(start), storage.load(exp)
    assert after.rnn.layout == before.rnn.layout and after.rnn.block == before.rnn.block
    assert storage.stored_bytes(after) == storage.stored_bytes(before)
    assert any(not torch.equal(a.index, b.index) for a, b in zip(after.rnn.groups, before.rnn.groups, strict=True))
    training = storage.describe(exp)["extra"]["training"]
    assert min(training["averaged"]) >= 3 and training["epochs"] == 4
    curves = read_curves(exp)
    assert len({record["lr"] for record in curves[:4]}) == 1  # not reduced while the support moves
    assert curves[-1]["dev"]["per"] < 0.9
    mean = torch.load(exp / "model.pth")
    for number, matrix in enumerate(after.rnn.groups):
        torch.testing.assert_close(mean[f"encoder.rnn.groups.{number}.codes"], matrix.code_matrix().detach())


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_training_starts_from_a_package(trained, tmp_path, dtype):
    """Whose compressed layers are as small as they are stored."""
    start = compress(trained, tmp_path / "start", "dirnet", solver="dirnet", dtype=dtype)
    pack(start, trained.root / "data/lang", tmp_path / "model.zip")
    shutil.unpack_archive(tmp_path / "model.zip", tmp_path / "package")
    assert not any(name.endswith(".index") for name in torch.load(tmp_path / "package/model.pth"))
    config, exp = finetune_config(tmp_path / "finetune.yaml"), tmp_path / "exp"
    assert trained.train(config, exp, "--init", tmp_path / "package/model.pth", "--max_epoch", 1) == 0
    before, after = storage.load(start), storage.load(exp)
    assert all(torch.equal(a.index, b.index) for a, b in zip(after.rnn.groups, before.rnn.groups, strict=True))
    first = torch.load(exp / "initial.pth")
    for number, matrix in enumerate(before.rnn.groups):
        torch.testing.assert_close(first[f"encoder.rnn.groups.{number}.codes"], matrix.code_values().detach())


def test_gradual_pruning_goes_on_where_it_was_stopped(trained, tmp_path):
    start = compress(trained, tmp_path / "start", "gradual", solver="prune", support="gradual")
    config, whole, parts = finetune_config(tmp_path / "c.yaml", support=PACE), tmp_path / "whole", tmp_path / "parts"
    options = ("--init", start, "--dense", trained.exp)
    assert trained.train(config, whole, *options) == 0
    original = RecipeTrainer.validate_one_epoch.__func__

    def interrupted(cls, **arguments):
        if arguments["reporter"].get_epoch() == 3:
            raise KeyboardInterrupt
        return original(cls, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecipeTrainer, "validate_one_epoch", classmethod(interrupted))
        assert trained.train(config, parts, *options) == 130
    assert (parts / "2epoch.pth").exists() and not (parts / "3epoch.pth").exists()
    assert trained.train(config, parts, *options) == 0
    one, other = (storage.stored_tensors(storage.load(folder)) for folder in (whole, parts))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def espnet_model(trained, start, **model_conf):
    """The ESPnet model that fine-tunes `start`."""
    from espnet2.tasks.asr import ASRTask

    model = storage.load(start)
    args = argparse.Namespace(**yaml.safe_load((trained.exp / "config.yaml").read_text()))
    args.encoder_conf, args.model_conf, args.init_param = encoder_conf(model), model_conf, []
    built = ASRTask.build_model(args)
    built.load_state_dict(espnet_state(model, len(args.token_list)))
    return built


def test_the_teacher_hears_what_the_student_hears(trained, tmp_path):
    start = compress(trained, tmp_path / "start", "svd", solver="svd")
    options = {"distill": {"weight": 0.3, "temperature": 2.0}, "teacher": str(trained.exp)}
    student = espnet_model(trained, start, **options)
    plain = espnet_model(trained, start)
    dense, neutral = storage.load(trained.exp), storage.load(start)
    torch.manual_seed(0)
    speech, sizes = 3 * torch.randn(3, 40, 26), torch.tensor([40, 31, 22])  # ESPnet normalises in place: give copies
    text, text_sizes = torch.tensor([[1, 2, 3], [2, 1, -1], [4, -1, -1]]), torch.tensor([3, 2, 1])
    for model in (student, plain):
        model.train()
    loss, stats, _, _ = student.criterion(speech.clone(), sizes, text, text_sizes)
    ctc = plain.criterion(speech.clone(), sizes, text, text_sizes)[0]
    theirs, lengths = dense(speech, sizes)
    ours, _ = neutral(speech, sizes)
    expected = distillation_loss(ours, theirs, lengths, 2.0)
    torch.testing.assert_close(stats["loss_distill"], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, 0.7 * ctc + 0.3 * expected, rtol=1e-4, atol=1e-4)
    assert student.state_dict().keys() == plain.state_dict().keys()
    assert len(list(student.parameters())) == len(list(plain.parameters())) and student.teachers
    loss.backward()
    assert all(parameter.grad is None for parameter in student.teachers[0].parameters())
    student.specaug = Doubled()
    doubled = student.criterion(speech.clone(), sizes, text, text_sizes)[1]["loss_distill"]
    ours, theirs = neutral(2 * speech, sizes)[0], dense(2 * speech, sizes)[0]
    torch.testing.assert_close(doubled, distillation_loss(ours, theirs, lengths, 2.0), rtol=1e-4, atol=1e-4)
    student.eval()
    loss, stats, _, _ = student.criterion(speech.clone(), sizes, text, text_sizes)
    assert "loss_distill" not in stats and torch.equal(loss, stats["loss_ctc"])


class Doubled(nn.Module):
    """An augmentation whose effect is known."""

    def forward(self, speech, lengths):
        return 2 * speech, lengths


def test_distillation_leaves_no_teacher_behind(trained, tmp_path):
    start = compress(trained, tmp_path / "start", "svd", solver="svd")
    config = finetune_config(tmp_path / "c.yaml", distill={"weight": 0.5, "temperature": 1.5})
    assert trained.train(config, tmp_path / "exp", "--init", start, "--dense", trained.exp) == 0
    curves = read_curves(tmp_path / "exp")
    assert curves[-1]["train"]["loss_distill"] < curves[0]["train"]["loss_distill"]
    assert "loss_distill" not in curves[0]["dev"]
    state = torch.load(tmp_path / "exp/4epoch.pth", weights_only=True)
    assert state.keys() == torch.load(tmp_path / "exp/initial.pth", weights_only=True).keys()
    assert storage.load(tmp_path / "exp").rnn.layout == storage.load(start).rnn.layout


def test_a_small_model_takes_a_shape_and_no_weights(trained, tmp_path):
    start = compress(trained, tmp_path / "start", "small", solver="small")
    units = storage.load(start).config.hidden_size
    config = write_config(tmp_path / "ctc.yaml", max_epoch=1)  # says 160 units
    assert trained.train(config, tmp_path / "ctc", "--shape", start) == 0
    assert storage.load(tmp_path / "ctc").config.hidden_size == units < 24
    assert not (tmp_path / "ctc/initial.pth").exists()
    assert trained.train(finetune_config(tmp_path / "c.yaml"), tmp_path / "exp", "--init", tmp_path / "ctc") == 0
    assert storage.load(tmp_path / "exp").config.hidden_size == units


def test_mistakes_are_told_before_training(trained, tmp_path, capfd):
    gradual = compress(trained, tmp_path / "gradual", "gradual", solver="prune", support="gradual")
    svd = compress(trained, tmp_path / "svd", "svd", solver="svd")
    plain, late = finetune_config(tmp_path / "a.yaml"), finetune_config(tmp_path / "b.yaml", support={"epochs": 9})
    told = finetune_config(tmp_path / "c.yaml", distill={"weight": 0.5})
    wrong = finetune_config(tmp_path / "d.yaml", distill={"wait": 0.5})
    own = finetune_config(tmp_path / "e.yaml", support={"kept": [1]})
    for config, options, message in [
        (plain, ("--init", gradual), "give that with --dense"),
        (plain, ("--init", gradual, "--dense", svd), "is not the model that"),
        (late, ("--init", gradual, "--dense", trained.exp), "epochs is 9, expected at most max_epoch, which is 4"),
        (own, ("--init", gradual, "--dense", trained.exp), "expected epochs and regrow"),
        (told, ("--init", svd), "give the dense model with --dense"),
        (wrong, ("--init", svd), "did you mean 'weight'"),
        (plain, ("--init", svd, "--shape", svd), "leave one out"),
    ]:
        assert trained.train(config, tmp_path / "exp", *options) == 2
        error = capfd.readouterr().err.strip().splitlines()[-1]
        assert message in error, error
        assert not (tmp_path / "exp/model.json").exists()


def test_patience_waits_for_the_end_of_the_schedule():
    curves = [{"dev": {"per": 0.2}}] * 7
    assert patience_now(curves, 4) == 4 and patience_now(curves, 4, held=3) is None
    assert patience_now(curves, 3, held=3) == 3
