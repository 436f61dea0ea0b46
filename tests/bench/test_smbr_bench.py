"""The bench of sMBR on a toy language: every run is trained and measured once, and the table compares with CTC."""

from __future__ import annotations

import json

import pytest
import torch

from bench.corpus import Corpus
from bench.ctc import Training, train
from bench.smbr import main
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel

CONFIG = """training: {epochs: 2, rate: 5.0e-3, batch: 4, channel: 0, time_masks: 1}
runs:
    ctc:
    smbr: {order: 3, ctc_smooth: 0.2, training: {epochs: 1}}
"""


@pytest.fixture
def start(work):
    """A model that CTC has taught something."""
    lexicon = "".join(f"{phone} {phone}\n" for phone in (work / "data/lang/tokens.txt").read_text().split()[1:42])
    (work / "data/lang/lexicon.txt").write_text(lexicon)
    text = (work / "data/train/text").read_text().splitlines(keepends=True)
    (work / "data/train/text").write_text("".join(["train0 XYZZY\n", *text[1:]]))  # a word that the lexicon lacks
    (work / "smbr.yaml").write_text(CONFIG)
    corpus = Corpus(work, torch.device("cpu"))
    model = AcousticModel(corpus.model_config("gru", 1, 32, 1))
    settings = Training(epochs=6, rate=2e-2, batch=4, channel=0, time_masks=1)
    storage.save(train(model, corpus, settings, 0, log=lambda line: None), work / "ctc")
    return work


def test_runs_are_compared_and_not_repeated(start, program):
    options = ("--workdir", start, "--model", start / "ctc", "--config", start / "smbr.yaml")
    options += ("--out", start / "out", "--seeds", 0, 1, "--device", "cpu")
    status, shown, error = program(main, *options)
    assert status == 0, error
    lines = [line.split("|") for line in shown.splitlines() if line.startswith("| ")]
    assert [line[1].strip() for line in lines] == ["run", "start", "ctc", "smbr"]
    assert [line[2].strip() for line in lines[1:]] == ["1", "2", "2"]
    told = json.loads((start / "out/smbr_1.json").read_text())
    assert len(told["log"]) == 1 and len(told["dev_phone_errors"]) == 4
    assert all(0 < accuracy <= 1 for accuracy in told["smbr_acc"]) and len(told["smbr_acc"]) == 6
    before = (start / "out/smbr_1.json").stat().st_mtime_ns
    (start / "smbr.yaml").write_text(f"{CONFIG}    smbr_more: {{order: 2}}\n")  # a run more mixes nothing
    assert program(main, *options, "--runs", "ctc", "smbr")[1] == shown
    assert (start / "out/smbr_1.json").stat().st_mtime_ns == before
    (start / "smbr.yaml").write_text(CONFIG.replace("order: 3", "order: 2"))
    status, _, error = program(main, *options)
    assert status == 2 and "setting.json: these results are of run smbr {'order': 3" in error


def test_mistakes(start, program):
    options = ("--out", start / "none", "--config", start / "smbr.yaml")
    for more, message in (
        (("--workdir", start), "not both --workdir and --model"),
        (("--workdir", start, "--model", start / "ctc", "--runs", "mmi"), "'mmi' is not in"),
    ):
        status, _, error = program(main, *options, *more)
        assert status == 2 and message in error
    status, _, error = program(main, "--out", start / "none")
    assert status == 2 and "holds no results" in error
