"""`dirnet espnet enable | disable | status` in an environment of the test's own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dirnet.errors import UserError
from dirnet.espnet import startup, versions
from dirnet.espnet.python import PACKAGE_PARENT
from dirnet.espnet.registry import TASKS, WRAPPED


class Environment:
    """A virtual environment that sees the packages of this one."""

    def __init__(self, folder: Path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin/python"
        self.packages = next(folder.glob("lib/python3.*/site-packages"))
        base = sysconfig.get_path("purelib")  # with its .pth files, which a bare path would leave out
        (self.packages / "base.pth").write_text(f"import site; site.addsitedir({base!r})\n")

    def run(self, *arguments: object, path: str = "", **options) -> subprocess.CompletedProcess:
        variables = {**os.environ, "PYTHONPATH": path}
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300, **options)

    def command(self, action: str) -> subprocess.CompletedProcess:
        return self.run("-m", "dirnet.cli", "espnet", action, path=PACKAGE_PARENT)


@pytest.fixture
def environment(tmp_path) -> Environment:
    return Environment(tmp_path / "venv")


def test_disable_removes_exactly_what_enable_wrote(environment):
    before = sorted(environment.packages.iterdir())
    done = environment.command("enable")
    file = environment.packages / startup.NAME
    assert done.returncode == 0 and f"enabled by {file}" in done.stdout, done.stderr
    assert sorted(environment.packages.iterdir()) == sorted([*before, file])
    assert "already enabled" in environment.command("enable").stdout
    # an interpreter that is told nothing has the hook, and has imported neither us nor anything heavy for it
    shown = environment.run(
        "-c", "import sys; print(type(sys.meta_path[0]).__name__, [m for m in ('dirnet', 'torch') if m in sys.modules])"
    )
    assert shown.stdout.split(" ", 1) == ["_BeforeESPnet", "[]\n"], shown.stderr
    assert f"disabled: {file} removed" in environment.command("disable").stdout
    assert sorted(environment.packages.iterdir()) == before
    assert "not enabled" in environment.command("disable").stdout


def test_the_file_outlives_the_package_in_silence(environment, tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "HOOK", tmp_path / "gone/hook.py")
    startup.enable(environment.packages / startup.NAME)
    done = environment.run("-c", "import espnet2; print(1)")
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_foreign_file_is_left_alone(tmp_path):
    path = tmp_path / startup.NAME
    path.write_text("import os\n")
    for action in (startup.enable, startup.disable):
        with pytest.raises(UserError, match="was not written by `dirnet espnet enable`; move it away"):
            action(path)
    assert path.read_text() == "import os\n"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_site_packages_that_cannot_be_written(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(startup, "atomic_write", refuse)
    with pytest.raises(UserError, match="cannot be changed .*; use dirnet-python"):
        startup.enable(tmp_path / startup.NAME)


@pytest.mark.parametrize("there, message", [(None, "ESPnet is not installed"), ("202301", "ESPnet is 202301")])
def test_another_espnet_is_one_line(tmp_path, monkeypatch, there, message):
    monkeypatch.setattr(versions, "found", lambda: there)
    for action in (startup.enable, startup.status):
        with pytest.raises(UserError, match=f"{message}, expected ESPnet 202511 on .*pip install espnet==2") as caught:
            action(tmp_path / startup.NAME)
        assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_status_tells_what_a_fresh_interpreter_knows(environment):
    assert environment.command("enable").returncode == 0
    done = environment.command("status")
    assert done.returncode == 0 and "missing" not in done.stdout, done.stdout + done.stderr
    first, second, _, *tasks = done.stdout.splitlines()
    assert first.startswith("enabled by ") and second.endswith(": supported")
    told = dict(line.strip().split(": ") for line in tasks)
    assert list(told) == list(TASKS) and told["lm"] == "model dirnet_wrap, lm dirnet_wrap"
    assert "encoder dirnet_rnn, encoder dirnet_wrap" in told["asr"] and "model dirnet_smbr" in told["asr"]
    assert all("dirnet_wrap" in told[task] for task in WRAPPED)
    transducer = told["asr_transducer"]
    assert transducer.startswith("frontend mfcc, specaug mfcc, ") and "dirnet_rnn" not in transducer
