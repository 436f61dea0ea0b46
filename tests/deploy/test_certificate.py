"""The report beside a program and what its seal notices."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from dirnet.deploy import certificate
from dirnet.errors import UserError

REPORT = {"sha256": "ab" * 32, "bytes": 12, "parity": {"noise": 1e-7, "größe": 0.1}, "delegated": 0.5, "note": None}


def test_what_was_sealed_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(certificate.seal(REPORT))
    report = certificate.read(path)
    assert REPORT == {name: value for name, value in report.items() if name != "seal"}
    assert report["seal"] == hashlib.sha256(json.dumps(REPORT).encode()).hexdigest()
    assert certificate.seal(report) == path.read_text()  # an old seal does not count


def test_a_program_is_found_while_both_files_are_whole(tmp_path):
    path, content = tmp_path / "new/a.pte", b"a program"
    assert certificate.found(path) == {} and certificate.found(tmp_path) == {}
    certificate.write(path, content, REPORT | {"sha256": hashlib.sha256(content).hexdigest()})
    assert certificate.found(path)["bytes"] == 12 and certificate.read_program(path) == content
    for damaged in (path, path.with_suffix(".json")):
        kept = damaged.read_bytes()
        damaged.write_bytes(kept + b" ")
        assert certificate.found(path) == {}
        damaged.write_bytes(kept)
    assert certificate.found(path)


def test_every_changed_byte_is_noticed(tmp_path):
    path, text = tmp_path / "a.json", certificate.seal(REPORT).encode()
    for at in range(len(text)):
        for bit in random.Random(at).sample(range(8), 2):
            path.write_bytes(text[:at] + bytes([text[at] ^ 1 << bit]) + text[at + 1 :])
            with pytest.raises(UserError, match="is not JSON|has no seal|differs from its own seal"):
                certificate.read(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ("[1]", "has no seal"),
        (json.dumps(REPORT), "has no seal, as an older version wrote it"),
        (certificate.seal(REPORT).replace('"bytes": 12', '"bytes": 13'), "differs from its own seal"),
        (certificate.seal(REPORT) + " ", "differs from its own seal"),
    ],
)
def test_other_files_are_named(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        certificate.read(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="a.json is not there; copy it together with the program"):
        certificate.read(tmp_path / "a.json")


def test_a_folder_is_no_program(tmp_path):
    with pytest.raises(UserError, match="is a folder, expected a program; give its encoder.pte"):
        certificate.read_program(tmp_path)
    with pytest.raises(UserError, match="none.pte is not there; write it with `dirnet export --model FOLDER`"):
        certificate.read_program(tmp_path / "none.pte")


@pytest.mark.parametrize("text", ["[" * 100000, "5", "{}", "no JSON"])
def test_a_program_without_its_sha256_is_named(tmp_path, text):
    (tmp_path / "a.pte").write_bytes(b"program")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="a.json does not tell the sha256 of a.pte; export the model again"):
        certificate.read_program(tmp_path / "a.pte")
