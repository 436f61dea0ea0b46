"""Validation: each fault is found, with its file and line, and nothing else is."""

from __future__ import annotations

import re

import pytest

from dirnet.asr.audio import AudioReader
from dirnet.asr.validation import faults


@pytest.fixture
def folder(corpus, tmp_path):
    return corpus(tmp_path / "train")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_sound_folder_has_no_faults(folder):
    (folder / "utt2dur").write_text("".join(f"{line.split()[0]} 0.35\n" for line in (folder / "text").open()))
    (folder / "spk2gender").write_text("spk00 f\nspk01 m\n")
    assert faults(folder, AudioReader()) == []


@pytest.mark.parametrize(
    ("table", "old", "new", "expected"),
    [
        ("text", "HELLO WORLD 1", "", "text:2: 'spk00-001' has an empty transcript"),
        ("wav.scp", "spk01-000 ", "spk01-000\n#", "wav.scp:4: 'spk01-000' has no value"),
        ("text", "spk00-001", "spk00-000", "text:2: duplicate: 'spk00-000' stands in line 1 already"),
        ("text", "spk00-000", "spk09-000", "text:2: not sorted: 'spk00-001' comes after 'spk09-000'"),
        ("text", "HELLO WORLD 0\n", "HELLO WORLD 0\n\n", "text:2: the line is empty"),
        ("text", "WORLD 2\n", "WORLD 2\r\n", "text:3: 'spk00-002' ends in a carriage return"),
        ("text", "WORLD 2\n", "WORLD 2 \n", "text:3: 'spk00-002' has blanks before or after it"),
        ("utt2spk", "spk00-002 spk00", "spk00-002 spk00 x", "utt2spk:3: 'spk00-002' is 'spk00 x' has 2 words"),
        ("utt2spk", "spk00-002 spk00", "spk00-002 spk01", "spk2utt:1: speaker 'spk00' has other utterances"),
        ("utt2spk", "spk01-002 spk01", "spk01-002 spk02", "utt2spk:6: speaker 'spk02' is missing in spk2utt"),
        ("text", "spk01-002", "spk01-003", "utt2spk:6: utterance 'spk01-002' has no transcript in text"),
        ("text", "spk01-002", "spk01-003", "text:6: utterance 'spk01-003' has no speaker in utt2spk"),
        ("wav.scp", "spk01-002.flac", "gone.flac", "wav.scp:6: utterance 'spk01-002': audio .*gone.flac does not"),
        ("wav.scp", "spk01-002.flac", "x.flac |", "wav.scp:6: .* is a command"),
    ],
)
def test_each_fault_is_named_with_its_line(folder, table, old, new, expected):
    edit(folder / table, old, new)
    found = faults(folder, AudioReader())
    assert any(re.search(expected, fault) for fault in found), found


@pytest.mark.parametrize(
    ("table", "line", "expected"),
    [
        ("utt2dur", "0.0", "'0.0', expected seconds above 0"),
        ("utt2dur", "nan", "'nan', expected seconds above 0"),
        ("utt2num_frames", "3.5", "'3.5', expected a whole number above 0"),
        ("spk2gender", "x", "'x', expected m or f"),
    ],
)
def test_values(folder, table, line, expected):
    (folder / table).write_text(f"spk00-000 {line}\n")
    assert f"{folder / table}:1: 'spk00-000' is {expected}" in faults(folder)


def test_all_faults_are_listed_at_once(folder):
    edit(folder / "text", "HELLO WORLD 1", "")
    edit(folder / "wav.scp", "spk01-002.flac", "gone.flac")
    (folder / "spk2utt").unlink()
    assert len(faults(folder, AudioReader())) == 4  # both speakers' second utterance is empty


def test_missing_empty_and_cut_files(folder):
    (folder / "text").unlink()
    (folder / "utt2spk").write_text("")
    (folder / "segments").write_text("a b 0 1\n")
    content = (folder / "wav.scp").read_bytes()
    (folder / "wav.scp").write_bytes(content[:-1])
    found = "\n".join(faults(folder))
    for expected in ("text does not exist", "utt2spk is empty", "wav.scp:6: the last line has no end", "segments"):
        assert expected in found
    assert faults(folder / "nowhere") == [f"{folder / 'nowhere'} is not a folder"]


def test_a_corpus_as_it_comes_needs_three_tables_only(folder):
    (folder / "spk2utt").unlink()
    (folder / "spk2age").write_text("b 3\na 4\n")
    assert len(faults(folder)) == 2
    assert faults(folder, complete=False) == []


def test_commands_are_accepted_where_allowed(folder):
    edit(folder / "wav.scp", "spk01-002.flac", "x.flac |")
    assert faults(folder, AudioReader(allow_pipe=True)) == []
