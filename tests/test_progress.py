"""Progress in a log: all items pass, and a line tells how far a slow loop is."""

from __future__ import annotations

from dirnet.progress import progress


def test_a_log_gets_a_line_at_each_interval_and_every_item(capsys):
    assert list(progress("abc", 3, "decode", every_s=0)) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == ["decode: 0 of 3 utt", "decode: 1 of 3 utt", "decode: 2 of 3 utt"]


def test_a_fast_loop_says_nothing(capsys):
    assert sum(progress(range(1000), 1000, "decode")) == 499500
    assert capsys.readouterr() == ("", "")
