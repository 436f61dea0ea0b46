"""LibriSpeech trees, whole and partial, to data dirs."""

from __future__ import annotations

import pytest

from dirnet.asr.datadir import read, read_table


@pytest.fixture
def tree(tmp_path):
    """Make a LibriSpeech tree: `tree({"train-clean-100": 3}) -> folder`, values are numbers of speakers."""

    def make(parts: dict[str, int]):
        for index, (part, speakers) in enumerate(parts.items()):
            for speaker in range(speakers):
                reader = str(100 * index + speaker)
                folder = tmp_path / "LibriSpeech" / part / reader / "9"
                folder.mkdir(parents=True)
                lines = [f"{reader}-9-{number:04d} IT IS NUMBER {number}" for number in range(3 + speaker)]
                (folder / f"{reader}-9.trans.txt").write_text("\n".join(lines) + "\n")
                for line in lines:
                    (folder / f"{line.split()[0]}.flac").touch()
        return tmp_path / "LibriSpeech"

    return make


@pytest.fixture
def prepare(script, program, tmp_path):
    module = script("local/librispeech_data.py")
    return lambda corpus, *options: program(module.main, "--corpus", corpus, "--out", tmp_path / "data", *options)


ALL = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")


def test_a_whole_tree(tree, prepare, tmp_path, script, program):
    status, said, _ = prepare(tree(dict.fromkeys(ALL, 2)))
    assert status == 0 and "partial" not in said
    data = tmp_path / "data"
    assert (data / "test_sets").read_text() == "test_clean\ntest_other\n"
    assert {name: len(read(data / name)) for name in ("train", "dev", "test_clean", "test_other")} == {
        "train": 21, "dev": 14, "test_clean": 7, "test_other": 7
    }  # fmt: skip
    utterance = read(data / "test_clean")[0]
    assert (utterance.name, utterance.speaker, utterance.text) == ("500-9-0000", "500", "IT IS NUMBER 0")
    assert utterance.audio == str(tmp_path / "LibriSpeech" / "test-clean" / "500" / "9" / "500-9-0000.flac")
    validate = script("utils/validate_data_dir.py").main
    assert program(validate, data / "train", data / "test_other")[0] == 0
    assert prepare(tmp_path)[1].count("already done") == 4  # the folder above LibriSpeech will do


def test_a_partial_tree_splits_dev_off_and_has_no_test_set(tree, prepare, tmp_path):
    status, said, _ = prepare(tree({"train-clean-100": 40}))
    assert status == 0
    assert "not there: train-clean-360 train-other-500 dev-clean dev-other test-clean test-other" in said
    assert "2 of 40 speakers" in said and "no test set" in said
    data = tmp_path / "data"
    assert (data / "test_sets").read_text() == ""
    train, dev = (set(read_table(data / name / "utt2spk").values()) for name in ("train", "dev"))
    assert len(dev) == 2 and len(train) == 38 and not train & dev


def test_few_speakers_are_told(tree, prepare):
    assert "has 2 speakers only" in prepare(tree({"train-clean-100": 2, "test-clean": 1}))[1]


def test_a_published_dev_part_is_used(tree, prepare, tmp_path):
    prepare(tree({"train-clean-100": 3, "dev-other": 1}))
    assert {u.speaker for u in read(tmp_path / "data" / "dev")} == {"100"}


def test_missing_audio_is_left_out_with_a_count_or_an_error(tree, prepare, tmp_path):
    corpus = tree({"train-clean-100": 10, "dev-clean": 1})
    flacs = sorted(corpus.glob("train-clean-100/*/*/*.flac"))
    flacs[0].unlink()
    status, said, _ = prepare(corpus)
    assert status == 0 and "1 utterances lack audio or transcript and are left out" in said
    for path in flacs[1:6]:
        path.unlink()
    status, _, error = prepare(corpus)
    assert status == 2 and "6 utterances lack audio" in error and str(flacs[0]) in error


def test_mistakes(tree, prepare, tmp_path):
    assert "holds none of train-clean-100" in prepare(tmp_path / "nowhere")[2]
    corpus = tree({"train-clean-100": 1})
    transcript = next(corpus.glob("*/*/*/*.trans.txt"))
    transcript.write_text("0-9-0000 A\n0-9-0001\n")
    status, _, error = prepare(corpus)
    assert status == 2 and f"{transcript}:2: '0-9-0001' has an empty transcript" in error
    assert not (tmp_path / "data" / "train").exists()
