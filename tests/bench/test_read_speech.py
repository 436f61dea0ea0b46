"""`bench.read_speech`: who is in which set, where the audio lies, and what it refuses."""

import pytest

from bench.read_speech import main
from dirnet.asr.datadir import Utterance, read, write


@pytest.fixture
def corpus(tmp_path):
    """Two sets of four speakers with two recordings each, found from the folder above, and one set more."""
    (tmp_path / "read/audio").mkdir(parents=True)
    (tmp_path / "sound").mkdir()
    for name, audio in (("read/train", "read/audio"), ("read/test", "read/audio"), ("more", "sound")):
        utterances = []
        for speaker in (f"{name[-4:]}{number}" for number in range(4)):
            for number in range(2):
                path = tmp_path / audio / f"{speaker}{number}.wav"
                path.touch()
                listed = f"audio/{path.name}" if "read" in name else str(path)
                utterances.append(Utterance(f"{speaker}{number}", listed, "A", speaker))
        write(tmp_path / name, utterances)
    return tmp_path


@pytest.fixture
def run(corpus, program):
    """The exit status and what was said on standard error, for more options."""

    def run(*options):
        status, _, error = program(main, "--read", corpus / "read", "--out", corpus / "out", *options)
        return status, error

    return run


def test_test_speakers_move_into_training(corpus, run):
    assert run("--test_speakers", 1, "--more", corpus / "more") == (0, "")
    train, test = (read(corpus / "out" / name) for name in ("train", "test"))
    speakers = [{utterance.speaker for utterance in part} for part in (train, test)]
    assert len(test) == 2 and len(train) == 22 and speakers[0].isdisjoint(speakers[1])
    assert next(iter(speakers[1])).startswith("test") and {f"more{n}" for n in range(4)} < speakers[0]
    audio = {utterance.audio for utterance in train + test}
    assert audio == {str(path) for path in corpus.rglob("*.wav")}
    first = (corpus / "out/test/utt2spk").read_text()
    assert run("--test_speakers", 1) == (0, "") and (corpus / "out/test/utt2spk").read_text() == first


def test_no_speaker_is_in_two_sets(corpus, run):
    assert run("--test_speakers", 1)[0] == 0
    for held in ("test", "train"):  # of a test speaker; known already
        status, error = run("--test_speakers", 1, "--more", corpus / "out" / held, "--out", corpus / "again")
        assert status == 2 and "is in the corpus already, or of a test speaker" in error
    assert not (corpus / "again").exists()


@pytest.mark.parametrize("number", ["0", "4"])
def test_a_number_of_speakers_that_is_not_there(corpus, run, number):
    status, error = run("--test_speakers", number)
    assert status == 2 and f"--test_speakers is {number}, expected fewer than the 4" in error
    assert not (corpus / "out").exists()
