"""The package of stage 9, read by ESPnet's own `Speech2Text`."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tiny_corpus import PHONES

from dirnet.asr import tokens
from dirnet.asr.features import Mfcc, MfccConfig
from dirnet.espnet.pack import main
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


@pytest.fixture(scope="module")
def package(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("zoo") / "model.zip"
    with pytest.raises(SystemExit) as stopped:
        main(["--exp", str(trained.exp), "--lang", str(trained.root / "data/lang"), "--out", str(out)])
    assert not stopped.value.code
    return out


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio") / "noise.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, 16000), 16000)
    return soundfile.read(path, dtype="float32")[0]


def test_several_folders_take_one_import(trained, program, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        storage.save(storage.load(trained.exp), folder)
    options = ("--lang", trained.root / "data/lang", "--exp", *folders)
    status, _, error = program(main, *options, "--out", tmp_path / "one.zip")
    assert status == 2 and "is one file for 2 --exp; leave it out" in error and not (tmp_path / "one.zip").exists()
    status, shown, error = program(main, *options)
    assert status == 0, error
    assert [line.split(": ")[0] for line in shown.splitlines()] == [str(folder / "model.zip") for folder in folders]
    assert all(zipfile.is_zipfile(folder / "model.zip") for folder in folders)


def test_contents(package, trained):
    with zipfile.ZipFile(package) as archive:
        names = set(archive.namelist())
        config = yaml.safe_load(archive.read("config.yaml"))
        card = archive.read("README.md").decode()
    assert {"meta.yaml", "config.yaml", "model.pth", "cmvn.npz", "README.md", "model.json", "tokens.txt"} <= names
    assert str(trained.root) not in str(config) and config["normalize_conf"]["stats_file"] == "cmvn.npz"
    assert "import dirnet.espnet" in card and "2 layers of 24 units" in card


def test_speech2text_decodes_audio(package, trained, audio, tmp_path):
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.main_funcs.pack_funcs import unpack

    recognise = Speech2Text(**unpack(package, tmp_path), ctc_weight=1.0, lm_weight=0.0, beam_size=5)
    text, phones, *_ = recognise(audio)[0]
    assert phones and text == " ".join(phones) and set(phones) <= set(PHONES)
    features = torch.tensor(audio)[None]
    with torch.no_grad():
        encoded, steps = recognise.asr_model.encode(features, torch.tensor([features.shape[1]]))
        theirs = recognise.asr_model.ctc.log_softmax(encoded)[0, :, :-2]
        ours = storage.load(trained.exp)(Mfcc(MfccConfig())(features), torch.tensor([98]))[0][0]
    assert int(steps) == len(ours)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


def test_from_pretrained(package, audio, tmp_path, monkeypatch):
    zoo = pytest.importorskip("espnet_model_zoo.downloader", reason="pip install espnet_model_zoo")
    from espnet2.bin.asr_inference import Speech2Text

    monkeypatch.setattr(zoo.ModelDownloader.__init__, "__defaults__", (tmp_path,))  # not the installation's cache
    recognise = Speech2Text.from_pretrained(str(package), ctc_weight=1.0, lm_weight=0.0, beam_size=5)
    assert isinstance(recognise(audio)[0][0], str)


@pytest.mark.parametrize("kind", ["char", "bpe", "word"])
def test_text_of_other_tokens(kind, program, audio, tmp_path):
    """ESPnet joins characters and pieces to words with what the package holds, and no file of ours beside it."""
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.main_funcs.pack_funcs import unpack

    sentences = [["THE", "CAT"], ["THAT", "HAT"], ["A", "CAT"], ["HE", "HAS", "A", "HAT"]]
    speller = tokens.learn(kind, sentences, tmp_path / "lang", 16, 99)
    outputs = ("<blank>", *speller.tokens)
    model = AcousticModel(AcousticModelConfig("gru", 8, 1, phones=outputs, num_outputs=len(outputs), frame_stride=3))
    storage.save(model, tmp_path / "exp")
    status, _, error = program(main, "--exp", tmp_path / "exp", "--lang", tmp_path / "lang")
    assert status == 0, error
    shutil.rmtree(tmp_path / "lang", ignore_errors=True)
    (tmp_path / "zoo").mkdir()
    package = unpack(tmp_path / "exp/model.zip", tmp_path / "zoo")
    recognise = Speech2Text(**package, ctc_weight=1.0, lm_weight=0.0, beam_size=3)
    text, found, *_ = recognise(audio)[0]
    assert set(found) <= set(outputs)
    assert recognise.asr_model.token_list == [*outputs, "<unk>", "<sos/eos>"]
    assert recognise.tokenizer.tokens2text(tokens.transcript(["HE", "HAS", "CAT"], speller)) == "HE HAS CAT"
