"""A user's mistake is one line and exit status 2; a failure of ours keeps its traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from dirnet.errors import UserError, did_you_mean, one_line_errors


def status(action) -> int:
    with pytest.raises(SystemExit) as stopped:
        one_line_errors(action)()
    return stopped.value.code


def test_user_error_is_one_line_and_status_2(capsys):
    def main():
        raise UserError("--size is 'big',\n expected 7.9x")

    assert status(main) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].endswith("error: --size is 'big', expected 7.9x")


def test_full_disk_names_the_file(capsys):
    def main():
        raise OSError(errno.ENOSPC, "No space left on device", "/data/feats.ark")

    assert status(main) == 2
    assert "no space left while writing /data/feats.ark" in capsys.readouterr().err


@pytest.mark.parametrize("place, said", [("none/x", "No such file"), ("file/x", "Not a directory"), ("", "directory")])
def test_a_path_that_is_something_else_is_one_line(tmp_path, capsys, place, said):
    (tmp_path / "file").touch()
    path = tmp_path / place
    assert status(lambda: open(path, "w")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"{path}: " in lines[0] and said in lines[0] and lines[0].endswith("correct the path")


def test_interrupt_is_130(capsys):
    def main():
        raise KeyboardInterrupt

    assert status(main) == 130
    assert "run it again to continue" in capsys.readouterr().err


def test_an_interrupt_while_a_program_imports_is_one_line(tmp_path):
    (tmp_path / "kaldiio.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "dirnet.asr.decode", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert shown.returncode == -signal.SIGINT
    assert len(shown.stderr.splitlines()) == 1 and "run it again to continue" in shown.stderr


def test_other_failures_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        one_line_errors(lambda: 1 // 0)()
    code = "from dirnet.errors import one_line_errors\n@one_line_errors\ndef main():\n    return 1 // 0\nmain()"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 1 and "Traceback" in shown.stderr


@pytest.mark.parametrize("work", ["for n in range(99999): print(n)", "print(0); raise SystemExit(0)"])
def test_an_output_that_nobody_reads_ends_the_program_quietly(work):
    code = f"from dirnet.errors import one_line_errors\n@one_line_errors\ndef main():\n    {work}\ninput()\nmain()"
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen([sys.executable, "-c", code], env=buffered, **pipes) as program:
        program.stdout.close()
        program.stdin.write(b"\n")
        program.stdin.close()
        assert program.stderr.read() == b"" and program.wait() == 1


def test_another_broken_pipe_keeps_its_traceback():
    def main():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")  # of a worker, say

    with pytest.raises(BrokenPipeError):
        one_line_errors(main)()


def test_return_value_is_the_status():
    assert status(lambda: 0) == 0 and status(lambda: 1) == 1


def test_the_nearest_known_word_is_offered():
    assert did_you_mean("becm", ["beam", "size"]) == "did you mean 'beam'?"
    assert did_you_mean("zzz", ["beam", "size"]) == "expected one of beam, size"
    assert did_you_mean("zzz", ["beam"], "see the manual") == "see the manual"
