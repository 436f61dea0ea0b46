"""From audio to posteriors, phones and words with a model on disk; the streams agree with each other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dirnet import posteriors, recognise
from dirnet.asr import features
from dirnet.asr.ark import Matrices, write_ark
from dirnet.asr.decode import greedy_phones
from dirnet.asr.lexicon import OUTPUTS
from dirnet.nn import storage
from dirnet.nn.acoustic import AcousticModel, AcousticModelConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a small random model that is not silent."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    made = AcousticModel(AcousticModelConfig("gru", 24, 1, phones=tuple(OUTPUTS), frame_stride=3))
    with torch.no_grad():
        made.output.weight.mul_(8)
    storage.save(made, folder)
    return folder


def test_posteriors_do_not_depend_on_the_batch(model, program, tmp_path):
    rng = np.random.default_rng(0)
    utterances = {f"u{n}": rng.normal(size=(frames, 26)).astype(np.float32) for n, frames in enumerate((50, 9, 123, 1))}
    with write_ark(tmp_path / "f.ark", tmp_path / "f.scp", compress=False) as writer:
        for name, matrix in utterances.items():
            writer.write(name, matrix)
    for frames, out in ((10000, "all"), (60, "few")):
        status, shown, _ = program(
            posteriors.main, "--model", model, "--feats", tmp_path / "f.scp", "--out", tmp_path / out,
            "--batch_frames", frames,
        )  # fmt: skip
        assert status == 0 and "4 utterances" in shown
    together, apart = Matrices(tmp_path / "all/posteriors.scp"), Matrices(tmp_path / "few/posteriors.scp")
    assert list(together) == list(utterances)
    loaded = storage.load(model)
    for name, matrix in utterances.items():
        alone = loaded(torch.from_numpy(matrix)[None], torch.tensor([len(matrix)]))[0][0].detach().numpy()
        np.testing.assert_allclose(together[name], alone, atol=1e-5)
        np.testing.assert_allclose(apart[name], alone, atol=1e-5)
    assert float((tmp_path / "all/frame_shift").read_text()) == pytest.approx(0.03)


def test_posteriors_never_lack_their_frame_shift(model, program, tmp_path, monkeypatch):
    """Decoding would take another one, and nobody would see it."""
    with write_ark(tmp_path / "f.ark", tmp_path / "f.scp") as writer:
        writer.write("u", np.zeros((9, 26), np.float32))

    def interrupted(path, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(posteriors, "atomic_write", interrupted)
    options = ("--model", model, "--feats", tmp_path / "f.scp", "--out", tmp_path / "out")
    assert program(posteriors.main, *options)[0] == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_audio_gives_the_phones_of_its_features(model, program, sound, tmp_path):
    audio = sound(tmp_path / "a.wav", 1.5)
    status, shown, _ = program(recognise.main, "--model", model, "--phones", "true", audio)
    samples = torch.from_numpy(features.AudioReader().read(str(audio)))
    mfcc = features.Mfcc()(samples[None])
    expected = greedy_phones(storage.load(model)(mfcc, torch.tensor([mfcc.shape[1]]))[0][0].detach().numpy())
    lines = shown.splitlines()
    assert status == 0 and expected and lines[0] == " ".join([str(audio), *expected])
    assert lines[1].startswith("RTF = ") and "/ 1.50 =" in lines[1]


@pytest.mark.parametrize(
    "options, message",
    [
        (["missing.wav", "--phones", "true"], "audio missing.wav does not exist; correct the path"),
        (["-", "--phones", "true"], "goes with --pte"),
        (["short.wav", "--phones", "true"], "at least one window of 25 ms"),
        (["fast.wav", "--phones", "true"], "has 44100 Hz, expected 16000 Hz"),
        (["short.wav", "--lang", "nowhere"], "--lang nowhere is no folder; stage 2"),
        (["short.wav", "--phones", "true", "--config", "decode.yaml"], "--config goes with words"),
        (["short.wav", "--phones", "true", "--lang", "data/lang"], "--lang goes with words"),
        (["short.wav"], "--lang data/lang is no folder; stage 2"),
    ],
)
def test_mistakes_are_one_line(model, program, sound, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    sound(tmp_path / "short.wav", 0.01)
    sound(tmp_path / "fast.wav", 0.5, rate=44100)
    status, _, errors = program(recognise.main, "--model", model, *options)
    assert status == 2 and message in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("words.txt", lambda content: content[: content.index(b"\n") + 1], "words.txt is cut short"),
        ("tokens.txt", lambda content: b"<blank>\na\nb\n", "model is AA, but for the graph of lang it is a; give the"),
        ("TLG.fst", lambda content: content[:-40], "TLG.fst is damaged or empty"),
    ],
)
def test_a_wrong_lang_folder_is_one_line(tones, sound, tmp_path, name, change, message):
    shutil.copytree(tones / "lang", tmp_path / "lang")
    content = (tmp_path / "lang" / name).read_bytes() if (tmp_path / "lang" / name).exists() else b""
    (tmp_path / "lang" / name).write_bytes(change(content))
    sound(tmp_path / "a.wav")
    command = [sys.executable, "-m", "dirnet", "decode", "--model", str(tones / "model"), "--lang", "lang", "a.wav"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.returncode == 2 and message in shown.stderr and shown.stderr.count("\n") == 1
    assert shown.stderr.startswith("dirnet decode: error: ")
