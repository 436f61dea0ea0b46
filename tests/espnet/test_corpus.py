"""Which utterances CTC can use, and what is said about the others."""

from __future__ import annotations

import multiprocessing

import pytest
from tiny_corpus import PHONES, make_set

from dirnet.errors import UserError
from dirnet.espnet.corpus import ctc_frames, prepare


@pytest.fixture
def folders(tmp_path):
    make_set(tmp_path, "train", 40, seed=3)
    return tmp_path / "data/train", tmp_path / "dump/train", tmp_path / "out"


def run(folders, **options):
    return prepare(*folders, PHONES, **{"feature_size": 26, "frame_stride": 3, "max_frames": 1000, **options})


def change(folders, file, key, value):
    path = folders[0] / file
    lines = [f"{key} {value}" if line.split()[0] == key else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")


def test_fewest_frames():
    assert [ctc_frames(text.split()) for text in ("", "A", "A B", "A A", "A A A B")] == [0, 1, 2, 3, 6]


def test_all_kept_and_written_for_espnet(folders):
    kept = run(folders)
    assert kept.utterances == 40 and not kept.skipped
    assert kept.text.read_text().splitlines() == (folders[0] / "text_phones").read_text().splitlines()
    frames = dict(line.split() for line in (folders[0] / "utt2num_frames").read_text().splitlines())
    assert kept.shape.read_text().splitlines() == [f"{key} {count},26" for key, count in frames.items()]


def test_unusable_utterances_are_left_out_with_a_reason(folders):
    change(folders, "text_phones", "train-003", "AA AA B")  # 4 steps are enough
    change(folders, "utt2num_frames", "train-003", 10)
    change(folders, "text_phones", "train-004", "AA AA AA")
    change(folders, "utt2num_frames", "train-004", 12)
    change(folders, "text_phones", "train-005", "")
    kept = run(folders)
    assert kept.skipped == {
        "train-004": "4 steps for tokens that need 5", "train-005": "its transcript is empty",
    }  # fmt: skip
    assert kept.utterances == 38 and "train-004" not in kept.text.read_text()


def test_too_many_unusable_is_an_error_and_nothing_is_written(folders):
    with pytest.raises(UserError, match=r"40 of 40 utterances cannot train \(first: train-000: .* more than 5\)"):
        run(folders, max_frames=5)
    assert not folders[2].exists()


def test_an_unknown_phone_is_named(folders):
    change(folders, "text_phones", "train-007", "AA ZZ")
    with pytest.raises(UserError, match="train-007 has 'ZZ'"):
        run(folders)


def test_missing_features_count_as_unusable(folders):
    scp = folders[1] / "feats.scp"
    scp.write_text("".join(scp.read_text().splitlines(keepends=True)[1:]))
    assert run(folders).skipped == {"train-000": "it has no features"}


def prepare_often(barrier, folders):
    barrier.wait()
    for _ in range(40):
        run(folders)


def test_processes_of_one_training_may_prepare_at_the_same_time(folders):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3, timeout=60)  # what it prepares takes a second
    processes = [context.Process(target=prepare_often, args=(barrier, folders)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len((folders[2] / "text").read_text().splitlines()) == 40
    assert sorted(path.name for path in folders[2].iterdir()) == ["shape", "text"]


def test_transcripts_may_have_a_name_of_their_own(folders):
    lines = (folders[0] / "text_phones").read_text().splitlines(keepends=True)
    (folders[0] / "text_word9").write_text("".join(lines[:20]))
    assert run(folders, transcripts_name="text_word9").utterances == len(lines[:20]) < run(folders).utterances
