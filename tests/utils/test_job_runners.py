"""run.pl, slurm.pl and queue.pl: logs, failures, interruption; the latter two against stand-ins for sbatch and qsub."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest

SBATCH = """#!/usr/bin/env bash
# Runs the array here, as Slurm would on its nodes, and notes what it was given.
echo "$@" >> "${FAKE}/calls"
for argument in "$@"; do
    case ${argument} in --array=*) range=${argument#--array=}; range=${range%%%*} ;; esac
    script=${argument}
done
echo 4711
status=0
for id in $(seq "${range%-*}" "${range#*-}"); do
    [ "${id}" != "${LOSE:-}" ] || { status=1; continue; }   # a node that died: no log, no exit code
    SLURM_ARRAY_TASK_ID=${id} bash "${script}" || status=1
done
exit ${status}
"""

QSUB = """#!/usr/bin/env bash
# Takes the array as Grid Engine does: says its number at once and runs it behind the back of qsub.
echo "$@" >> "${FAKE}/calls"
while [ $# -gt 1 ]; do [ "$1" != -t ] || range=$2; shift; done
echo "Your job-array 4711.${range}:1 (\\"x\\") has been submitted"
(
    for id in $(seq "${range%-*}" "${range#*-}"); do
        [ "${id}" == "${LOSE:-}" ] || SGE_TASK_ID=${id} bash "$1"
    done
    touch "${FAKE}/gone"
) > /dev/null 2>&1 &
"""
QSTAT = """#!/usr/bin/env bash
[ ! -f "${FAKE}/gone" ] || { echo "Following jobs do not exist: $2"; exit 1; }
"""
CANCEL = '#!/bin/sh\necho "$@" >> "${FAKE}/cancelled"\n'
PROGRAMS = {"sbatch": SBATCH, "scancel": CANCEL, "qsub": QSUB, "qstat": QSTAT, "qdel": CANCEL}


@pytest.fixture(params=["run.pl", "slurm.pl", "queue.pl"])
def runner(request, tmp_path, monkeypatch):
    """Call one of the runners in an empty folder: `runner(*arguments) -> CompletedProcess`."""
    return _runner(request.param, request, tmp_path, monkeypatch)


@pytest.fixture
def run_pl(request, tmp_path, monkeypatch):
    return _runner("run.pl", request, tmp_path, monkeypatch)


@pytest.fixture
def slurm_pl(request, tmp_path, monkeypatch):
    return _runner("slurm.pl", request, tmp_path, monkeypatch)


@pytest.fixture
def queue_pl(request, tmp_path, monkeypatch):
    monkeypatch.setenv("QUEUE_LAG_S", "1")
    return _runner("queue.pl", request, tmp_path, monkeypatch)


def _runner(name, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir(exist_ok=True)
    for program, text in PROGRAMS.items():
        (tmp_path / "bin" / program).write_text(text)
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    path = str(request.config.rootpath / "utils" / name)

    def run(*arguments):
        return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60)

    run.path = path
    return run


def test_jobs_and_their_logs(runner, tmp_path):
    done = runner("JOB=2:4", "log/x.JOB.log", "echo", "job JOB of  $HOME", "it's", ";", "echo", "to-stderr", ">&2")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "log").glob("*.log")) == ["x.2.log", "x.3.log", "x.4.log"]
    lines = (tmp_path / "log" / "x.3.log").read_text().splitlines()
    assert lines[0] == """# echo "job 3 of  \\$HOME" "it's" ; echo to-stderr >&2"""
    assert "job 3 of  $HOME it's" in lines and "to-stderr" in lines
    assert lines[1].startswith(("# Running on ", "# Submitted from "))
    assert any(line.startswith("# Started at ") for line in lines)
    assert re.fullmatch(r"# Accounting: time=\d+ threads=1", lines[-2])
    assert lines[-1].startswith("# Ended (code 0) at ") and lines[-1].endswith("seconds")


def test_only_a_word_of_its_own_is_the_number(runner, tmp_path):
    done = runner("JOB=1:2", "JOBS/MY_JOB/x.JOB.log", "echo", "JOB JOBS,MY_JOB,JOB1,split2/JOB,b.JOB.c")
    assert (done.returncode, done.stderr) == (0, "")
    log = (tmp_path / "JOBS/MY_JOB/x.2.log").read_text().splitlines()
    assert "2 JOBS,MY_JOB,JOB1,split2/2,b.2.c" in log
    assert "log 'JOBS/x.log' does not contain JOB" in runner("JOB=1:2", "JOBS/x.log", "true").stderr


def test_a_single_command_without_an_array(run_pl, tmp_path):
    assert run_pl("--mem", "4G", "--gpu", "1", "one.log", "seq", "3", "|", "tail", "-n1").returncode == 0
    assert (tmp_path / "one.log").read_text().splitlines()[-3] == "3"


def test_failed_jobs_are_counted_and_their_logs_named(runner, tmp_path):
    done = runner("JOB=1:4", "x.JOB.log", "test", "JOB", "-gt", "2", "||", "exit", "7")
    name = os.path.basename(runner.path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"{name}: 2 / 4 failed, log is in x.1.log x.2.log"]
    assert "# Ended (code 7)" in (tmp_path / "x.2.log").read_text()
    assert "# Ended (code 0)" in (tmp_path / "x.3.log").read_text()


def test_the_first_cause_is_shown_and_a_mistake_of_the_user_is_status_2(runner):
    program = "echo 'x.py: error: rate is 8 kHz in JOB' >&2; echo more"
    name = os.path.basename(runner.path)
    fail = ["bash", "-c", program, ";", "exit", "2"]
    done = runner("JOB=1:3", "x.JOB.log", "test", "JOB", "-gt", "1", "||", "exit", "0", ";", *fail)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"{name}: 2 / 3 failed, log is in x.2.log x.3.log",
        "  x.3.log: x.py: error: rate is 8 kHz in 3",
        "x.py: error: rate is 8 kHz in 2",
    ]
    done = runner("JOB=1:1", "y.JOB.log", "echo", "y.py:", "error:", "broken", ";", "exit", "3")
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "y.py: error: broken"


def test_failed_jobs_are_named_with_what_they_said_last(runner):
    command = ["echo", "at", "step", "JOB", ";", "test", "JOB", "-eq", "1"]
    done = runner("JOB=1:6", "x.JOB.log", *command)
    assert done.returncode == 1
    first, *last = done.stderr.splitlines()
    assert first.endswith("5 / 6 failed, log is in x.2.log x.3.log x.4.log ...")
    assert last == [f"  x.{job}.log: at step {job}" for job in (2, 3, 4)]


def test_a_killed_job_is_a_failed_job(run_pl, tmp_path):
    done = run_pl("x.log", "bash", "-c", "kill -9 $$")
    assert done.returncode == 1 and "# Ended (code 137)" in (tmp_path / "x.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--nope", "1", "x.log", "true"], "unknown option --nope"),
        (["--max-jobs-run", "two", "x.log", "true"], "--max-jobs-run is 'two', expected a number"),
        (["JOB=3:1", "x.JOB.log", "true"], "'JOB=3:1' is an empty range"),
        (["JOB=1:2", "x.log", "true"], "log 'x.log' does not contain JOB"),
        (["x.log"], "expected [options] [JOB=1:N] LOG COMMAND..."),
    ],
)
def test_mistakes_are_one_line(runner, tmp_path, arguments, expected):
    done = runner(*arguments)
    assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*.log"))


def test_max_jobs_run_limits_what_runs_at_once(run_pl, tmp_path):
    command = "echo + >> count; sleep 0.2; echo - >> count"
    assert run_pl("--max-jobs-run", "2", "JOB=1:6", "x.JOB.log", "bash", "-c", command).returncode == 0
    running = most = 0
    for line in (tmp_path / "count").read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert most == 2 and running == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_every_job_and_lets_it_clean_up(run_pl, tmp_path, number):
    job = "trap 'rm temporary.JOB; exit 1' INT; touch temporary.JOB; sleep 60 & echo $! > pid.JOB; wait; sleep 60"
    command = [run_pl.path, "JOB=1:2", "x.JOB.log", "bash", "-c", job]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    pids = [tmp_path / f"pid.{job}" for job in (1, 2)]
    while not all(path.exists() and path.read_text().strip() for path in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(number)
    _, error = running.communicate(timeout=20)
    assert running.returncode == 130 and error == "run.pl: interrupted; every job was ended\n"
    assert not list(tmp_path.glob("temporary.*"))
    assert all("# Ended (code 1)" in (tmp_path / f"x.{job}.log").read_text() for job in (1, 2))


def test_slurm_options_and_site_file(slurm_pl, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "slurm.conf").write_text("# our site\n--partition=long\n\n--account=me  # mine\n")
    options = ["--mem", "2G", "--gpu", "1", "--num-threads", "3", "--max-jobs-run", "5", "--time", "10:00"]
    assert slurm_pl(*options, "JOB=1:2", "x.JOB.log", "true").returncode == 0
    call = (tmp_path / "calls").read_text().split()
    for expected in ("--wait", "--array=1-2%5", "--mem=2G", "--gres=gpu:1", "--cpus-per-task=3", "--time=10:00"):
        assert expected in call
    assert "--partition=long" in call and "--account=me" in call
    assert slurm_pl("--config", "nowhere", "x.log", "true").returncode == 2


def test_kaldis_rules_for_a_site(slurm_pl, queue_pl, tmp_path):
    (tmp_path / "conf").mkdir()
    rules = """# Kaldi's own example
command {}   # with a remark
option mem=* -l mem_free=$0,ram_free=$0
option mem=0          # nothing
default gpu=0
option gpu=0 -q all.q
option gpu=* -l gpu=$0 -q g.q
"""
    (tmp_path / "conf" / "queue.conf").write_text(rules.format("qsub -v PATH -cwd"))
    options = ["--mem", "2G", "--num-threads", "3", "--max-jobs-run", "2"]
    assert queue_pl(*options, "JOB=1:3", "x.JOB.log", "true").returncode == 0
    assert queue_pl("--mem", "0", "--gpu", "2", "--num-threads", "1", "x.log", "true").returncode == 0
    cpu, gpu = (tmp_path / "calls").read_text().splitlines()
    assert cpu.startswith("-v PATH -cwd -q all.q -tc 2 -l mem_free=2G,ram_free=2G -pe smp 3 -N ") and "-t 1-3" in cpu
    assert gpu.startswith("-v PATH -cwd -l gpu=2 -q g.q -N ") and "mem" not in gpu and "-pe" not in gpu
    (tmp_path / "conf" / "slurm.conf").write_text("option gpu=* -p gpu --gres=gpu:$0\noption mem=* --mem-per-cpu $0\n")
    assert slurm_pl("--mem", "2G", "--gpu", "2", "--exclusive", "true", "y.log", "true").returncode == 0
    call = (tmp_path / "calls").read_text().splitlines()[-1]
    assert "--exclusive -p gpu --gres=gpu:2 --mem-per-cpu 2G --wait" in call and "--mem=" not in call
    done = queue_pl("--tmem", "2G", "x.log", "true")
    assert done.returncode == 2 and "unknown option --tmem" in done.stderr
    (tmp_path / "conf" / "queue.conf").write_text("optoin gpu=0\n")
    done = queue_pl("x.log", "true")
    assert done.returncode == 2 and "'optoin gpu=0' in conf/queue.conf is no rule" in done.stderr


def test_queue_notices_a_job_that_left_no_exit_code(queue_pl, monkeypatch):
    monkeypatch.setenv("LOSE", "2")
    done = queue_pl("JOB=1:3", "x.JOB.log", "true")
    assert done.returncode == 1 and "1 / 3 failed, log is in x.2.log" in done.stderr


def test_queue_without_grid_engine_or_with_a_refusal(queue_pl, tmp_path):
    (tmp_path / "bin" / "qsub").write_text("#!/bin/sh\necho no suitable queues\nexit 1\n")
    done = queue_pl("x.log", "true")
    assert done.returncode == 1 and "submitted nothing (it said 'no suitable queues')" in done.stderr
    (tmp_path / "bin" / "qsub").unlink()
    if any(os.access(os.path.join(folder, "qsub"), os.X_OK) for folder in os.environ["PATH"].split(os.pathsep)):
        pytest.skip("this machine has Grid Engine")
    done = queue_pl("x.log", "true")
    assert done.returncode == 2 and "cmd_backend=local" in done.stderr
    assert "begins with 0" in queue_pl("JOB=0:2", "x.JOB.log", "true").stderr


def test_slurm_notices_a_job_that_left_no_exit_code(slurm_pl, monkeypatch):
    monkeypatch.setenv("LOSE", "2")
    done = slurm_pl("JOB=1:3", "x.JOB.log", "true")
    assert done.returncode == 1 and "1 / 3 failed, log is in x.2.log" in done.stderr


def test_without_slurm(slurm_pl, tmp_path, monkeypatch):
    (tmp_path / "bin" / "sbatch").unlink()
    if any(os.access(os.path.join(folder, "sbatch"), os.X_OK) for folder in os.environ["PATH"].split(os.pathsep)):
        pytest.skip("this machine has Slurm")
    done = slurm_pl("x.log", "true")
    assert done.returncode == 2 and "cmd_backend=local" in done.stderr


@pytest.mark.parametrize("name", ["slurm_pl", "queue_pl"])
def test_interruption_cancels_the_jobs(name, request, tmp_path):
    runner = request.getfixturevalue(name)
    running = subprocess.Popen([runner.path, "x.log", "sleep", "3"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not (tmp_path / "calls").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=20)
    assert running.returncode == 130 and re.search("the jobs were (cancelled|deleted)", error)
    assert (tmp_path / "cancelled").read_text().split()[0] == "4711"
