"""Partial words in place on a terminal, one line per change elsewhere."""

from __future__ import annotations

import io
import sys

from dirnet.captions import Captions


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pipe_gets_a_line_per_change(capsys):
    captions = Captions("a.wav")
    for seconds, words in ((0.1, []), (0.2, ["SEE"]), (0.3, ["SEE"]), (0.4, ["SEA"]), (0.5, ["SEA", "TEA"])):
        captions.show(seconds, words)
    captions.clear()
    assert capsys.readouterr() == ("", "a.wav 0.20 s: SEE\na.wav 0.40 s: SEA\na.wav 0.50 s: SEA TEA\n")


def test_a_terminal_shows_the_last_words_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "12")
    captions = Captions("a.wav")
    captions.show(0.1, ["SEE"])
    captions.show(0.2, ["SEE", "THE", "WHOLE", "SEA"])
    captions.clear()
    assert sys.stderr.getvalue() == "\r\x1b[KSEE\r\x1b[K… WHOLE SEA\r\x1b[K"


def test_quiet_says_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    captions = Captions("a.wav", quiet=True)
    captions.show(0.1, ["SEE"])
    captions.clear()
    assert sys.stderr.getvalue() == ""
