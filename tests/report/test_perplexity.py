"""The table of a language-model recipe."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
import torch

from dirnet.compression.compressor import compress
from dirnet.nn import storage
from dirnet.nn.language import LanguageModel, LanguageModelConfig
from dirnet.report import perplexity

WORDS = ("<blank>", "<unk>", "a", "b", "<sos/eos>")


TEXT = "s1 a\ns2 a b\n"


def result(nats, words=(2, 3)) -> dict:
    value = float(np.exp(sum(nats) / sum(words)))
    of_text = hashlib.sha256(TEXT.encode()).hexdigest()
    return {"key": {"text": of_text}, "set": "test", "perplexity": value, "low": value - 1, "high": value + 1,
            "nats": list(nats), "words": list(words)}  # fmt: skip


@pytest.fixture
def exp(tmp_path):
    """A dense model, its control and a compressed one that was scored before and after, but not timed."""
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig("lstm", 16, 2, 8, WORDS))
    storage.save(model, tmp_path / "exp/lm")
    storage.save(model, tmp_path / "exp/dense_1x")
    small, _ = compress(model, "1.8x", "svd", seed=0)
    storage.save(small, tmp_path / "exp/svd_2x")
    for name in ("lm", "svd_2x"):
        (tmp_path / "exp" / name / "config.yaml").write_text("seed: 7\n")
    losses = {"lm": (3.0, 6.0), "dense_1x": (2.0, 6.0), "svd_2x": (2.5, 6.0), "svd_2x/start": (9.0, 9.0)}
    for name, nats in losses.items():
        (tmp_path / f"exp/{name}/ppl_test").mkdir(parents=True)
        (tmp_path / f"exp/{name}/ppl_test/ppl.json").write_text(json.dumps(result(nats)))
    (tmp_path / "exp/lm/speed.json").write_text(
        json.dumps({"words_per_second": 5000.4, "speed_up": 1.0, "against": "torch fp32", "cpu": "a chip"})
    )
    (tmp_path / "data/test").mkdir(parents=True)
    (tmp_path / "data/test/text").write_text(TEXT)
    (tmp_path / "data/.corpus").write_text("ptb /corpora/ptb\n")
    return tmp_path / "exp"


def test_the_table_shows_what_the_stages_measured(exp, program):
    models = ("lm", "dense_1x", "svd_2x")
    status, shown, error = program(perplexity.main, "--exp", exp, "--models", *models, "--data", exp.parent / "data",
                                   "--command", "./run.sh x", "--out", exp / "report")  # fmt: skip
    assert status == 0, error
    told = json.loads((exp / "report/results.json").read_text())
    dense, control, small = told["rows"]
    weights = 4 * 16 * (8 + 16) + 4 * 16 * (16 + 16)
    assert dense["recurrent_weights"] == control["recurrent_weights"] == weights
    rnn = storage.load_language(exp / "svd_2x").rnn
    kept = sum(matrix.params() for matrix in rnn.groups)
    assert small["recurrent_weights"] == kept and small["ratio"] == pytest.approx(weights / kept)
    assert small["ratio_all"] == pytest.approx(dense["params"] / small["params"])
    assert 1 < small["ratio_all"] < small["ratio"]
    change = 100 * (small["perplexity"][0] / control["perplexity"][0] - 1)
    assert small["against_control"][0] == pytest.approx(change) and control["against_control"] is None
    line = next(line for line in shown.splitlines() if line.startswith("| svd_2x"))
    assert f"{np.exp(18 / 5):.1f} [" in line and f"{np.exp(8.5 / 5):.1f} [" in line and line.endswith("| - | - | - |")
    assert "| 5,000 | 1.0x | - |" in shown
    page = (exp / "report/results.md").read_text()
    for said in ("* data: ptb: test 2 sentences, 3 words", "* model: 2x16 lstm, 5 tokens", "* seed: 7", "./run.sh x",
                 "* device: a chip", "torch fp32"):  # fmt: skip
        assert said in page


def test_perplexities_of_two_texts_are_not_compared(exp, program):
    path = exp / "svd_2x/ppl_test/ppl.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": {"text": "another"}}))
    status, _, error = program(perplexity.main, "--exp", exp, "--models", "lm", "svd_2x", "--out", exp / "report")
    assert status == 2 and "are of two texts" in error


def test_figures_of_another_text_than_the_one_that_is_there_are_refused(exp, program):
    (exp.parent / "data/test/text").write_text("s1 a a\n")
    status, _, error = program(perplexity.main, "--exp", exp, "--models", "lm", "svd_2x", "--data", exp.parent / "data",
                               "--out", exp / "report")  # fmt: skip
    assert status == 2 and "data/test/text is not the text that the models were scored on" in error


def test_what_was_measured_of_an_older_model_is_left_out_and_said(exp, program):
    (exp / "svd_2x/start/model.pth").write_bytes(b"")
    old = ["dense_1x/ppl_test/ppl.json", "svd_2x/start/ppl_test/ppl.json", "lm/speed.json"]
    for name in old:
        os.utime(exp / name, (1, 1))
    status, _, error = program(perplexity.main, "--exp", exp, "--models", "lm", "dense_1x", "svd_2x", "--data",
                               exp.parent / "data", "--out", exp / "report")  # fmt: skip
    assert status == 0 and sorted(line.split(" is older than ")[0] for line in error.splitlines()) == sorted(
        str(exp / name) for name in old
    )
    dense, control, small = json.loads((exp / "report/results.json").read_text())["rows"]
    assert control["perplexity"] is small["before"] is small["against_control"] is dense["words_per_second"] is None
    assert small["perplexity"] and dense["perplexity"]
