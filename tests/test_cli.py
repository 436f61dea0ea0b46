"""The `dirnet` command finds its programs, and says so when it does not."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from dirnet import cli


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dirnet.cli", *words], capture_output=True, text=True)


def test_usage_names_every_command():
    shown = run("--help")
    assert shown.returncode == 0 and all(f"  {name}" in shown.stdout for name in cli.COMMANDS)


def test_an_unknown_command_names_the_nearest():
    shown = run("compres")
    assert shown.returncode == 2
    assert shown.stderr.strip().endswith("unknown command 'compres'; did you mean 'compress'?")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_program(name, program):
    module = importlib.import_module(cli.COMMANDS[name][0])
    status, shown, _ = program(module.main, "--help")
    assert status == 0 and "usage:" in shown
