"""Archives: what is written is read back, offsets are right, damage and absence are told."""

from __future__ import annotations

import struct

import kaldiio
import numpy as np
import pytest

from dirnet.asr.ark import Matrices, read_scp, write_ark
from dirnet.asr.datadir import write_table
from dirnet.errors import UserError


@pytest.fixture
def matrices():
    rng = np.random.default_rng(0)
    return {f"utt-é{frames}": rng.normal(size=(frames, 26)).astype(np.float32) * 5 for frames in (1, 8, 9, 200)}


def write(folder, matrices, **options):
    with write_ark(folder / "x.ark", folder / "x.scp", **options) as writer:
        for key, matrix in matrices.items():
            writer.write(key, matrix)


@pytest.mark.parametrize("compress", [False, True])
def test_round_trip_in_order(tmp_path, matrices, compress):
    write(tmp_path, matrices, compress=compress)
    lazy = Matrices(tmp_path / "x.scp")
    assert list(lazy) == list(matrices) and len(lazy) == len(matrices)
    for key, expected in matrices.items():
        found = lazy[key]
        assert found.dtype == np.float32
        # 8 bits between a column's percentiles, 16 bits over a short matrix
        tolerance = 0 if not compress else 1e-3 if len(expected) < 9 else np.ptp(expected, axis=0).max() / 128
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_compressed_entries_have_kaldi_headers(tmp_path, matrices):
    write(tmp_path, matrices)
    content = (tmp_path / "x.ark").read_bytes()
    for key, location in read_scp(tmp_path / "x.scp").items():
        path, offset = location.rsplit(":", 1)
        at = int(offset)
        assert path == str(tmp_path / "x.ark")
        assert content[at : at + 2] == b"\0B"
        kind = content[at + 2 :].split(b" ", 1)[0]
        assert kind == (b"CM" if len(matrices[key]) >= 9 else b"CM2")
        rows, columns = struct.unpack_from("<ii", content, at + 2 + len(kind) + 1 + 8)
        assert (rows, columns) == matrices[key].shape


def test_nothing_is_left_when_writing_fails(tmp_path, matrices):
    with pytest.raises(KeyboardInterrupt), write_ark(tmp_path / "x.ark", tmp_path / "x.scp") as writer:
        writer.write("a", matrices["utt-é9"])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_scp_of_several_archives(tmp_path, matrices):
    for part in ("1", "2"):
        (tmp_path / part).mkdir()
        write(tmp_path / part, {f"{part}{key}": matrix for key, matrix in matrices.items()})
    entries = {**read_scp(tmp_path / "2" / "x.scp"), **read_scp(tmp_path / "1" / "x.scp")}
    write_table(tmp_path / "all.scp", entries)
    lazy = Matrices(tmp_path / "all.scp")
    assert list(lazy) == sorted(entries)
    np.testing.assert_array_equal(lazy["2utt-é9"], Matrices(tmp_path / "1" / "x.scp")["1utt-é9"])


def test_every_form_of_kaldis_matrices_is_float32(tmp_path):
    matrix = np.random.default_rng(1).normal(size=(20, 3))
    for name, kind, form in (("double", np.float64, "ark"), ("text", np.float32, "ark,t")):
        with kaldiio.WriteHelper(f"{form},scp:{tmp_path}/{name}.ark,{tmp_path}/{name}.scp") as writer:
            writer("other", matrix[:4].astype(kind))
            writer("u", matrix.astype(kind))
        found = Matrices(tmp_path / f"{name}.scp")["u"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, matrix, rtol=1e-6)
    table = read_scp(tmp_path / "double.scp")
    (tmp_path / "part.scp").write_text(f"u {table['u']}[5:9]\n")  # Kaldi's ends are included
    np.testing.assert_allclose(Matrices(tmp_path / "part.scp")["u"], matrix[5:10], rtol=1e-6)


def test_what_is_no_matrix_is_told_and_no_command_is_run(tmp_path):
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/v.ark,{tmp_path}/v.scp") as writer:
        writer("vector", np.zeros(3, np.float32))
    (tmp_path / "words").write_text("HELLO WORLD\n")
    lines = f"command touch {tmp_path}/ran; cat x |\nwords {tmp_path}/words\n" + (tmp_path / "v.scp").read_text()
    (tmp_path / "x.scp").write_text(lines)
    found = Matrices(tmp_path / "x.scp")
    for key, said in {"command": "is a command", "words": "delete .*/words and make", "vector": "is no matrix"}.items():
        with pytest.raises(UserError, match=f"{key}.*{said}"):
            found[key]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "expected"), [("a\n", "x.scp:1: expected"), ("a b:0\na c:0\n", "x.scp:2: 'a' stands there twice")]
)
def test_bad_scp_names_the_line(tmp_path, content, expected):
    (tmp_path / "x.scp").write_text(content)
    with pytest.raises(UserError, match=expected):
        Matrices(tmp_path / "x.scp")


def test_another_file_or_a_folder_in_place_of_an_scp_is_named(tmp_path):
    (tmp_path / "text").write_text("utt GOOD MORNING\n")
    with pytest.raises(UserError, match="text: 'utt' cannot be read, there is no file GOOD MORNING; give a feats.scp"):
        Matrices(tmp_path / "text")["utt"]
    with pytest.raises(UserError, match="is a folder, expected an scp file; give the feats.scp in it"):
        Matrices(tmp_path)


def test_missing_and_damaged_archives_are_user_errors(tmp_path, matrices):
    with pytest.raises(UserError, match="does not exist"):
        Matrices(tmp_path / "x.scp")
    write(tmp_path, matrices)
    archive = tmp_path / "x.ark"
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(UserError, match="utt-é200.*delete .*x.ark and make it again"):
        Matrices(tmp_path / "x.scp")["utt-é200"]
    with pytest.raises(UserError, match="utt-é200"):
        Matrices(tmp_path / "x.scp").check_archives()
    archive.write_bytes(archive.read_bytes()[:20])  # not even the beginning of some
    for key in Matrices(tmp_path / "x.scp"):
        with pytest.raises(UserError, match="cannot be read"):
            Matrices(tmp_path / "x.scp")[key]
    archive.unlink()
    with pytest.raises(UserError, match="utt-é9.*cannot be read, there is no file .*x.ark; give a feats.scp, or make"):
        Matrices(tmp_path / "x.scp")["utt-é9"]
