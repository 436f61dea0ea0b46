"""make_mfcc.py with real jobs through run.pl."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dirnet.asr.ark import Matrices
from dirnet.asr.datadir import read_table


@pytest.fixture
def make(script, program, request, monkeypatch):
    root = request.config.rootpath
    monkeypatch.setenv("PYTHONPATH", str(root))
    module = script("utils/make_mfcc.py")
    fixed = ("--cmd", root / "utils" / "run.pl", "--config", root / "conf" / "mfcc.conf")
    return lambda *arguments: program(module.main, *fixed, *arguments)


def test_features_of_parallel_jobs_are_merged_and_a_rerun_does_nothing(make, corpus, tmp_path):
    data, out = corpus(tmp_path / "data" / "train"), tmp_path / "dump" / "mfcc" / "train"
    (data / "wav.scp").write_text((data / "wav.scp").read_text().replace(f"{data}/", ""))  # relative to the data dir
    status, said, _ = make(data, out, "--nj", "2")
    assert status == 0 and "6 utterances" in said and "2 jobs" in said
    matrices = Matrices(out / "feats.scp")
    assert list(matrices) == list(read_table(data / "text"))
    frames = {name: len(matrix) for name, matrix in matrices.items()}
    assert {name: int(number) for name, number in read_table(data / "utt2num_frames").items()} == frames
    assert list(read_table(data / "utt2dur")) == list(frames)
    everything = np.concatenate(list(matrices.values()))
    with np.load(out / "cmvn.npz") as stored:  # the keys and shapes that ESPnet's GlobalMVN takes
        assert set(stored) == {"count", "sum", "sum_square"}
        count, total, square = stored["count"], stored["sum"], stored["sum_square"]
    assert count.shape == () and count == len(everything)
    np.testing.assert_allclose(total / count, everything.mean(0), atol=0.05)
    np.testing.assert_allclose(np.sqrt(square / count - (total / count) ** 2), everything.std(0), rtol=0.05)
    assert not list(data.glob("split*"))
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert make(data, out, "--nj", "3")[1] == f"{out}: already done\n"
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before

    (out / "raw_mfcc.2.ark").unlink()  # a lost archive is made again, with fewer jobs here
    assert make(data, out, "--nj", "1")[0] == 0
    assert {path.name for path in out.glob("raw_mfcc.2*")} == set()
    assert list(Matrices(out / "feats.scp")) == list(frames)


def test_unusable_utterances_leave_the_tables_or_stop_the_run(make, corpus, sound, tmp_path):
    data, out = corpus(tmp_path / "train", speakers=1, utterances=21), tmp_path / "dump"
    sound(data / "audio" / "spk00-004.flac", seconds=0.01)
    status, said, _ = make(data, out, "--nj", "1", "--max_skipped", "0.01")
    assert status == 2 and not (out / "feats.scp").exists() and "spk00-004" in read_table(data / "text")
    status, said, _ = make(data, out, "--nj", "1")  # the job's work is not done again
    assert status == 0 and "spk00-004 skipped" in said and "1 skipped" in said
    assert "already done" in (out / "log" / "make_mfcc.1.log").read_text()
    for table in ("wav.scp", "text", "utt2spk", "utt2dur", "utt2num_frames"):
        assert len(read_table(data / table)) == 20 and "spk00-004" not in read_table(data / table)
    assert "spk00-004" not in read_table(data / "spk2utt")["spk00"]
    assert "already done" in make(data, out, "--nj", "1")[1]


def test_a_run_that_failed_does_not_pass_for_the_one_before(make, corpus, tmp_path):
    """With other options, and cut off between two jobs, it leaves archives that feats.scp does not describe."""
    data, out = corpus(tmp_path / "train"), tmp_path / "dump"
    assert make(data, out, "--nj", "2")[0] == 0
    before = {name: matrix.copy() for name, matrix in Matrices(out / "feats.scp").items()}
    (tmp_path / "conf").write_text("--num-ceps=13\n")
    hidden = (data / "audio" / "spk01-002.flac").rename(tmp_path / "hidden")
    assert make(data, out, "--nj", "2", "--config", tmp_path / "conf")[0] == 2  # the first job has ended well
    assert not (out / "feats.scp").exists() and not (out / "cmvn.npz").exists()  # whose archives are others now
    hidden.rename(data / "audio" / "spk01-002.flac")
    assert make(data, out, "--nj", "2")[0] == 0
    after = Matrices(out / "feats.scp")
    assert all(np.array_equal(after[name], matrix) for name, matrix in before.items())


def test_the_jobs_mistake_is_told_in_one_line(make, corpus, sound, tmp_path, request):
    data, out = corpus(tmp_path / "train"), tmp_path / "dump"
    path = sound(data / "audio" / "spk01-000.flac", rate=8000)
    root = request.config.rootpath
    command = [sys.executable, root / "utils" / "make_mfcc.py", "--cmd", root / "utils" / "run.pl", "--nj", "1"]
    command += ["--config", root / "conf" / "mfcc.conf", data, out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    error = done.stderr
    assert done.returncode == 2 and len(error.splitlines()) == 2  # the cause, and where the log is
    assert f"utterance 'spk01-000': audio {path} has 8000 Hz" in error.splitlines()[-1]
    assert not (out / "feats.scp").exists() and not list(out.glob("raw_mfcc*"))


def test_mistakes(make, corpus, tmp_path):
    data = corpus(tmp_path / "train", speakers=1)
    assert "--nj is 0" in make(data, tmp_path / "dump", "--nj", "0")[2]
    assert "does not exist" in make(tmp_path / "nowhere", tmp_path / "dump")[2]
    assert "does not exist" in make(data, tmp_path / "dump", "--config", "nowhere")[2]


def test_ctrl_c_ends_the_jobs_and_leaves_nothing(make, corpus, tmp_path, request):
    data, out = corpus(tmp_path / "train", speakers=1), tmp_path / "dump"
    root = request.config.rootpath
    slow = f"spk00-002 sleep 30; cat {data}/audio/spk00-002.flac |"
    table = (data / "wav.scp").read_text()
    (data / "wav.scp").write_text("".join(f"{line}\n" for line in [*table.splitlines()[:2], slow]))
    command = [sys.executable, str(root / "utils" / "make_mfcc.py"), "--cmd", str(root / "utils" / "run.pl")]
    command += ["--config", str(root / "conf" / "mfcc.conf"), "--nj", "1", "--allow_pipe", "true", str(data), str(out)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)})
    deadline = time.monotonic() + 60
    while not list(out.glob(".raw_mfcc.1.ark.*")):  # the job is in the middle of its work
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=30)
    assert running.returncode == 130 and "interrupted" in error
    assert {path.name for path in out.iterdir()} == {"log"}
