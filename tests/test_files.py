"""Files are whole or absent."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from dirnet import files
from dirnet.errors import UserError
from dirnet.files import append_log, atomic_folder, atomic_write, check_place, read_log

WRITERS = [(atomic_write, []), (atomic_folder, ["mark"])]


def test_new_content_appears_only_at_the_end(tmp_path):
    path = tmp_path / "sub" / "table.txt"
    with atomic_write(path) as stream:
        stream.write("new")
        assert not path.exists()
    assert path.read_text() == "new" and os.listdir(path.parent) == ["table.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_keeps_the_old_file_and_leaves_no_rest(tmp_path, error):
    path = tmp_path / "table.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as stream:
        stream.write("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.txt"]


def test_a_file_size_limit_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "big.bin"
    path.write_bytes(b"old")
    code = (
        "import resource, signal, sys\nfrom dirnet.files import atomic_write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with atomic_write(sys.argv[1], 'wb') as stream:\n    stream.write(bytes(100000))\n"
    )
    shown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert shown.returncode != 0 and "File too large" in shown.stderr
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["big.bin"]


@pytest.mark.parametrize("writer, more", WRITERS)
def test_what_a_killed_process_left_goes_with_the_next_write_of_the_same_target(tmp_path, writer, more):
    code = (
        "import sys, time\nfrom dirnet import files\n"
        f"with files.{writer.__name__}(sys.argv[1], *{more}):\n    print('begun', flush=True)\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    with (
        subprocess.Popen([*command, tmp_path / "a"], stdout=subprocess.PIPE) as killed,
        subprocess.Popen([*command, tmp_path / "a"], stdout=subprocess.PIPE) as alive,
        subprocess.Popen([*command, tmp_path / "a.b"], stdout=subprocess.PIPE) as other,
    ):
        processes = (killed, alive, other)
        for process in processes:
            process.stdout.readline()
        names = {process: next(n for n in os.listdir(tmp_path) if f".{process.pid}." in n) for process in processes}
        killed.kill()
        other.kill()
        killed.wait()
        other.wait()
        elsewhere = names[killed].replace(files._here(), "another-node")
        (tmp_path / elsewhere).mkdir()
        with writer(tmp_path / "a", *more):
            pass
        assert sorted(os.listdir(tmp_path)) == sorted([names[alive], names[other], elsewhere, "a"])
        alive.kill()


@pytest.mark.parametrize("writer, more", WRITERS)
def test_a_full_disk_is_told_with_the_file(tmp_path, writer, more):
    with pytest.raises(OSError) as full, writer(tmp_path / "table.txt", *more):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(tmp_path / "table.txt") and os.listdir(tmp_path) == []


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "stale").write_text("x")
    with pytest.raises(RuntimeError), atomic_folder(target, "stale") as folder:
        (folder / "half").write_text("y")
        raise RuntimeError
    assert os.listdir(target) == ["stale"] and os.listdir(tmp_path) == ["model"]
    with atomic_folder(target, "stale") as folder:
        (folder / "fresh").write_text("z")
    assert os.listdir(target) == ["fresh"] and os.listdir(tmp_path) == ["model"]


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path):
    target = tmp_path / "train"
    target.mkdir()
    (target / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="train would be replaced.*it holds no mark; give another folder"):
        with atomic_folder(target, "mark"):
            pass
    assert os.listdir(target) == ["thesis.tex"] and os.listdir(tmp_path) == ["train"]
    (target / "thesis.tex").unlink()
    with atomic_folder(target, "mark") as folder:  # an empty one is nobody's
        (folder / "mark").touch()
    assert os.listdir(target) == ["mark"]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "file", "mark"):
        pass


def test_a_link_to_a_folder_stays_one(tmp_path):
    """As of data that lie on another disk."""
    disk, target = tmp_path / "disk/train", tmp_path / "train"
    for link_to in ("there", "not yet there"):
        if link_to == "there":
            disk.mkdir(parents=True)
            (disk / "mark").touch()
        else:
            target.unlink()
            disk = tmp_path / "disk/other"
        target.symlink_to(disk)
        with atomic_folder(target, "mark") as folder:
            (folder / "fresh").touch()
        assert target.is_symlink() and os.listdir(disk) == ["fresh"]


@pytest.mark.parametrize("torn", [b'{"b": "' + b"x" * 9000, b"[2]", b'"\xc3'])
def test_a_torn_last_line_of_a_log_counts_not_and_is_cut_by_the_next(tmp_path, torn):
    log = tmp_path / "log.jsonl"
    assert read_log(log) == []
    append_log(log, {"a": 1})
    log.write_bytes(log.read_bytes() + torn)
    assert read_log(log) == [{"a": 1}]
    append_log(log, "é")
    assert read_log(log) == [{"a": 1}, "é"] and log.read_bytes().count(b"\n") == 2
    log.write_text("[1]\n{\n[2]\n")
    with pytest.raises(UserError, match=r"log.jsonl:2 is damaged.*remove the line"):
        read_log(log)


def test_lines_of_several_processes_stay_whole(tmp_path):
    code = (
        "import sys\nfrom dirnet.files import append_log\n"
        "for number in range(20):\n    append_log(sys.argv[1], [sys.argv[2], number, 'x' * 30000])\n"
    )
    log = tmp_path / "log.jsonl"
    processes = [subprocess.Popen([sys.executable, "-c", code, log, name]) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    assert sorted(row[:2] for row in read_log(log)) == [[name, number] for name in "ab" for number in range(20)]


def test_a_folder_whose_replacement_fails_at_the_last_moment_is_put_back(tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    (target / "mark").write_text("old")
    rename, calls = os.replace, []

    def interrupted(source, destination):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target, "mark") as folder:
        (folder / "mark").write_text("new")
    assert (target / "mark").read_text() == "old" and os.listdir(tmp_path) == ["model"]


def test_a_place_where_nothing_can_be_made_is_told_and_left_alone(tmp_path):
    (tmp_path / "file").touch()
    check_place(tmp_path / "new/deep/cost.json")
    check_place(tmp_path / "file")
    check_place(tmp_path, folder=True)
    for path, folder, fault in (("file/c.json", False, "cannot be made, as .*file is no folder"),
                                ("file", True, "is a file; give the folder to write"),
                                (".", False, "is a folder; give the file to write")):  # fmt: skip
        with pytest.raises(UserError, match=fault):
            check_place(tmp_path / path, folder=folder)
    with pytest.raises(UserError, match="--out is empty, expected the folder to write; give its path"):
        check_place("", folder=True)
    assert os.listdir(tmp_path) == ["file"]
