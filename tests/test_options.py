"""A mistake on any command line is one line and exit status 2, and --help tells the defaults."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from dirnet.config import boolean
from dirnet.errors import UserError
from dirnet.options import Parser

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("dirnet", "local", "utils", "bench") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize(
    "module, words, message",
    [
        ("dirnet.sweep", ("heights",), "invalid choice: 'heights'"),
        ("dirnet.asr.ngram", ("--out", "x", "--smoothing", "best"), "invalid choice: 'best'"),
        ("dirnet.compress_model", ("--model", "m", "--size", "2x", "--out", "o", "--dry_run", "no"), "'no' is neither"),
        ("dirnet.recognise", ("a.wav", "--model", "m", "--phones", "1"), "'1' is neither true nor false"),
        ("dirnet.compress_model", ("--model", "m"), "required: --size, --out; see dirnet compress --help"),
        ("dirnet.asr.decode", (), "required: --lang, --posteriors, --out; see python -m dirnet.asr.decode --help"),
        ("dirnet.asr.decode", ("--lan", "x"), "required: --lang"),
        ("dirnet.espnet.train", ("--exp", "x"), "required: --config"),
        ("dirnet.deploy.verify", ("x.pte", "--fast"), "unrecognized arguments: --fast; see dirnet verify --help"),
        ("dirnet.deploy.rtf", (), "--model --compare is required; see dirnet rtf --help"),
        ("dirnet.deploy.export", ("--model", "m", "--chunk", "x"), "invalid int value: 'x'; see dirnet export --help"),
        ("dirnet.compress_model", ("--model", "m", "--seed", "-1"), "--seed: '-1' is no whole number from 0 to 42949"),
        ("dirnet.asr.ngram", ("--out", "x", "--order", "99"), "--order is 99, expected 1 to 9"),
        ("dirnet.paper", ("table1", "--results", "x", "--out", ""), "--out: the path is empty"),
        ("dirnet.asr.score", ("--out", ""), "--out: the path is empty, as that of a variable that is not set"),
        ("dirnet.espnet.train", ("--exp", ""), "--exp: the path is empty"),
        ("dirnet.espnet.zoo", ("downlod",), "invalid choice: 'downlod'"),
        ("dirnet.espnet.zoo", ("upload", "x.zip"), "required: --repo; see dirnet zoo upload --help"),
    ],
)
def test_a_mistake_is_one_line(program, module, words, message):
    status, shown, error = program(importlib.import_module(module).main, *words)
    assert status == 2 and not shown and message in error and error.count("\n") == 1


@pytest.mark.parametrize("words", [["utils/make_mfcc.py", "--nj", "x"], ["local/ptb_data.py"], ["-m", "dirnet", "rtf"]])
def test_scripts_and_commands_say_it_in_one_line_too(words):
    shown = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    name = "dirnet rtf" if words[0] == "-m" else Path(words[0]).name
    assert shown.returncode == 2 and shown.stderr.count("\n") == 1
    assert shown.stderr.startswith(f"{name}: error: ") and shown.stderr.endswith(f"see {name} --help\n")


def test_help_ends_with_defaults_that_say_something():
    parser = Parser(prog="x", description="First line.\n\n    an example\n\nThe end.")
    parser.add_argument("--order", type=int, default=3, help="of the n-gram")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", nargs="+", default=["dev", "test"], help="to score")
    parser.add_argument("--share", default="5%", help="of the data")
    parser.add_argument("--real", type=boolean, default=True, help="false: not")
    parser.add_argument("--device", default="host", help="adb, or host (default)")
    for name, nothing in (("a", None), ("b", ""), ("c", []), ("d", False)):
        parser.add_argument(f"--{name}", default=nothing, help=f"help of {name}")
    shown = parser.format_help()
    assert "First line.\n\n    an example\n\nThe end." in shown
    shown = " ".join(shown.split())
    for text in (
        "of the n-gram (default: 3)", "--seed SEED (default: 0)", "to score (default: dev test)",
        "of the data (default: 5%)", "false: not (default: true)", "adb, or host (default) ",
    ):  # fmt: skip
        assert text in shown
    assert shown.endswith("--a A help of a --b B help of b --c C help of c --d D help of d")


def test_options_are_written_in_full():
    parser = Parser(prog="x")
    parser.add_argument("--max_frames", type=int)
    assert parser.parse_known_args(["--max", "5"])[1] == ["--max", "5"]
    with pytest.raises(UserError, match="unrecognized arguments: --max 5; see x --help"):
        parser.parse_args(["--max", "5"])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_program_uses_the_parser_under_one_line_errors(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.stem != "options":
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {"argparse.ArgumentParser", "ArgumentParser"}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and "Parser(" in ast.unparse(node) and node.name == "main":
            assert "one_line_errors" in map(ast.unparse, node.decorator_list)
