"""The program `dirnet compress` with calibration features from an archive."""

import json
import shutil

import numpy as np
import pytest
import torch

from dirnet import calibrated
from dirnet.asr.ark import Matrices, write_ark
from dirnet.errors import UserError
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


@pytest.fixture(scope="module")
def scp(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("dump"), np.random.default_rng(0)
    with write_ark(folder / "feats.ark", folder / "feats.scp", compress=False) as writer:
        for number in range(30):
            writer.write(f"utt{number:02}", np.full((5 + number, 3), number) + generator.normal(size=(5 + number, 3)))
    return folder / "feats.scp"


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    torch.manual_seed(0)
    config = AcousticModelConfig(
        rnn_type="lstm", hidden_size=8, num_layers=2, feature_size=3, context=1, num_outputs=4, phones=tuple("-abc"),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("dense")
    storage.save(AcousticModel(config), folder)
    return folder


def program(*arguments):
    with pytest.raises(SystemExit) as exit_:
        calibrated.main([str(argument) for argument in arguments])
    return exit_.value.code


def test_utterances_are_drawn_by_the_seed_without_losing_a_frame(scp):
    def lengths(count, seed):
        return sorted(int(n) for _, lengths in calibrated.read_features(scp, count, seed) for n in lengths)

    assert lengths(30, 0) == lengths(99, 1) == list(range(5, 35))
    assert lengths(7, 0) == lengths(7, 0) != lengths(7, 1) and len(lengths(7, 0)) == 7
    for features, steps in calibrated.read_features(scp, 30):
        for row, length in zip(features, steps, strict=True):
            assert row[:length].abs().min() > 0 and not row[length:].any()
            assert row[:length].mean() == pytest.approx(int(length) - 5, abs=1.5)


def test_no_utterances_are_named(tmp_path):
    (tmp_path / "feats.scp").write_text("")
    with pytest.raises(UserError, match="lists no utterances|is empty"):
        list(calibrated.read_features(tmp_path / "feats.scp", 3))


def test_the_program_uses_the_features_and_tells_requests_apart(scp, dense, tmp_path, capsys):
    out, scp = tmp_path / "out", shutil.copy(scp, tmp_path / "feats.scp")
    request = ("--model", dense, "--size", "3x", "--out", out)
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
