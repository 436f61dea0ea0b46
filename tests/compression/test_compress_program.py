"""`python -m dirnet.compression.compressor`: what it writes, what it leaves alone, what it refuses."""

import json

import pytest
import torch

from dirnet.compression import compressor
from dirnet.compression.report import size_figures
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig
from dirnet.nn.coded import CodedMatrix
from dirnet.nn.language import LanguageModel, LanguageModelConfig


@pytest.fixture(scope="module")
def dense_folder(tmp_path_factory):
    torch.manual_seed(0)
    config = AcousticModelConfig(
        rnn_type="lstm", hidden_size=32, num_layers=2, feature_size=5, context=2, num_outputs=4, phones=tuple("-abc"),
        frame_stride=3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("dense")
    storage.save(AcousticModel(config), folder, {"wer": 12.9})
    return folder


def program(*arguments):
    """Exit status of `python -m dirnet.compression.compressor`, run in this process."""
    with pytest.raises(SystemExit) as exit_:
        compressor.main([str(argument) for argument in arguments])
    return exit_.value.code


def test_the_program_writes_everything_once(dense_folder, tmp_path, capsys):
    out = tmp_path / "exp" / "dirnet_4x"
    request = ("--model", dense_folder, "--size", "4x", "--out", out)
    assert program(*request, "--dry_run", "true") == 0
    assert not out.exists() and "rnn.hidden_l1" in capsys.readouterr().out
    assert program(*request) == 0
    files = sorted(path.name for path in out.iterdir())
    assert files == ["compression.json", "compression.md", "compression.png", "model.json", "model.safetensors"]
    report = json.loads((out / "compression.json").read_text())
    model = storage.load(out)
    assert model.config.compression and report["compressed"]["bytes"] == storage.stored_bytes(model)
    coded = [module for module in model.modules() if isinstance(module, CodedMatrix)]
    macs = sum(matrix.params() for matrix in coded) + 4 * 32
    assert report["compressed"]["macs_per_frame"] == round(macs / 3)
    assert storage.describe(out)["extra"]["wer"] == 12.9
    for row in report["groups"]:
        assert f"| {row['name']} | {row['rows']}x{row['columns']} |" in (out / "compression.md").read_text()
    assert program("--model", out, "--size", "2x", "--out", tmp_path / "smaller") == 2
    assert f"--model {out} is compressed already; give the dense model" in capsys.readouterr().err
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert program(*request) == 0
    assert "nothing to do" in capsys.readouterr().out
    (out / "model.safetensors").write_bytes(b"")
    assert program(*request) == 0
    storage.load(out)
    assert (out / "model.safetensors").stat().st_mtime_ns > stamp


def test_the_program_refuses_in_one_line(dense_folder, tmp_path, capsys):
    out = tmp_path / "out"
    for arguments, message in [
        (("--model", dense_folder, "--size", "900x"), "out of reach"),
        (("--model", dense_folder, "--size", "small"), "not understood"),
        (("--model", tmp_path, "--size", "4x"), "model.json does not exist"),
        (("--model", dense_folder, "--size", "4x", "--method", "lora"), "method 'lora' is unknown"),
        (("--model", dense_folder, "--size", "4x", "--config", tmp_path / "no.yaml"), "no.yaml does not exist"),
        (("--model", dense_folder, "--size", "4x", "--config", "/dev/null"), "/dev/null holds no method; write lines"),
    ]:
        assert program(*arguments, "--out", out) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_a_trained_model_is_not_overwritten(dense_folder, capsys):
    before = (dense_folder / "model.safetensors").read_bytes()
    assert program("--model", dense_folder, "--size", "4x", "--out", dense_folder) == 2
    assert "holds a trained model, which would be lost" in capsys.readouterr().err
    assert (dense_folder / "model.safetensors").read_bytes() == before
    assert not (dense_folder / "compression.json").exists()


def test_a_language_model_is_not_overwritten(dense_folder, tmp_path, capsys):
    storage.save(LanguageModel(LanguageModelConfig("lstm", 8, 1, embedding_size=8, words=("<unk>", "a"))), tmp_path)
    assert program("--model", dense_folder, "--size", "4x", "--out", tmp_path) == 2
    assert "holds a trained model, which would be lost" in capsys.readouterr().err
    storage.load_language(tmp_path)


def test_a_dry_run_prints_the_plan_of_what_is_there_already(dense_folder, tmp_path, capsys):
    options = ("--model", dense_folder, "--size", "4x", "--method", "svd", "--out", tmp_path)
    assert program(*options) == 0
    capsys.readouterr()
    assert program(*options, "--dry_run", "true") == 0
    assert "atoms" in capsys.readouterr().out
    assert program(*options, "--threads", "7") == 2
    assert "--threads 7 goes with --cost_model" in capsys.readouterr().err


def test_the_figures_of_a_dense_model(dense_folder):
    model = storage.load(dense_folder)
    figures = size_figures(model)
    assert figures["params"] == sum(p.numel() for p in model.parameters()) and figures["bytes"] == 4 * figures["params"]
    weights = 4 * 32 * (25 + 32 + 32 + 32) + 4 * 32
    assert figures["macs_per_frame"] == round(weights / 3)
