"""Kaldi corpora to data dirs: paths, case, dev split, lexicon, and corpora that are not sound."""

from __future__ import annotations

import pytest

from dirnet.asr.datadir import read, read_table


@pytest.fixture
def prepare(script, program, tmp_path):
    module = script("local/kaldi_data.py")
    return lambda root, *options: program(module.main, "--data_root", root, "--out", tmp_path / "data", *options)


@pytest.fixture
def root(corpus, tmp_path):
    root = tmp_path / "corpus"
    corpus(root / "train", speakers=20, utterances=1)
    corpus(root / "test", prefix="test")
    return root


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_paths_case_and_dev_split(prepare, root, tmp_path):
    edit(root / "train" / "wav.scp", f"{root}/train/", "")  # relative to the data dir
    edit(root / "test" / "wav.scp", f"{root}/", "")  # relative to the root
    edit(root / "train" / "text", "HELLO WORLD", "Hello  wörld <noise>")
    (root / "train" / "spk2utt").unlink()
    status, said, _ = prepare(root)
    assert status == 0 and "2 of 20 speakers" in said
    data = tmp_path / "data"
    assert (data / "test_sets").read_text() == "test\n"
    train, dev, test = (read(data / name) for name in ("train", "dev", "test"))
    assert len(train) == 18 and len(dev) == 2 and len(test) == 6
    assert {u.text for u in train + dev} == {"HELLO WÖRLD <noise> 0"}
    assert test[0].audio == str(root / "test" / "audio" / "test00-000.flac")
    assert all(u.audio == str(root / "train" / "audio" / f"{u.name}.flac") for u in train + dev)
    assert prepare(root)[1].count("already done") == 3


def test_a_dev_set_and_several_test_sets(prepare, root, corpus, tmp_path):
    corpus(root / "dev", prefix="dev")
    corpus(root / "test_far", prefix="far")
    assert prepare(root)[0] == 0
    assert (tmp_path / "data" / "test_sets").read_text() == "test\ntest_far\n"
    assert len(read(tmp_path / "data" / "dev")) == 6 and len(read(tmp_path / "data" / "train")) == 20


def test_folders_that_are_no_data_dirs_are_told(prepare, root, tmp_path):
    (root / "test_audio").mkdir()
    status, shown, *_ = prepare(root)
    assert status == 0 and f"{root}/test_audio is left out: it holds no wav.scp" in shown
    assert (tmp_path / "data" / "test_sets").read_text() == "test\n"


@pytest.mark.parametrize("name", ["test other", "test(1)", "test-JOB"])
def test_a_set_that_stages_could_not_name_is_refused(prepare, root, tmp_path, name):
    (root / "test").rename(root / name)
    status, _, error = prepare(root)
    assert status == 2 and f"{root / name} would be a test set; rename it" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_lexicon_is_copied_in_upper_case(prepare, root, tmp_path):
    words = "hello  HH AH0 L OW1\nHELLO HH AH0 L OW1\nworld\tW ER1 L D\n\n"
    (root / "lexicon.txt").write_text(f";;;\n#\n;;; of words\n{words}")
    assert prepare(root)[0] == 0
    copied = tmp_path / "data" / "local" / "dict" / "lexicon.txt"
    assert copied.read_text() == "HELLO HH AH0 L OW1\nWORLD W ER1 L D\n"
    (root / "lexicon.txt").rename(root / "lexiconp.txt")
    (root / "lexiconp.txt").write_text("hello 1.0 HH AH0 L OW1\n")
    assert prepare(root)[0] == 0
    assert copied.read_text() == "HELLO 1.0 HH AH0 L OW1\n"  # as `dirnet.asr.lexicon` reads it
    (root / "lexicon.txt").write_text("hello HH AH0\nworld\n")
    status, _, error = prepare(root)
    assert status == 2 and f"{root}/lexicon.txt:2: word 'world' has no phones" in error
    for name in ("lexicon.txt", "lexiconp.txt"):
        (root / name).unlink()
    assert prepare(root)[0] == 0 and not copied.exists()  # stage 2 would go on with it


@pytest.mark.parametrize(
    ("table", "old", "new", "expected"),
    [
        ("text", "HELLO WORLD 0\nspk01", "\nspk01", "train/text:1: 'spk00-000' has an empty transcript"),
        ("text", "spk01-000", "spk00-000", "train/text:2: duplicate"),
        ("wav.scp", "spk00-000 ", "spk99-000 ", "train/wav.scp:2: not sorted"),
        ("wav.scp", "spk03-000.flac", "gone.flac", "train/wav.scp:4: utterance 'spk03-000': audio"),
        ("wav.scp", "spk03-000.flac", "x.flac |", "give --allow_pipe true"),
    ],
)
def test_faults_are_listed_and_stop(prepare, root, tmp_path, table, old, new, expected):
    edit(root / "train" / table, old, new)
    status, _, error = prepare(root)
    assert status == 2 and expected in error and "repair it" in error.splitlines()[-1]
    assert not (tmp_path / "data" / "train").exists()


def test_commands_stay_as_they_are_where_allowed(prepare, root, tmp_path):
    line = f"cat {root}/train/audio/spk03-000.flac |"
    edit(root / "train" / "wav.scp", f"{root}/train/audio/spk03-000.flac", line)
    assert prepare(root, "--allow_pipe", "true")[0] == 0
    tables = [read_table(tmp_path / "data" / name / "wav.scp") for name in ("train", "dev")]
    assert (tables[0] | tables[1])["spk03-000"] == line


def test_sets_that_share_utterances_or_speakers(prepare, root, corpus):
    corpus(root / "test_again", prefix="test")
    assert "utterance 'test00-000' is in test and in test_again" in prepare(root)[2]
    edit(root / "test_again" / "utt2spk", "test0", "more0")
    for table in ("text", "wav.scp"):
        lines = (root / "test_again" / table).read_text().splitlines()
        (root / "test_again" / table).write_text("".join(f"more{line[4:]}\n" for line in lines))
    edit(root / "test_again" / "utt2spk", " more00", " test00")
    status, said, _ = prepare(root)
    assert status == 0 and "1 speakers are in test and in test_again" in said


def test_no_train(prepare, tmp_path):
    status, _, error = prepare(tmp_path / "nowhere")
    assert status == 2 and "holds no train/wav.scp" in error


def test_data_dirs_of_another_recipe_are_left_alone(prepare, root, corpus, tmp_path):
    theirs = corpus(tmp_path / "data/train")
    (theirs / "feats.scp").write_text("of hours of work\n")
    (tmp_path / "data/local/dict").mkdir(parents=True)
    (tmp_path / "data/local/dict/lexicon.txt").write_text("THEIRS DH\n")
    (root / "lexicon.txt").write_text("hello HH AH0 L OW1\n")
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    status, _, error = prepare(root)
    assert status == 2 and f"{theirs} would be replaced" in error
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()} == before


def test_a_corpus_is_not_made_of_itself(prepare, corpus, tmp_path):
    corpus(tmp_path / "data/train", speakers=20, utterances=1)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    status, _, error = prepare(tmp_path / "link")
    assert status == 2 and "link is the folder that the data dirs are made in; give another --workdir" in error
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["train"]
