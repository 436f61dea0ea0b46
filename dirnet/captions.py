"""Partial words on standard error while they change: in place on a terminal, elsewhere one line per change."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence


class Captions:
    """`show(seconds, words)` what has been understood of the file `name` so far; `clear()` before its final line."""

    def __init__(self, name: str, quiet: bool = False):
        self._name, self._quiet, self._shown = name, quiet, ""
        self._in_place = sys.stderr.isatty()

    def show(self, seconds: float, words: Sequence[str]) -> None:
        """Nothing happens when the words are those shown last."""
        text = " ".join(words)
        if self._quiet or text == self._shown:
            return
        self._shown = text
        if self._in_place:
            width = shutil.get_terminal_size().columns - 1
            line = text if len(text) <= width else "…" + text[1 - width :]
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(f"{self._name} {seconds:.2f} s: {text}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line off the terminal."""
        if self._in_place and not self._quiet:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
