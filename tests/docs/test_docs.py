"""The worked examples of docs/: every fenced `sh` and `python` block is run as it stands, in order."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from dirnet.files import read_json

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from forked import run_shell  # noqa: E402

CHARACTERS = ["<space>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
WORDS = ["TEN", "NET", "TEEN", "NEON", "TONE"]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of that language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/{page} has no {language} block"
    return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """What the pages take for granted: data of a recipe, speech.wav, and model.zip of a stock encoder."""
    folder, noise = tmp_path_factory.mktemp("docs"), np.random.default_rng(0)
    for name, count in (("train", 8), ("dev", 4), ("test", 2)):
        data = folder / "data" / name
        data.mkdir(parents=True)
        tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "speech_shape": []}
        for number in range(count):
            key = f"{name}-{number}"
            soundfile.write(data / f"{key}.wav", 0.1 * noise.standard_normal(9600 + 400 * number), 16000)
            tables["wav.scp"].append(f"{key} {data / key}.wav")
            tables["text"].append(f"{key} {' '.join(noise.choice(WORDS, 2))}")
            tables["speech_shape"].append(f"{key} {9600 + 400 * number}")
        for table, lines in tables.items():
            (data / table).write_text("".join(f"{line}\n" for line in lines))
    for name, data in (("train", "train"), ("valid", "dev")):  # what collecting statistics leaves
        (folder / "exp/asr_stats" / name).mkdir(parents=True)
        (folder / "data" / data / "speech_shape").rename(folder / "exp/asr_stats" / name / "speech_shape")
    (folder / "speech.wav").write_bytes((folder / "data/test/test-0.wav").read_bytes())
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        stock_model()
    return folder


def stock_model() -> None:
    """model.zip: ESPnet's own encoder `rnn` with random weights, as its training would have left it."""
    import argparse

    from espnet2.tasks.asr import ASRTask

    torch.manual_seed(0)
    values = {
        **vars(ASRTask.get_parser().parse_args(["--output_dir", "stock"])),
        "token_list": ["<blank>", "<unk>", *CHARACTERS, "<sos/eos>"], "token_type": "char",
        "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 24},
        "normalize": "global_mvn", "normalize_conf": {"stats_file": "stock/feats_stats.npz"},
        "encoder": "rnn", "encoder_conf": {"hidden_size": 48, "output_size": 24, "num_layers": 2, "subsample": [1, 1]},
        "decoder": None, "model_conf": {"ctc_weight": 1.0, "report_cer": False, "report_wer": False},
        "optim_conf": {"lr": 0.01}, "best_model_criterion": [["valid", "loss_ctc", "min"]],
        "version": importlib.import_module("espnet").__version__,
    }  # fmt: skip
    Path("stock").mkdir()
    np.savez("stock/feats_stats.npz", count=1.0, sum=np.zeros(24), sum_square=np.ones(24))
    model = ASRTask.build_model(argparse.Namespace(**values))
    torch.save(model.state_dict(), "stock/model.pth")
    Path("stock/config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(values))))
    importlib.import_module("espnet2.bin.pack").main(
        ["asr", "--asr_train_config", "stock/config.yaml", "--asr_model_file", "stock/model.pth",
         "--option", "stock/feats_stats.npz", "--outpath", "model.zip"]
    )  # fmt: skip


def test_existing_recipe(desk):
    done = run_shell("\n".join(blocks("existing_recipe.md", "sh")), desk)
    assert done.returncode == 0, done.stdout[-3000:]
    config = yaml.safe_load((desk / "exp/asr_dirnet/config.yaml").read_text())
    assert config["encoder"] == "dirnet_rnn" and config["normalize"] == "global_mvn"
    assert len((desk / "exp/asr_dirnet/decode/1best_recog/text").read_text().splitlines()) == 2
    assert "2epoch results" in (desk / "exp/asr_dirnet/train.log").read_text()


def test_zoo_model(desk):
    done = run_shell("\n".join(blocks("zoo_model.md", "sh")), desk)
    assert done.returncode == 0, done.stdout[-3000:]
    report = read_json(desk / "exp/small/compression.json")
    assert report["ratio"] > 1.3
    assert "small.zip: whole; asr model of" in done.stdout and "nothing was sent" in done.stdout
    with zipfile.ZipFile(desk / "small.zip") as package:
        assert "exp/small/feats_stats.npz" in package.namelist()
    start, tuned = torch.load(desk / "exp/small/model.pth"), torch.load(desk / "exp/tuned/1epoch.pth")
    codes = [name for name in start if name.endswith("codes")]
    assert codes and all(start[name].shape == tuned[name].shape for name in codes)
    assert any(not torch.equal(start[name], tuned[name]) for name in codes)
    assert len((desk / "exp/tuned/decode/1best_recog/text").read_text().splitlines()) == 2


def test_python(desk, monkeypatch, capsys):
    zoo = pytest.importorskip("espnet_model_zoo.downloader", reason="pip install espnet_model_zoo")
    monkeypatch.setattr(zoo.ModelDownloader.__init__, "__defaults__", (desk / "cache",))  # not the installation's
    monkeypatch.chdir(desk)
    monkeypatch.setitem(sys.modules, "page", page := type(sys)("page"))  # so that its classes can be pickled
    namespace = vars(page)
    for block in blocks("python.md", "python"):
        exec(compile(block, "docs/python.md", "exec"), namespace)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert re.match(r"4\.\dx fewer parameters", first) and re.search(r"became .* at 2\.\dx$", last)


def test_every_page_is_run():
    """A page without a test here would drift."""
    pages = {name for name in os.listdir(ROOT / "docs") if name.endswith(".md")}
    tested = set(re.findall(r'blocks\("(\w+\.md)"', Path(__file__).read_text()))
    assert pages == tested
