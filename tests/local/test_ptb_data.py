"""Text of a language model: what is read, numbered and refused."""

from __future__ import annotations

import pytest


@pytest.fixture
def module(script):
    return script("local/ptb_data.py")


def write(folder, **sets):
    folder.mkdir()
    for name in ("train", "valid", "test"):
        (folder / f"ptb.{name}.txt").write_text(sets.get(name, " a b \n a <unk> N \n\n c a\n"))
    return folder


def test_text_and_tokens(module, program, tmp_path):
    source = write(tmp_path / "source", test=" a zebra\n")
    status, said, error = program(module.main, "text", "--source", source, "--out", tmp_path / "data")
    assert status == 0, error
    assert (tmp_path / "data/train/text").read_text() == "train-000001 a b\ntrain-000002 a <unk> N\ntrain-000003 c a\n"
    assert (tmp_path / "data/train/text_shape").read_text() == "train-000001 2\ntrain-000002 3\ntrain-000003 2\n"
    status, said, _ = program(module.main, "tokens", "--out", tmp_path / "data")
    tokens = (tmp_path / "data/tokens.txt").read_text().split()
    assert tokens == ["<blank>", "<unk>", "a", "N", "b", "c", "<sos/eos>"]  # by count, then by name; <unk> once
    assert "test: 2 words, 50.0 % of them not in the vocabulary" in said
    assert program(module.main, "tokens", "--out", tmp_path / "data", "--min_count", "2")[0] == 0
    assert (tmp_path / "data/tokens.txt").read_text().split() == ["<blank>", "<unk>", "a", "<sos/eos>"]


def test_the_grammars_sets_share_no_sentence(module, program, tmp_path):
    assert program(module.main, "text", "--mini_size", "30 10 10", "--out", tmp_path)[0] == 0
    sets = []
    for name, count in (("train", 30), ("valid", 10), ("test", 10)):
        lines = (tmp_path / name / "text").read_text().splitlines()
        assert len(lines) == count and all(line == line.lower() for line in lines)
        sets.append({line.partition(" ")[2] for line in lines})
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]


@pytest.mark.parametrize(
    "sets, message",
    [
        ({"valid": "a <sos/eos> b\n"}, "ptb.valid.txt, line 1: <sos/eos> is ESPnet's own token"),
        ({"test": "\n"}, "ptb.test.txt holds no words"),
    ],
)
def test_text_that_will_not_do(module, program, tmp_path, sets, message):
    source = write(tmp_path / "source", **sets)
    status, _, error = program(module.main, "text", "--source", source, "--out", tmp_path / "data")
    assert status == 2 and message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_other_mistakes_are_one_line(module, program, tmp_path):
    source = write(tmp_path / "source")
    (source / "ptb.train.txt").write_bytes(b"\xff\xfe a\n")
    for options, message in (
        (("text", "--source", tmp_path), "holds neither ptb.train.txt nor train.txt"),
        (("text", "--source", source), "is not UTF-8 text"),
        (("text", "--mini_size", "3 many"), "--mini_size is '3 many', expected three whole numbers"),
        (("tokens",), "run stage 0 first"),
    ):
        status, _, error = program(module.main, *options, "--out", tmp_path / "data")
        assert status == 2 and message in error and len(error.splitlines()) == 1


def test_a_count_that_leaves_no_word_is_refused(module, program, tmp_path):
    source = write(tmp_path / "source")
    assert program(module.main, "text", "--source", source, "--out", tmp_path / "data")[0] == 0
    for count, message in ((0, "--min_count is 0, expected 1 or more"), (10**6, "--min_count 1000000 leaves no word")):
        status, _, error = program(module.main, "tokens", "--min_count", count, "--out", tmp_path / "data")
        assert status == 2 and message in error and not (tmp_path / "data/tokens.txt").exists()


def test_the_data_of_another_recipe_are_left_alone(module, program, tmp_path):
    source, theirs = write(tmp_path / "source"), tmp_path / "data/train"
    theirs.mkdir(parents=True)
    (theirs / "text").write_text("theirs\n")
    (theirs / "wav.scp").write_text("a a.wav\n")
    status, _, error = program(module.main, "text", "--source", source, "--out", tmp_path / "data")
    assert status == 2 and "data/train has a wav.scp, so another recipe made it" in error
    assert (theirs / "text").read_text() == "theirs\n" and not (tmp_path / "data/valid").exists()
