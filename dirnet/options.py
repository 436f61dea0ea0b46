"""The command line of every program: a mistake in it is one line, and --help tells the defaults."""

from __future__ import annotations

import argparse
import copy
import inspect
from pathlib import Path
from typing import Any, NoReturn

from dirnet.errors import UserError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose mistakes are a `UserError`, hence one line and exit status 2 by `one_line_errors`.

    Options are written in full. The description keeps its lines, and the help of an option ends with its default.
    """

    def __init__(self, **settings: Any):
        super().__init__(**{"formatter_class": _Formatter, "allow_abbrev": False} | settings)
        self.description = self.description and inspect.cleandoc(self.description)

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and where to read what is right."""
        raise UserError(f"{message}; see {self.prog} --help")


def seed(text: str) -> int:
    """A number that every random generator takes as its seed; the `type` of an option."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {2**32 - 1}")
    return int(text)


def place(text: str) -> Path:
    """A path to write to; the `type` of an option. An empty one would be the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty, as that of a variable that is not set; give one")
    return Path(text)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def _format_action(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.help = _with_default(action)
        return super()._format_action(shown)


def _with_default(action: argparse.Action) -> str | None:
    """The help of an option and its default, unless this is nothing, or told already."""
    text, value = action.help or "", action.default
    silent = value is None or value is False or value in ("", [], (), argparse.SUPPRESS)
    if silent or "default" in text:
        return action.help
    told = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    told = told.lower() if value is True else told.replace("%", "%%")
    return f"{text} (default: {told})".lstrip()
