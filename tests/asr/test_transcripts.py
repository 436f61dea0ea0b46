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


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_transcripts(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a folder"):
        read_transcripts(tmp_path)
