"""Progress in a log: all items pass, and a line tells how far a slow loop is."""

from __future__ import annotations

from dirnet.progress import Meter, progress


def test_a_log_gets_a_line_at_each_interval_and_every_item(capsys):
    assert list(progress("abc", 3, "decode", every_s=0)) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == ["decode: 0 of 3 utt", "decode: 1 of 3 utt", "decode: 2 of 3 utt"]


def test_a_fast_loop_says_nothing(capsys):
    assert sum(progress(range(1000), 1000, "decode")) == 499500
    assert capsys.readouterr() == ("", "")


def test_a_meter_tells_item_stage_and_fraction(capsys):
    with Meter(2, "compress", "group", every_s=0) as meter:
        meter.tell("b", "search", 0.25)
        meter.tell("a", "refit", 1.0)
    lines = ["compress: 0 of 2 group, b: search, 25 %", "compress: 1 of 2 group, a: refit, 100 %"]
    assert capsys.readouterr().err.splitlines() == lines
    with Meter(1, "compress", every_s=0, shown=False) as meter:
        meter.tell("a", "refit", 1.0)
    assert not capsys.readouterr().err


def test_a_terminal_gets_a_bar_that_ends_full(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Meter(2, "compress") as meter:
        for name in "ab":
            for step in range(11):
                meter.tell(name, "anneal", step / 10)
        assert abs(meter._bar.n - 2) < 1e-9
        assert "b: anneal" in str(meter._bar)
    assert "compress" in capsys.readouterr().err
