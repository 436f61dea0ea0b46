"""`dirnet decode --pte`: files and standard input, partial words, figures and mistakes."""

from __future__ import annotations

import io
import itertools
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from tone_speech import SENTENCES, say

from dirnet import recognise
from dirnet.asr.audio import resample


@pytest.fixture
def wav(tmp_path):
    """Write the sentence to a file: `wav(sentence, rate=16000) -> path`."""

    def write(sentence, rate=16000):
        path = tmp_path / f"{sentence.replace(' ', '_')}_{rate}.wav"
        soundfile.write(path, say(sentence, 7)[0], rate)
        return path

    return write


@pytest.fixture
def options(tones):
    return ["--pte", tones / "model/encoder.pte", "--lang", tones / "lang"]


def raw(sentence):
    return (say(sentence, 7)[0] * 2**15).astype("<i2").tobytes()


def test_words_of_files_as_the_stored_model_finds_them(tones, program, options, wav):
    files = [wav(sentence) for sentence in SENTENCES]
    status, shown, errors = program(recognise.main, *options, *files, "--chunk_ms", 30)
    _, stored, _ = program(recognise.main, "--model", tones / "model", "--lang", tones / "lang", *files)
    assert status == 0 and shown.splitlines()[:5] == stored.splitlines()[:5]
    assert shown.splitlines()[0] == f"{files[0]} SEE TEA"
    audio = sum(soundfile.info(file).duration for file in files)
    assert re.fullmatch(
        r"latency = [\d.]+ ms from the last sample to the final words, [\d.]+ ms \(at most [\d.]+\) for a piece of "
        r"30 ms; the model looks 55 ms ahead",
        shown.splitlines()[5],
    )
    figures = re.fullmatch(r"RTF = elapsed / audio = (\S+) / (\S+) = (\S+)", shown.splitlines()[6]).groups()
    elapsed, seconds, rtf = map(float, figures)
    assert seconds == pytest.approx(audio, abs=0.006) and rtf == pytest.approx(elapsed / audio, abs=0.01)
    partial = [line.partition(" s: ")[2] for line in errors.splitlines() if str(files[0]) in line]
    assert partial[-1] == "SEE TEA" and len(partial) > 1 and all(a != b for a, b in itertools.pairwise(partial))


def test_a_microphone_on_standard_input(program, options, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw("EAT SEAT"))))
    status, shown, errors = program(recognise.main, *options, "-", "--quiet", "true")
    assert status == 0 and shown.splitlines()[0] == "- EAT SEAT" and errors == ""


def test_partial_words_come_while_standard_input_is_open(options):
    """A real pipe that stays open: the words are told before it ends, which Ctrl-C makes it do."""
    command = [sys.executable, "-m", "dirnet.cli", "decode", *map(str, options), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdin.write(raw("EAT TEA EAT") + bytes(32000))
        child.stdin.flush()
        while b"EAT TEA EAT" not in (line := child.stderr.readline()):
            assert line.startswith(b"- ")
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        shown, errors = child.stdout.read(), child.stderr.read()
    assert child.returncode == 0 and shown.decode().splitlines()[0] == "- EAT TEA EAT" and errors == b""


def test_phones_and_another_sampling_rate(program, tones, tmp_path):
    soundfile.write(tmp_path / "fast.wav", resample(say("SEE TEA", 7)[0], 16000, 48000), 48000)
    options = ["--phones", "true", "--resample", "true", tmp_path / "fast.wav"]
    status, shown, _ = program(recognise.main, "--pte", tones / "model/encoder.pte", *options)
    _, stored, _ = program(recognise.main, "--model", tones / "model", *options)
    assert status == 0 and shown.splitlines()[0] == stored.splitlines()[0] and "S IY T IY" in shown


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.wav"], "audio missing.wav does not exist"),
        (["empty.wav"], "audio empty.wav holds no samples"),
        (["short.wav"], "short.wav has 399 samples, expected at least one window of 25 ms"),
        (["fast.wav"], "audio fast.wav has 44100 Hz, expected 16000 Hz; give --resample true"),
        (["-"], "standard input ends after 33 bytes, in the middle of a sample"),
        (["-", "-"], "standard input and can be read only once"),
        (["-", "--resample", "true"], "--resample true does not go with -"),
        (["fast.wav", "--chunk_ms", "0"], "--chunk_ms is 0, expected 1..60000"),
        (["fast.wav", "--lang", "nowhere"], "--lang nowhere is no folder; stage 2"),
        (["fast.wav", "--pte", "none.pte"], "none.pte is not there"),
        (["fast.wav", "--pte", "damaged.pte"], "damaged.pte differs from the sha256 in damaged.json"),
        (["fast.wav", "--pte", "."], ". is a folder, expected a program; give its encoder.pte"),
        (["fast.wav", "--lang", "foreign"], "encoder.pte is AA, but for the graph of foreign it is a;"),
    ],
)
def test_mistakes_are_one_line(program, tones, options, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(33))))
    soundfile.write("empty.wav", np.zeros(0), 16000)
    soundfile.write("short.wav", np.zeros(399), 16000)
    soundfile.write("fast.wav", np.zeros(9999), 44100)
    content = bytearray((tones / "model/encoder.pte").read_bytes())
    content[-9] ^= 1
    (tmp_path / "damaged.pte").write_bytes(content)
    shutil.copy(tones / "model/encoder.json", "damaged.json")
    shutil.copytree(tones / "lang", "foreign")
    (tmp_path / "foreign/tokens.txt").write_text("<blank>\na\nb\n")
    status, shown, errors = program(recognise.main, *options, *arguments)
    assert (status, shown) == (2, "") and message in errors and errors.count("\n") == 1


def test_options_of_the_other_form(program, tones):
    for option, value in (("--chunk_ms", 100), ("--quiet", "true")):
        status, _, errors = program(recognise.main, "--model", tones / "model", option, value, "a.wav")
        assert status == 2 and f"{option} goes with --pte" in errors and errors.count("\n") == 1
    both = ["--model", tones / "model", "--pte", tones / "model/encoder.pte", "a.wav"]
    status, _, errors = program(recognise.main, *both)
    assert status == 2 and "not allowed with argument" in errors
    status, _, errors = program(recognise.main, "a.wav")
    assert status == 2 and "one of the arguments --model --pte is required" in errors
