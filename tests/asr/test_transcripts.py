from __future__ import annotations

import gzip

import pytest

from dirnet.asr.transcripts import read_fields, read_transcripts, write_transcripts
from dirnet.errors import UserError


def test_round_trip_keeps_order_and_empty_hypotheses(tmp_path):
    transcripts = {"u2": ["A", "DÉJÀ"], "u1": [], "u3": ["VU"]}
    write_transcripts(tmp_path / "text", transcripts)
    found = read_transcripts(tmp_path / "text", allow_empty=True)
    assert found == transcripts and list(found) == list(transcripts)


def test_packed_files_read_like_plain_ones(tmp_path):
    (tmp_path / "text").write_text("u1 A\tB\n\nu2 C\n")
    with gzip.open(tmp_path / "text.gz", "wt") as stream:
        stream.write((tmp_path / "text").read_text())
    expected = [(1, ["u1", "A", "B"]), (2, []), (3, ["u2", "C"])]
    assert list(read_fields(tmp_path / "text")) == list(read_fields(tmp_path / "text.gz")) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"u1 A\n\nu2 B\n", "text:2 is blank"),
        (b"u1 A\nu1 B\n", "text:2: utterance u1 is there twice"),
        (b"u1 A\nu2\n", "text:2: utterance u2 has an empty transcript"),
        (b"u1 A\nu2 \xff\n", "text:.*UTF-8"),
        (b"", "is empty"),
    ],
)
def test_faults_are_named_by_line(tmp_path, content, said):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_transcripts(tmp_path / "text")


def test_the_byte_order_mark_of_windows_is_no_part_of_the_first_word(tmp_path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfu1 A\r\nu2 B\r\n")
    (tmp_path / "text.gz").write_bytes(gzip.compress((tmp_path / "text").read_bytes()))
    for name in ("text", "text.gz"):
        assert read_transcripts(tmp_path / name) == {"u1": ["A"], "u2": ["B"]}


def test_packed_files_that_are_cut_or_damaged(tmp_path):
    whole = gzip.compress(b"".join(b"u%d A B\n" % number for number in range(5000)))
    damaged = whole[:2000] + b"\xff" * 20 + whole[2020:]
    for number, broken in enumerate((whole[:-3000], damaged, whole[:-8] + b"\0" * 8)):
        (tmp_path / f"{number}.gz").write_bytes(broken)
        with pytest.raises(UserError, match=f"{number}.gz is not a whole gzip file"):
            list(read_fields(tmp_path / f"{number}.gz"))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_transcripts(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a folder"):
        read_transcripts(tmp_path)
