"""parse_options.sh as a script sees it."""

from __future__ import annotations

import subprocess

import pytest

SCRIPT = """#!/usr/bin/env bash
# Do a thing.
# Usage: thing [options] ARGUMENT
set -eu
nj=4          # parallel jobs
skip_train=false
name=

. {root}/utils/parse_options.sh
echo "nj=${{nj}} skip_train=${{skip_train}} name=${{name}} left=$*"
"""


@pytest.fixture
def run(tmp_path, request):
    path = tmp_path / "thing.sh"
    path.write_text(SCRIPT.format(root=request.config.rootpath))

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(["bash", str(path), *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    return run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "nj=4 skip_train=false name= left="),
        (["--nj", "8", "a", "--b"], "nj=8 skip_train=false name= left=a --b"),
        (["--skip-train", "true", "--name", "x y*"], "nj=4 skip_train=true name=x y* left="),
        (["--name", "--nj 3", "--", "--nj"], "nj=4 skip_train=false name=--nj 3 left=--nj"),
        (["--name", ""], "nj=4 skip_train=false name= left="),
    ],
)
def test_options(run, arguments, expected):
    assert run(*arguments) == (0, expected, "")


@pytest.mark.parametrize(
    ("arguments", "expected_status", "expected"),
    [
        (["--nope", "1"], 1, "invalid option '--nope'"),
        (["--PATH", "1"], 1, "invalid option '--PATH'"),
        (["--nj"], 1, "option --nj has no value"),
        (["--nj=3"], 1, "expected --name value"),
        (["--nj", "four"], 2, "option --nj is 'four', expected a whole number"),
        (["--nj", "-1"], 2, "option --nj is '-1', expected a whole number"),
        (["--skip-train", "yes"], 2, "option --skip-train is 'yes', expected true or false"),
        (["--config", "/nowhere"], 2, "--config '/nowhere' is not a readable file"),
    ],
)
def test_mistakes_are_one_line(run, arguments, expected_status, expected):
    status, out, error = run(*arguments)
    assert status == expected_status and out == "" and expected in error and len(error.splitlines()) == 1


def test_a_config_comes_before_the_command_line(run, tmp_path):
    (tmp_path / "conf").write_text("nj=7\nname=configured\n")
    assert run("--nj", "9", "--config", str(tmp_path / "conf"))[1] == "nj=9 skip_train=false name=configured left="


def test_help_is_the_head_of_the_script_with_its_defaults(run):
    status, out, _ = run("--help")
    assert status == 0
    assert out.splitlines() == [
        "Do a thing.",
        "Usage: thing [options] ARGUMENT",
        "  --nj 4          # parallel jobs",
        "  --skip_train false",
        "  --name",
    ]


def test_help_message_wins(tmp_path, request):
    path = tmp_path / "thing.sh"
    path.write_text(f'help_message="Usage: my own"\n. {request.config.rootpath}/utils/parse_options.sh\n')
    done = subprocess.run(["bash", str(path), "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Usage: my own\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nj=four", "nj of --config '{}' is 'four', expected a whole number"),
        ("skip_train=yes  # so", "skip_train of --config '{}' is 'yes', expected true or false"),
        ("nmae=x", "--config '{}' sets nmae, which is no option"),
    ],
)
def test_mistakes_in_a_config_are_one_line(run, tmp_path, line, expected):
    path = tmp_path / "my conf"
    path.write_text(f"# mine\nname=configured\n{line}\n")
    status, out, error = run("--config", str(path))
    assert status == 2 and out == "" and expected.format(path) in error and len(error.splitlines()) == 1
