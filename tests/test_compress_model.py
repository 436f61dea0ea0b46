"""`dirnet compress`: what it writes, what it leaves alone, what it refuses, and calibration from an archive."""

import json
import shutil

import pytest
import torch

import dirnet
from dirnet import compress_model
from dirnet.asr.ark import Matrices, write_ark
from dirnet.asr.batches import FeatureBatches
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
    """Exit status of `dirnet compress`, run in this process."""
    with pytest.raises(SystemExit) as exit_:
        compress_model.main([str(argument) for argument in arguments])
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
    for source in (("--model", dense_folder), ("--espnet", tmp_path)):
        assert program(*source, "--size", "4x", "--out", "") == 2
        assert "--out is empty, expected the folder to write" in capsys.readouterr().err


def test_a_trained_model_is_not_overwritten(dense_folder, capsys):
    before = (dense_folder / "model.safetensors").read_bytes()
    assert program("--model", dense_folder, "--size", "4x", "--out", dense_folder) == 2
    assert "holds a trained model, which would be lost" in capsys.readouterr().err
    assert (dense_folder / "model.safetensors").read_bytes() == before
    assert not (dense_folder / "compression.json").exists()


@pytest.mark.parametrize("trained", ["model.pth", "checkpoint.pth", "ctc/checkpoint.pth"])
def test_the_start_of_a_training_is_not_replaced(dense_folder, tmp_path, capsys, trained):
    """A report would otherwise tell of another model than the one that was fine-tuned."""
    folder = tmp_path / "svd_4x"
    request = ("--model", dense_folder, "--size", "4x", "--method", "svd", "--out", folder / "start")
    assert program(*request) == program(*request, "--seed", 1) == 0  # as long as nothing was trained
    (folder / trained).parent.mkdir(exist_ok=True)
    (folder / trained).touch()
    before = (folder / "start/model.json").read_bytes()
    capsys.readouterr()
    assert program(*request, "--seed", 2) == 2
    error = capsys.readouterr().err
    assert f"{folder} holds a training that began with {folder}/start, made with another seed; remove" in error
    assert (folder / "start/model.json").read_bytes() == before
    (folder / "start/model.safetensors").write_bytes(b"")  # the same, damaged, is made again
    assert program(*request, "--seed", 1) == 0


def test_a_language_model_is_not_overwritten(dense_folder, tmp_path, capsys):
    storage.save(LanguageModel(LanguageModelConfig("lstm", 8, 1, embedding_size=8, words=("<unk>", "a"))), tmp_path)
    assert program("--model", dense_folder, "--size", "4x", "--out", tmp_path) == 2
    assert "holds a trained model, which would be lost" in capsys.readouterr().err
    storage.load_language(tmp_path)


def test_a_dry_run_prints_the_plan_of_what_is_there_already(dense_folder, tmp_path, capsys):
    options = ("--model", dense_folder, "--size", "4x", "--method", "svd", "--out", tmp_path)
    assert program(*options) == 0
    capsys.readouterr()
    assert program(*options, "--dry-run") == 0
    assert "atoms" in capsys.readouterr().out
    assert program(*options, "--threads", "7") == 2
    assert "--threads 7 goes with --cost_model" in capsys.readouterr().err


def test_the_figures_of_a_dense_model(dense_folder):
    model = storage.load(dense_folder)
    figures = size_figures(model)
    assert figures["params"] == sum(p.numel() for p in model.parameters()) and figures["bytes"] == 4 * figures["params"]
    weights = 4 * 32 * (25 + 32 + 32 + 32) + 4 * 32
    assert figures["macs_per_frame"] == round(weights / 3)


def test_the_program_uses_the_features_and_tells_requests_apart(scp, dense_folder, tmp_path, capsys):
    out, scp = tmp_path / "out", shutil.copy(scp, tmp_path / "feats.scp")
    request = ("--model", dense_folder, "--size", "3x", "--out", out)
    assert program(*request) == 0
    plain = json.loads((out / "compression.json").read_text())["relative_error"]
    assert program(*request, "--calibration", scp, "--calibration_utts", 12) == 0
    assert json.loads((out / "compression.json").read_text())["relative_error"] != plain
    assert storage.describe(out)["extra"]["compression"]["calibration"][:2] == [str(scp), 12]
    capsys.readouterr()
    assert program(*request, "--calibration", scp, "--calibration_utts", 12) == 0
    assert "nothing to do" in capsys.readouterr().out
    louder = {name: matrix * 2 for name, matrix in Matrices(scp).items()}
    with write_ark(tmp_path / "louder.ark", scp, compress=False) as writer:
        for name, matrix in louder.items():
            writer.write(name, matrix)
    assert program(*request, "--calibration", scp, "--calibration_utts", 12) == 0
    assert "nothing to do" not in capsys.readouterr().out  # the same path, other features
    assert program(*request, "--calibration", scp, "--dry_run", "true") == 0
    assert "rnn.hidden_l1" in capsys.readouterr().out
    assert program(*request, "--calibration", scp, "--calibration_utts", 0) == 2
    assert program(*request, "--calibration", tmp_path / "none.scp") == 2
    assert "none.scp does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["dirnet_b8", "svd"])
def test_layers_learn_from_speech_without_labels(scp, dense_folder, tmp_path, capsys, method):
    request = ("--model", dense_folder, "--size", "3x", "--method", method, "--calibration", scp)
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert program(*request, "--out", plain) == 0
    capsys.readouterr()
    assert program(*request, "--reconstruct", 25, "--out", out) == 0
    said = capsys.readouterr()
    assert "layers now miss" in said.out and "--calibration" not in said.err
    report = json.loads((out / "compression.json").read_text())
    assert report["reconstruction"]["utterances"] == 25 and "from 25 utterances" in (out / "compression.md").read_text()
    assert report["compressed"] == json.loads((plain / "compression.json").read_text())["compressed"]
    before, after = (storage.load(folder).state_dict() for folder in (plain, out))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("rnn.") and not name.endswith("index") for name in moved)
    model, lessons = storage.load(plain), FeatureBatches(scp, 25, 0).shuffled(0)
    dirnet.reconstruct(model, storage.load(dense_folder), lessons, report["unit_orders"], progress=False)
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items())
    assert program(*request, "--reconstruct", 25, "--out", out) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert program(*request, "--reconstruct", -1, "--out", out) == 2
    assert "--reconstruct is -1, expected 0 or more" in capsys.readouterr().err


def test_reconstruction_needs_speech_and_layers_that_keep_it(scp, dense_folder, tmp_path, capsys):
    request = ("--model", dense_folder, "--out", tmp_path / "out", "--reconstruct", 5)
    assert program(*request, "--size", "3x") == 2
    assert "--reconstruct is 5, expected --calibration, whose utterances" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for method in ("prune_gradual", "small"):
        out = (*request[:3], tmp_path / method, *request[4:])
        assert program(*out, "--size", "3x", "--method", method, "--calibration", scp) == 0
        assert f"--reconstruct 5 is not for method {method}" in capsys.readouterr().err
        assert "reconstruct" not in storage.describe(tmp_path / method)["extra"]["compression"]


def test_calibration_that_the_method_does_not_read_is_said(scp, dense_folder, tmp_path, capsys):
    request = ("--model", dense_folder, "--size", "3x", "--method", "svd", "--calibration", scp)
    assert program(*request, "--out", tmp_path / "out") == 0
    assert f"--calibration {scp} is not read by method svd" in capsys.readouterr().err


def test_a_dry_run_tells_the_budgets_that_are_carried_out(dense_folder, tmp_path, capsys):
    """Also where units change places first, and the budget follows the errors of the blocks."""
    (tmp_path / "methods.yaml").write_text("wide: {solver: dirnet, block: 8, allocation: error, permute: true}\n")
    request = ("--model", dense_folder, "--size", "3x", "--method", "wide", "--config", tmp_path / "methods.yaml",
               "--out", tmp_path / "out")  # fmt: skip
    assert program(*request, "--dry_run") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    planned = {line[0]: int(line[line.index("->") + 1].replace(",", "")) for line in lines}
    assert program(*request) == 0
    report = json.loads((tmp_path / "out" / "compression.json").read_text())
    assert planned == {row["name"]: row["budget"] for row in report["groups"]} and report["unit_orders"]
