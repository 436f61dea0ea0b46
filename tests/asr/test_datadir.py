"""Data dirs: strict reading, whole writing, splits by speaker and by part, subsets."""

from __future__ import annotations

import pytest

from dirnet.asr import datadir
from dirnet.asr.datadir import Utterance
from dirnet.errors import UserError


def utterances(speakers: int, each: int = 4) -> list[Utterance]:
    return [
        Utterance(f"s{speaker:03d}-{number}", f"/audio/{speaker}/{number}.wav", f"WORD {number}", f"s{speaker:03d}")
        for speaker in range(speakers)
        for number in range(each)
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a 1\nb\n", r"table:2: expected `ID VALUE`, found 'b'"),
        ("a 1\n\nb 2\n", r"table:2: expected"),
        ("a 1\nb 2\na 3\n", r"table:3: 'a' stands there twice"),
    ],
)
def test_read_table_names_the_line(tmp_path, content, expected):
    (tmp_path / "table").write_text(content)
    with pytest.raises(UserError, match=expected):
        datadir.read_table(tmp_path / "table")


def test_read_table_refuses_other_encodings_and_absence(tmp_path):
    (tmp_path / "table").write_bytes("a é\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        datadir.read_table(tmp_path / "table")
    with pytest.raises(UserError, match="does not exist"):
        datadir.read_table(tmp_path / "nothing")


def test_the_byte_order_mark_of_windows_is_no_part_of_the_first_id(tmp_path):
    (tmp_path / "table").write_bytes(b"\xef\xbb\xbfa 1\r\nb 2\r\n")
    assert datadir.read_table(tmp_path / "table") == {"a": "1", "b": "2"}


def test_tables_are_sorted_in_byte_order(tmp_path):
    datadir.write_table(tmp_path / "table", {"b": 1, "Z": 2, "é": 3, "a-1": 4, "a1": 5})
    assert [line.split()[0] for line in (tmp_path / "table").read_text().splitlines()] == ["Z", "a-1", "a1", "b", "é"]


def test_write_then_read(tmp_path):
    expected = utterances(3)
    assert datadir.write(tmp_path / "train", reversed(expected))
    assert datadir.read(tmp_path / "train") == expected
    speakers = datadir.read_table(tmp_path / "train" / "spk2utt")
    assert speakers["s001"] == "s001-0 s001-1 s001-2 s001-3"


def test_writing_the_same_again_keeps_what_later_steps_did(tmp_path):
    folder, made = tmp_path / "train", utterances(2)
    datadir.write(folder, made)
    datadir.keep(folder, [utterance.name for utterance in made[:-1]])
    (folder / "utt2dur").write_text("s000-0 1.0\n")
    assert not datadir.write(folder, made)
    assert len(datadir.read(folder)) == len(made) - 1 and (folder / "utt2dur").exists()
    assert datadir.write(folder, made[:4])  # another corpus replaces all of it
    assert len(datadir.read(folder)) == 4 and not (folder / "utt2dur").exists()


def test_write_refuses_nothing(tmp_path):
    with pytest.raises(UserError, match="no utterance is left"):
        datadir.write(tmp_path / "train", [])
    assert list(tmp_path.iterdir()) == []


def test_read_refuses_tables_that_disagree(tmp_path):
    datadir.write(tmp_path, utterances(1))
    text = datadir.read_table(tmp_path / "text")
    text.pop("s000-1")
    datadir.write_table(tmp_path / "text", text)
    with pytest.raises(UserError, match=r"1 utterances are in only one of text and utt2spk, the first 's000-1'"):
        datadir.read(tmp_path)


@pytest.mark.parametrize(("speakers", "fraction", "taken"), [(125, 0.1, 12), (20, 0.05, 1), (100, 0.05, 5)])
def test_split_off_takes_whole_speakers(speakers, fraction, taken):
    made = utterances(speakers)
    rest, dev, remark = datadir.split_off(made, fraction)
    assert sorted(rest + dev, key=lambda u: u.name) == made
    kept, chosen = {u.speaker for u in rest}, {u.speaker for u in dev}
    assert not kept & chosen and len(chosen) == taken
    assert f"{taken} of {speakers} speakers" in remark
    assert datadir.split_off(made[::-1], fraction)[1] == [u for u in reversed(made) if u.speaker in chosen]


@pytest.mark.parametrize("fraction", [float("nan"), float("inf"), -1, 0, 1, 2])
def test_split_off_leaves_something_on_both_sides(fraction):
    with pytest.raises(UserError, match=f"--dev_fraction is {fraction}, expected a part of the speakers, such as 0.1"):
        datadir.split_off(utterances(20, 2), fraction)


def test_split_off_with_few_speakers_takes_the_least_talkative_and_says_so():
    made = utterances(1, 9) + [Utterance(f"z-{n}", "a", "B", "z") for n in range(2)]
    rest, dev, remark = datadir.split_off(made, 0.05)
    assert {u.speaker for u in dev} == {"z"} and len(rest) == 9
    assert "has 2 speakers only" in remark


def test_split_off_of_a_single_speaker_is_by_utterance():
    rest, dev, remark = datadir.split_off(utterances(1, 40), 0.05)
    assert len(dev) == 2 and len(rest) == 38 and "not speaker-independent" in remark


@pytest.mark.parametrize("jobs", [1, 3, 8])
def test_split_parts_are_consecutive_and_complete(tmp_path, jobs):
    datadir.write(tmp_path / "d", utterances(2))
    parts = [datadir.read(part) for part in datadir.split(tmp_path / "d", jobs)]
    assert [u for part in parts for u in part] == utterances(2)
    sizes = [len(part) for part in parts]
    assert len(sizes) == jobs and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("jobs", [0, 9])
def test_split_refuses_empty_parts(tmp_path, jobs):
    datadir.write(tmp_path / "d", utterances(2))
    with pytest.raises(UserError, match=f"cannot be split in {jobs}; expected 1 to 8"):
        datadir.split(tmp_path / "d", jobs)
    assert not (tmp_path / "d" / f"split{jobs}").exists()


def test_subset_filters_every_table(tmp_path):
    datadir.write(tmp_path / "d", utterances(3))
    (tmp_path / "d" / "spk2gender").write_text("s000 m\ns001 f\ns002 m\n")
    (tmp_path / "d" / "utt2dur").write_text("".join(f"{u.name} 1.5\n" for u in utterances(3)))
    datadir.subset(tmp_path / "d", ["s000-1", "s002-3"], tmp_path / "part")
    assert [u.name for u in datadir.read(tmp_path / "part")] == ["s000-1", "s002-3"]
    assert datadir.read_table(tmp_path / "part" / "spk2gender") == {"s000": "m", "s002": "m"}
    assert datadir.read_table(tmp_path / "part" / "spk2utt") == {"s000": "s000-1", "s002": "s002-3"}
    assert list(datadir.read_table(tmp_path / "part" / "utt2dur")) == ["s000-1", "s002-3"]


def test_write_sets_lists_the_test_sets(tmp_path, capsys):
    made = utterances(3)
    datadir.write_sets(tmp_path, {"train": made[:4], "dev": made[4:8], "test_clean": made[8:]})
    assert (tmp_path / "test_sets").read_text() == "test_clean\n"
    datadir.write_sets(tmp_path, {"train": made[:4], "dev": made[4:8]})
    assert (tmp_path / "test_sets").read_text() == ""
    out = capsys.readouterr().out
    assert "already done" in out and "has no test set" in out
