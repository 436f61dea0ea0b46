"""Language models through ESPnet: trained, compressed, fine-tuned, scored; the neutral model says the same."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from dirnet.errors import UserError
from dirnet.espnet import compress, in_turn, lm_train, perplexity, versions
from dirnet.nn import storage
from dirnet.nn.recurrent import DirNetRecurrent

TRAIN = {
    "lm": "seq_rnn", "lm_conf": {"rnn_type": "lstm", "unit": 16, "nlayers": 2, "dropout_rate": 0.1}, "optim": "adam",
    "optim_conf": {"lr": 0.02}, "max_epoch": 3, "best_model_criterion": [["valid", "loss", "min"]],
    "keep_nbest_models": [1], "batch_type": "sorted", "batch_size": 8, "num_workers": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A data folder of sentences that count in circles, and two configurations."""
    root = tmp_path_factory.mktemp("lm")
    tokens = ["<blank>", "<unk>", *(f"w{n}" for n in range(6)), "<sos/eos>"]
    for name, count in (("train", 40), ("valid", 10), ("test", 7)):
        (root / "data" / name).mkdir(parents=True)
        lines = [[f"w{(start + n) % 6}" for n in range(3 + start % 4)] for start in range(count)]
        lines[0].append("zebra")
        (root / f"data/{name}/text").write_text("".join(f"s{n} {' '.join(x)}\n" for n, x in enumerate(lines)))
        (root / f"data/{name}/text_shape").write_text("".join(f"s{n} {len(x)}\n" for n, x in enumerate(lines)))
    (root / "data/tokens.txt").write_text("\n".join(tokens) + "\n")
    (root / "train.yaml").write_text(yaml.safe_dump(TRAIN))
    tune = {key: value for key, value in TRAIN.items() if not key.startswith("lm")} | {"max_epoch": 1}
    (root / "tune.yaml").write_text(yaml.safe_dump(tune))
    return root


def train(program, work, config, *options):
    return program(lm_train.main, "--config", work / config, "--data", work / "data", *options)


@pytest.fixture
def trained(program, work):
    """The dense model in `exp/lm` and, fine-tuned, `exp/dirnet`."""
    if not (work / "exp/dirnet/lm.json").exists():
        status, _, error = train(program, work, "train.yaml", "--exp", work / "exp/lm")
        assert status == 0, error
        start = work / "exp/dirnet/start"
        status, _, error = program(
            compress.main, "--espnet", f"{work}/exp/lm/config.yaml,{work}/exp/lm/model.pth", "--of", "recurrent",
            "--size", "3x", "--data", work / "data/train/text", "--out", start,
        )  # fmt: skip
        assert status == 0, error
        status, _, error = train(program, work, "tune.yaml", "--exp", work / "exp/dirnet", "--init", start)
        assert status == 0, error
    return work / "exp"


@torch.no_grad()
def nats(model, path) -> tuple[float, int]:
    """Loss and words of a text, one sentence after the other."""
    words = model.config.words
    number, total, count = {word: at for at, word in enumerate(words)}, 0.0, 0
    for line in path.read_text().splitlines():
        ids = [number.get(word, 1) for word in line.split()[1:]]
        read, said = torch.tensor([[len(words) - 1, *ids]]), torch.tensor([*ids, len(words) - 1])
        total -= model(read)[0][0].gather(1, said[:, None]).sum().item()
        count += len(said)
    return total, count


def test_another_espnet_is_told(trained, program, work, tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "found", lambda: None)
    (work / "data/other").mkdir()
    shutil.copyfile(work / "data/test/text", work / "data/other/text")
    for status, _, error in (
        train(program, work, "train.yaml", "--exp", tmp_path / "lm"),
        program(perplexity.main, "--exp", trained / "lm", "--data", work / "data/other"),
    ):
        assert status == 2 and "error: ESPnet is not installed, expected ESPnet 202" in error
        assert len(error.splitlines()) == 1


def test_perplexity_is_that_of_the_neutral_model(trained, program, work):
    folders = [trained / "lm", trained / "dirnet"]
    status, said, error = program(perplexity.main, "--exp", *folders, "--data", work / "data/test")
    assert status == 0, error
    for folder in folders:
        told = json.loads((folder / "ppl_test/ppl.json").read_text())
        loss, words = nats(storage.load_language(folder), work / "data/test/text")
        assert told["tokens"] == words and told["perplexity"] == pytest.approx(math.exp(loss / words), rel=1e-5)
        assert told["low"] <= told["perplexity"] <= told["high"]
        assert float((folder / "ppl_test/ppl").read_text()) == pytest.approx(told["perplexity"], rel=1e-5)
    status, said, _ = program(perplexity.main, "--exp", *folders, "--data", work / "data/test")
    assert status == 0 and said.count("already done") == 2


def test_a_perplexity_that_is_not_finite_is_said(trained, program, work, tmp_path):
    for name in ("config.yaml", "model.pth"):
        shutil.copyfile(trained / "lm" / name, tmp_path / name)
    state = torch.load(tmp_path / "model.pth")
    words = len(state["lm.decoder.bias"])
    for told, bias in (("nan", torch.full((words,), math.nan)), ("inf", torch.arange(words) * -1e4)):
        torch.save({**state, "lm.decoder.bias": bias}, tmp_path / "model.pth")
        status, _, error = program(perplexity.main, "--exp", tmp_path, "--data", work / "data/test")
        assert status == 2 and f"the perplexity of sentence s0 is {told}, the model has diverged" in error
        assert len(error.splitlines()) == 1 and not (tmp_path / "ppl_test/ppl.json").exists()


def test_fine_tuning_keeps_the_zeros(trained):
    dense, small = (storage.load_language(trained / name) for name in ("lm", "dirnet"))
    assert isinstance(small.rnn, DirNetRecurrent) and small.config.words == dense.config.words
    kept = [values.numel() for name, values in small.rnn.named_parameters() if not name.startswith("bias")]
    whole = [values.numel() for name, values in dense.rnn.named_parameters() if not name.startswith("bias")]
    assert sum(whole) / sum(kept) == pytest.approx(3, rel=0.02)
    start = torch.load(trained / "dirnet/start/model.pth")
    after = torch.load(trained / "dirnet/model.pth")
    for key, value in start.items():
        assert torch.equal(value, after[key]) == key.endswith(".index"), key


def test_a_rerun_trains_nothing_and_another_training_is_refused(trained, program, work, monkeypatch):
    before = (trained / "lm/model.pth").stat().st_mtime_ns
    status, said, _ = train(program, work, "train.yaml", "--exp", trained / "lm")
    assert status == 0 and "already trained" in said and (trained / "lm/model.pth").stat().st_mtime_ns == before
    monkeypatch.chdir(work)
    status, said, error = train(program, Path(), "train.yaml", "--exp", "exp/lm")  # the same folders
    assert status == 0 and "already trained" in said, error
    neutral = trained / "lm/model.json"
    told = json.loads(neutral.read_text())["sha256"]
    neutral.unlink()
    status, said, error = train(program, work, "train.yaml", "--exp", trained / "lm")
    assert status == 0 and "already trained" in said and json.loads(neutral.read_text())["sha256"] == told
    status, _, error = train(program, work, "train.yaml", "--exp", trained / "lm", "--optim_conf", "lr=0.1")
    assert status == 2 and "holds a training with other data, weights or options of the command line" in error
    assert len(error.splitlines()) == 1
    status, _, error = train(program, work, "train.yaml", "--exp", trained / "lm", "--max_epoch", 2)
    assert status == 2 and "holds a training with max_epoch 3, not 2" in error


def test_a_changed_vocabulary_is_refused(trained, program, work):
    tokens = work / "data/tokens.txt"
    whole = tokens.read_text()
    try:
        tokens.write_text(whole.replace("w5\n", ""))  # as stage 1 with a higher --min_count
        status, _, error = train(program, work, "train.yaml", "--exp", trained / "lm")
    finally:
        tokens.write_text(whole)
    assert status == 2 and f"{trained}/lm holds a training with other tokens (9, now 8)" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        (["--config", "train.yaml", "--init", "exp/lm"], "lm is that of exp/lm, the model to start from; leave it out"),
        (["--config", "tune.yaml", "--init", "a", "b"], "--init names 2 folders, --exp 1"),
        (["--config", "train.yaml", "--data", "nowhere"], "nowhere/tokens.txt does not exist"),
        (["--config", "train.yaml", "--lm_conff", "unit=3"], "did you mean '--lm_conf'?"),
        (["--config", "other.yaml"], "other.yaml: lm is transformer with rnn_type lstm, expected seq_rnn"),
        (["--config", "train.yaml", "--smaller", "900x"], "--smaller 900x is out of reach"),
    ],
)
def test_mistakes_are_one_line(work, program, tmp_path, monkeypatch, options, message, trained):
    monkeypatch.chdir(work)
    (work / "other.yaml").write_text("lm: transformer\n")
    status, _, error = program(lm_train.main, "--data", "data", "--exp", tmp_path / "exp", *options)
    assert status == 2 and message in error and len(error.splitlines()) == 1


def test_smaller_models_are_within_the_size():
    conf = {"unit": 16, "nlayers": 2, "rnn_type": "lstm"}

    def weights(units):
        rnn = torch.nn.LSTM(16, units, 2)
        return sum(values.numel() for name, values in rnn.named_parameters() if name.startswith("weight"))

    for ratio in (1.0, 2.0, 6.7):
        units = lm_train.smaller(conf, f"{ratio}x")
        assert weights(units) <= weights(16) / ratio < weights(units + 1)
    with pytest.raises(UserError, match="out of reach"):
        lm_train.smaller(conf, "rtf=0.1")


def test_programs_run_in_turn_until_one_fails(program, tmp_path):
    jobs = tmp_path / "jobs.list"
    jobs.write_text(f"\ndirnet.espnet.perplexity --exp {tmp_path} --data {tmp_path}\ndirnet.nowhere\n")
    status, _, error = program(in_turn.main, jobs)
    assert status == 2 and "text does not exist" in error and "nowhere" not in error
    jobs.write_text(f"dirnet.espnet.perplexity --exp {tmp_path} --data '{tmp_path}/a b'\n")
    assert f"{tmp_path}/a b/text does not exist" in program(in_turn.main, jobs)[2]
    jobs.write_text("dirnet.espnet.perplexity 'a b\n")
    assert "not written as for a shell (No closing quotation)" in program(in_turn.main, jobs)[2]
    jobs.write_text("os.system now\n")
    assert "'os.system' is no program of this package" in program(in_turn.main, jobs)[2]
    assert f"{tmp_path}/none" in program(in_turn.main, tmp_path / "none")[2]
